"""How many drafted tokens are accepted, against how certain the text is.

The report fits tokens per round with three heads to y = 4 (1 - 0.58 x^0.58), x the next-token
cross-entropy in nats, on benchmarks of 0.05 < x < 0.35. Beyond x = 0.35 the formula says nothing,
and above 2.5 it is negative, while a round never yields less than one token.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ShapeError
from ..nn import MiMoForCausalLM
from ..text import Tokenizer
from ..training.data import TokenFile, TokenWriter
from ..training.data.prepare import is_heldout
from ..training.plot import canvas, save_figure
from .config import EvalConfig
from .evaluate import evaluate
from .nano.corpora import DOMAINS
from .nano.recipe import HELDOUT

__all__ = ["FITTED_UP_TO", "AcceptancePoint", "draw", "measure", "report_fit", "write_heldout"]

FITTED_UP_TO = 0.35


def report_fit(nats: float) -> float:
    """Tokens per round by the report's formula, which was fitted below ``FITTED_UP_TO``."""
    return 4 * (1 - 0.58 * nats**0.58)


@dataclass(frozen=True)
class AcceptancePoint:
    """One domain: its cross-entropy under the main head, and tokens per round of K drafts.

    text_length    where the held-out text itself is what gets accepted, at every position
    sample_length  along continuations sampled at temperature 1, as lossless speculation would go
    acceptance     share of rounds in which heads 0 .. k are all accepted, along these
    """

    domain: str
    nats_per_token: float
    nats_per_byte: float
    text_length: float
    sample_length: float
    acceptance: tuple[float, ...]

    @property
    def report(self) -> float | None:
        """What the report's formula gives here; None beyond its range."""
        nats = self.nats_per_token
        return report_fit(nats) if nats < FITTED_UP_TO else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"report": self.report}


def measure(
    model: MiMoForCausalLM,
    heldout: Mapping[str, TokenFile],
    *,
    rows: int = 16,
    seq_len: int = 512,
    prompts: int = 16,
    prompt_tokens: int = 64,
    new_tokens: int = 96,
    seed: int = 0,
) -> list[AcceptancePoint]:
    """A point per domain, in the order of their cross-entropy. Raises ShapeError without heads."""
    if not model.config.num_mtp_layers:
        raise ShapeError("acceptance", "model", expected="MTP heads", got="none")
    config = EvalConfig(
        rows=rows, prompts=prompts, prompt_tokens=prompt_tokens, new_tokens=new_tokens
    )
    scores = evaluate(model, heldout, config, seq_len=seq_len, seed=seed)
    points = [
        AcceptancePoint(name, s.loss, s.loss_per_byte, s.text_length, s.accept_length, s.acceptance)
        for name, s in scores.items()
    ]
    return sorted(points, key=lambda point: point.nats_per_token)


def write_heldout(
    tokenizer: Tokenizer, folder: str | Path, *, vocab_size: int, tokens: int = 16_000
) -> dict[str, TokenFile]:
    """nano's held-out documents of every domain in the model's tokens, about ``tokens`` of each.

    Which documents nano was not trained on follows from their numbers; of prose and code that is
    true for the version of Python whose library it saw.
    """
    files = {}
    for name, (documents, _) in DOMAINS.items():
        path, written = Path(folder) / name, 0
        with TokenWriter(path, vocab_size=vocab_size) as writer:
            for index, text in enumerate(documents(random.Random(f"{name} 0"))):
                if not is_heldout(index, HELDOUT):
                    continue
                ids = tokenizer.encode(text)
                writer.add(ids, text_bytes=len(text.encode()))
                written += len(ids)
                if written >= tokens:
                    break
        files[name] = TokenFile(path)
    return files


def draw(series: Mapping[str, list[AcceptancePoint]], target: str | Path) -> Path:
    """Tokens per round of each model's domains, beside the report's curve over its range."""
    figure = canvas(12, 4.5)
    left, right = figure.subplots(1, 2, sharey=True)
    xs = [FITTED_UP_TO * (n + 1) / 100 for n in range(100)]
    left.plot(xs, [report_fit(x) for x in xs], color="black", label="4 (1 - 0.58 x^0.58), x < 0.35")
    for number, (name, points) in enumerate(series.items()):
        colour = f"C{number}"
        for axis, key in ((left, "nats_per_token"), (right, "nats_per_byte")):
            x = [getattr(p, key) for p in points]
            axis.plot(x, [p.sample_length for p in points], "o-", color=colour, linewidth=0.7,
                      label=f"{name}, sampled at T = 1")  # fmt: skip
            axis.plot(x, [p.text_length for p in points], "x--", color=colour, linewidth=0.7,
                      label=f"{name}, held-out text")  # fmt: skip
            for point in points:
                at = (getattr(point, key), point.sample_length)
                axis.annotate(point.domain, at, xytext=(4, 4), textcoords="offset points",
                              fontsize="x-small")  # fmt: skip
    left.set_xlabel("next-token cross-entropy, nats per token")
    right.set_xlabel("nats per byte")
    left.set_ylabel("tokens per round, 3 heads")
    left.legend(fontsize="small")
    return save_figure(figure, Path(target))
