"""Other programs that run the model of ``mimo-native bench model``, where they are installed."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import UnsupportedError

__all__ = ["WARM_TOKENS", "Peer", "peers_of"]

WARM_TOKENS = 16  # already in the cache when decoding starts

# From the name of a piece of work, "decode B=1" or "prefill 512", to tokens per second.
Peer = Callable[[str], float]


def peers_of(
    source: str, peer_model: Path | None, threads: int
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can run the model, and of the others why they cannot.

    llama.cpp needs llama-bench on the PATH and a GGUF file, transformers to be installed.
    """
    peers: dict[str, Peer] = {}
    absent: dict[str, str] = {}
    program, gguf = shutil.which("llama-bench"), peer_model or _gguf(source)
    if program and gguf:
        peers["llama.cpp"] = lambda name: _llama_bench(program, gguf, threads, name)
    else:
        absent["llama.cpp"] = "it needs " + (
            "a GGUF file: --peer-model" if program else "llama-bench on the PATH"
        )
    try:
        peers["transformers"] = _Transformers(source, threads)
    except (ImportError, UnsupportedError) as error:
        absent["transformers"] = str(error)
    return peers, absent


def _gguf(source: str) -> Path | None:
    from ..weights.smollm2 import fetch_smollm2

    path = fetch_smollm2() if source == "smollm2" else Path(source)
    return path if path.suffix == ".gguf" else None


def _llama_bench(program: str, model: Path, threads: int, name: str) -> float:
    """Tokens per second of one run: -p or -n tokens; llama-bench has no batch of sequences."""
    kind, size = name.split()
    if kind == "decode" and size != "B=1":
        raise UnsupportedError("llama-bench", ["it decodes one sequence"])
    work = ["-p", "0", "-n", "32"] if kind == "decode" else ["-p", size, "-n", "0"]
    command = [program, "-m", str(model), "-t", str(threads), "-o", "json", "-r", "1", *work]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]["avg_ts"]


class _Transformers:
    """The same work through transformers' model and cache, in bfloat16."""

    def __init__(self, source: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

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
