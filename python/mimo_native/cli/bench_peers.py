"""Other programs that run the model of ``mimo-native bench model``, where they are installed."""

import time
from pathlib import Path
from typing import Protocol

from ..errors import UnsupportedError
from .bench_llama import LlamaCpp
from .bench_work import WARM_TOKENS

__all__ = ["Peer", "peers_of"]


class Peer(Protocol):
    version: str

    def __call__(self, name: str) -> float:
        """Tokens per second of a piece of work, "decode B=1" say; UnsupportedError if it cannot."""


def peers_of(
    source: str, peer_model: Path | None, threads: int
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can run the model, and of the others why they cannot.

    llama.cpp needs llama-cpp-python installed and a GGUF file, transformers to be installed.
    """
    peers: dict[str, Peer] = {}
    absent: dict[str, str] = {}
    gguf = peer_model or _gguf(source)
    try:
        if gguf is None:
            raise UnsupportedError("llama.cpp", ["it needs a GGUF file: --peer-model"])
        peers["llama.cpp"] = LlamaCpp(gguf, threads, WARM_TOKENS)
    except (ImportError, UnsupportedError) as error:
        absent["llama.cpp"] = str(error)
    try:
        peers["transformers"] = _Transformers(source, threads)
    except (ImportError, UnsupportedError) as error:
        absent["transformers"] = str(error)
    return peers, absent


def _gguf(source: str) -> Path | None:
    from ..weights.smollm2 import fetch_smollm2

    path = fetch_smollm2() if source == "smollm2" else Path(source)
    return path if path.suffix == ".gguf" else None


class _Transformers:
    """The same work through transformers' model and cache, in bfloat16."""

    def __init__(self, source: str, threads: int) -> None:
        import torch
        import transformers
        from transformers import AutoModelForCausalLM

        self.version = f"transformers {transformers.__version__}"
        gguf = _gguf(source)
        where = {} if gguf is None else {"gguf_file": gguf.name}
        folder = source if gguf is None else gguf.parent
        try:
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.bfloat16, **where
            ).eval()
        except (OSError, ValueError, ImportError) as error:
            raise UnsupportedError("transformers", [str(error)]) from None
        self.clock = time.thread_time if threads == 1 else time.perf_counter

    def __call__(self, name: str) -> float:
        import torch
        from transformers import DynamicCache

        kind, size = name.split()
        batch = int(size.removeprefix("B=")) if kind == "decode" else 1
        length = WARM_TOKENS if kind == "decode" else int(size)
        ids = torch.randint(0, self.model.config.vocab_size, (batch, length))
        cache = DynamicCache(config=self.model.config)
        began = self.clock()
        out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if kind == "prefill":
            return length / (self.clock() - began)
        steps, began = 8, self.clock()
        for _ in range(steps):
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            out = self.model(ids, past_key_values=cache, use_cache=True)
        return batch * steps / (self.clock() - began)
