"""Problems of sample."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..case import FLOATS, Case, normal
from ..tolerance import UNIT_ROUNDOFF

__all__ = ["BENCHMARKS", "CASES", "SampleCase"]

C = 4.0  # the sum of exponentials is in float64; the terms and the result may be float32


@dataclass(frozen=True, kw_only=True)
class SampleCase(Case):
    """The values of a control are dealt to the rows in turn; an empty tuple is None."""

    op: ClassVar[str] = "sample"
    rows: int
    vocab: int
    temperature: tuple[float, ...] = ()
    top_k: tuple[int, ...] = ()
    top_p: tuple[float, ...] = ()
    min_p: tuple[float, ...] = ()
    repetition_penalty: tuple[float, ...] = ()
    presence_penalty: tuple[float, ...] = ()
    frequency_penalty: tuple[float, ...] = ()
    history: int = 0
    data: str = "normal"  # "ties": few distinct logits; "masked": most are -inf; "one_hot"

    def make(self, seed: int = 0) -> dict[str, object]:
        gen = torch.Generator().manual_seed(seed)
        args: dict[str, object] = {
            "logits": self.make_logits(seed).to(self.dtype),
            "seed": torch.randint(-(2**62), 2**62, (self.rows,), generator=gen),
            "position": torch.randint(0, 2**34, (self.rows,), generator=gen),
        }
        for name in ("temperature", "top_k", "top_p", "min_p"):
            args[name] = self.control(name)
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            args[name] = self.control(name)
        if self.history:
            size = (self.rows, self.history)
            ids = torch.randint(self.vocab, size, generator=gen, dtype=torch.int32)
            ids[:, 1::3] = ids[:, ::3][:, : ids[:, 1::3].shape[1]]  # repeat some
            filled = torch.randint(self.history + 1, (self.rows, 1), generator=gen)
            args["history"] = ids.masked_fill(torch.arange(self.history) >= filled, -1)
            args["prompt_lens"] = (filled[:, 0] // 2).int()
        return args

    def control(self, name: str) -> Tensor | None:
        values = getattr(self, name)
        if not values:
            return None
        dtype = torch.int32 if name == "top_k" else torch.float32
        turns = (self.rows + len(values) - 1) // len(values)
        return torch.tensor(values, dtype=dtype).repeat(turns)[: self.rows]

    def make_logits(self, seed: int) -> Tensor:
        logits = normal(self.rows, self.vocab, seed=seed, dtype=torch.float32, std=2.0)
        if self.data == "ties":
            return (logits / 2).round() / 2
        if self.data == "masked":
            hidden = normal(self.rows, self.vocab, seed=seed + 1, dtype=torch.float32) < 1.0
            hidden[:, self.vocab // 2] = False
            return logits.masked_fill(hidden, -torch.inf)
        if self.data == "one_hot":
            logits[:, self.vocab - 1] = 1000.0
        return logits

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor | float, ...]:
        logits, ids = args["logits"], want[0]
        temperature = args["temperature"]
        t = torch.ones(self.rows).double() if temperature is None else temperature.clone()
        t[t == 0] = 1.0
        z = logits / t[:, None]
        sizes = z.gather(-1, ids[:, None])[:, 0].abs() + z.logsumexp(-1).abs() + 1.0
        return 0.0, C * UNIT_ROUNDOFF[torch.float32] * sizes

    @property
    def flops(self) -> int:
        return 4 * self.rows * self.vocab

    @property
    def bytes(self) -> int:
        return self.rows * self.vocab * self.dtype.itemsize


_ALL = {
    "temperature": (0.7, 1.0, 0.0, 1.9),
    "top_k": (0, 5, 40),
    "top_p": (0.9, 1.0, 0.5, 0.99, 0.2),
    "min_p": (0.0, 0.05),
}
_PENALTIES = {
    "repetition_penalty": (1.0, 1.3, 0.8),
    "presence_penalty": (0.0, 0.7),
    "frequency_penalty": (0.3, 0.0, -0.2),
    "history": 21,
}

CASES = [
    *(SampleCase(rows=n, vocab=v, dtype=t)
      for n, v in ((0, 5), (1, 1), (1, 2), (3, 17), (64, 100), (5, 4001)) for t in FLOATS),
    *(SampleCase(rows=60, vocab=50, data=data, dtype=t)
      for data in ("ties", "masked", "one_hot") for t in FLOATS),
    *(SampleCase(rows=60, vocab=97, data=data, **{name: values})
      for name, values in _ALL.items() for data in ("normal", "ties", "masked")),
    *(SampleCase(rows=120, vocab=v, data=data, dtype=t, **_ALL)
      for v, data in ((33, "ties"), (700, "normal"), (100, "masked")) for t in FLOATS),
    *(SampleCase(rows=60, vocab=40, history=21, **{name: values})
      for name, values in _PENALTIES.items() if name != "history"),
    *(SampleCase(rows=120, vocab=v, data=data, dtype=t, **_ALL, **_PENALTIES)
      for v, data in ((40, "ties"), (300, "normal"), (100, "masked")) for t in FLOATS),
    SampleCase(rows=40, vocab=64, temperature=(0.0,), data="ties"),
    SampleCase(rows=40, vocab=64, temperature=(1e-4, 1e4)),
    SampleCase(rows=40, vocab=64, top_k=(1, 63, 64, 1000)),
    SampleCase(rows=40, vocab=64, top_p=(0.0, 1e-6, 1.0)),
    SampleCase(rows=40, vocab=64, min_p=(1.0, 1e-6, 0.0)),
]  # fmt: skip

BENCHMARKS = [
    *(SampleCase(rows=n, vocab=152_576, dtype=torch.float32) for n in (1, 8)),
    *(SampleCase(rows=n, vocab=152_576, temperature=(0.0,)) for n in (1, 8)),
    *(SampleCase(rows=n, vocab=152_576, temperature=(0.8,), top_p=(0.95,)) for n in (1, 8)),
    *(SampleCase(rows=n, vocab=152_576, temperature=(0.8,), top_k=(40,)) for n in (1, 8)),
]
