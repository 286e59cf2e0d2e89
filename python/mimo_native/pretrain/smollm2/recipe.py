"""From SmolLM2 as it is fetched to three MTP heads in a directory of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...loading import load
from ...training.schedule import Piece, Schedule, Stage
from ...weights.mtp_heads import save_heads
from ..config import EvalConfig, PretrainConfig, SaveConfig
from ..run import RunResult, run
from ..state import build_model
from .corpora import DOMAINS, write_tokens

__all__ = ["build", "smollm2_runs"]

# With so few tokens to learn from, many small steps bring more than few large ones.
_HEADS, _WINDOW, _SEQ_LEN, _BATCH = 3, 129, 512, 1
_MIXTURE = {
    "scripts": 0.36,
    "lists": 0.14,
    "chat": 0.25,
    "code": 0.08,
    "prose": 0.05,
    "records": 0.04,
    "logs": 0.04,
    "tables": 0.04,
}


def smollm2_runs(
    output: str | Path, *, tokens: int = 600_000, joint_tokens: int = 1_200_000, seed: int = 0
) -> tuple[PretrainConfig, ...]:
    """One head alone, then its three copies jointly, on the same stored states of the trunk."""
    output = Path(output)
    common = {
        "data": {name: str(output / "tokens" / name) for name in DOMAINS},
        "mtp_only": True,
        "cache_hidden": True,
        "cut_vocabulary": True,
        "vocabulary": 4096,
        "distill": 8,
        "dtype": "bfloat16",
        "micro_rows": _BATCH,
        "seed": seed,
        "save": SaveConfig(every=500, keep=1),
        # What the heads are worth is measured on packed weights afterwards.
        "eval": EvalConfig(rows=1, prompts=0),
    }
    one = PretrainConfig(
        output=str(output / "one"),
        init="smollm2",
        mtp_window=_WINDOW,
        schedule=Schedule((_stage("one head", tokens, 2e-3, 5e-4),)),
        **common,
    )
    joint = PretrainConfig(
        output=str(output / "joint"),
        init=str(output / "one" / "final"),
        mtp_heads=_HEADS,
        schedule=Schedule((_stage("three heads", joint_tokens, 1.5e-3, 5e-5),)),
        **common,
    )
    return one, joint


def _stage(name: str, tokens: int, peak: float, end: float) -> Stage:
    warm = tokens // 20
    return Stage(
        name=name,
        tokens=tokens,
        seq_len=_SEQ_LEN,
        batch=_BATCH,
        lr=(Piece("linear", warm, peak), Piece("cosine", tokens - warm, end)),
        mixture=_MIXTURE,
        mtp_weight=1.0,
        bias_rate=0.0,
        aux_coefficient=0.0,
    )


def build(
    output: str | Path,
    *,
    tokens: int = 600_000,
    joint_tokens: int = 1_200_000,
    seed: int = 0,
    scale: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> RunResult:
    """Corpora, stored states, all runs, and the heads in ``output``/heads; continues a cut run."""
    output = Path(output)
    say = progress or (lambda line: None)
    model, tokenizer = load("smollm2")
    write_tokens(model, tokenizer, output / "tokens", seed=seed, scale=scale, progress=say)
    del model
    result = None
    runs = smollm2_runs(output, tokens=tokens, joint_tokens=joint_tokens, seed=seed)
    for config in runs:
        result = run(config, progress=progress is not None)
        if result.status != "finished":
            return result
    assert result is not None
    trained = replace(runs[-1], init=str(Path(runs[-1].output) / "final"))
    save_heads(build_model(trained), output / "heads")
    say(f"heads: {output / 'heads'}")
    return result
