"""llama.cpp, through llama-cpp-python, doing the work of ``mimo-native bench model``."""

import ctypes
import time
from pathlib import Path

from ..errors import UnsupportedError

__all__ = ["LlamaCpp"]

_CHUNK = 512  # tokens of one pass of a prefill, as ours


class LlamaCpp:
    """A GGUF file in llama.cpp; called with a piece of work, it returns tokens per second.

    Raises ImportError where llama-cpp-python is not installed, UnsupportedError where it refuses
    the file. What it loads stays until the process ends.
    """

    steps = 32

    def __init__(self, file: Path, threads: int, warm_tokens: int) -> None:
        import llama_cpp

        self.api, self.threads, self.warm_tokens = llama_cpp, threads, warm_tokens
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self._silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silence, None)
        options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        if self.model is None:
            raise UnsupportedError("llama.cpp", [f"it does not load {file}"])
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.contexts: dict[int, object] = {}  # by the number of sequences
        self.clock = time.thread_time if threads == 1 else time.perf_counter

    def __call__(self, name: str) -> float:
        kind, size = name.split()
        if kind == "prefill":
            return self._prefill(int(size))
        return self._decode(int(size.removeprefix("B=")))

    def _context(self, sequences: int) -> object:
        """An empty one."""
        api = self.api
        if sequences not in self.contexts:
            options = api.llama_context_default_params()
            options.n_ctx = 2048 if sequences == 1 else sequences * 256
            options.n_batch = options.n_ubatch = _CHUNK
            options.n_seq_max = sequences
            options.n_threads = options.n_threads_batch = self.threads
            self.contexts[sequences] = api.llama_init_from_model(self.model, options)
        context = self.contexts[sequences]
        api.llama_memory_clear(api.llama_get_memory(context), True)
        return context

    def _prefill(self, tokens: int) -> float:
        context, ids = self._context(1), self._random(tokens)
        began = self.clock()
        for first in range(0, tokens, _CHUNK):
            count = min(_CHUNK, tokens - first)
            part = (ctypes.c_int32 * count)(*ids[first : first + count])
            self._run(context, self.api.llama_batch_get_one(part, count))
        self.api.llama_synchronize(context)
        return tokens / (self.clock() - began)

    def _decode(self, sequences: int) -> float:
        """Greedy decoding of all sequences, a token of each per pass."""
        import numpy as np

        context, api = self._context(sequences), self.api
        batch = api.llama_batch_init(sequences * self.warm_tokens, 0, 1)

        def feed(columns: list[list[int]], position: int) -> list[int]:
            """Columns of a token per sequence; the likeliest next token of each."""
            batch.n_tokens = 0
            for offset, column in enumerate(columns):
                for sequence, token in enumerate(column):
                    at = batch.n_tokens
                    batch.token[at], batch.pos[at] = token, position + offset
                    batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                    batch.logits[at] = offset == len(columns) - 1
                    batch.n_tokens += 1
            self._run(context, batch)
            logits = api.llama_get_logits(context)
            return np.ctypeslib.as_array(logits, (sequences, self.vocab_size)).argmax(-1).tolist()

        ids = feed([self._random(sequences) for _ in range(self.warm_tokens)], 0)
        began = self.clock()
        for step in range(self.steps):
            ids = feed([ids], self.warm_tokens + step)
        seconds = self.clock() - began
        api.llama_batch_free(batch)
        return sequences * self.steps / seconds

    def _run(self, context: object, batch: object) -> None:
        status = self.api.llama_decode(context, batch)
        if status != 0:
            raise UnsupportedError("llama.cpp", [f"llama_decode returned {status}"])

    def _random(self, count: int) -> list[int]:
        import torch

        return torch.randint(0, self.vocab_size, (count,)).tolist()
