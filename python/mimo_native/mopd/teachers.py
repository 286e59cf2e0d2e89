"""Teachers: any number, one in memory at a time, each scoring the rollouts of its domains."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import ops
from ..config import MiMoConfig
from ..errors import CheckpointError, ShapeError
from ..nn import MiMoForCausalLM
from ..ops import PackedWeight
from ..training.forward import packed, trunk
from ..training.lora_files import is_lora, load_lora
from ..weights.resolve import resolve_model
from .batch import pack_answers, split
from .config import MopdConfig
from .rollout import Rollout

__all__ = ["Head", "Teachers"]

Head = torch.Tensor | PackedWeight


class Teachers:
    """The teachers that a run's domains name, found and identified but not loaded.

    A directory with an adapter adapts the model at ``config.init``.

    manifest: {name: sha256 of configuration, weights and tokenizer}. Raises CheckpointError for one
    that is not there or has another tokenizer, ShapeError for another vocabulary.
    """

    def __init__(self, config: MopdConfig, student: MiMoForCausalLM) -> None:
        self._config = config
        self._dtype = student.dtype
        paths = dict(config.teachers) | {"self": config.init}
        used = {d.teacher for d in config.domains.values() if d.teacher is not None}
        self._paths = {name: _find(name, paths[name]) for name in sorted(used)}
        self._home = home = resolve_model(config.init)
        for name, path in self._paths.items():
            if not is_lora(path):
                _require_same_text(name, path, home, student)
        self.manifest = {name: self._identity(path) for name, path in self._paths.items()}

    def score(self, rollouts: Sequence[Rollout]) -> dict[str, Head]:
        """Fill in what the loss needs of each rollout's teacher; that teacher is loaded once.

        Returns the teachers' heads where the form of the loss compares distributions.
        """
        heads: dict[str, Head] = {}
        for name, path in self._paths.items():
            mine = [r for r in rollouts if self._config.domains[r.prompt.domain].teacher == name]
            if mine:
                head = self._score(path, mine)  # the teacher itself is let go of in there
                if self._config.loss.form != "sampled":
                    heads[name] = head
        return heads

    def _identity(self, path: Path) -> str:
        """An adapter is nothing without the model that it adapts."""
        own = _digest(path)
        return f"{own} on {_digest(self._home)}" if is_lora(path) else own

    def _load(self, path: Path) -> MiMoForCausalLM:
        if not is_lora(path):
            return MiMoForCausalLM.from_pretrained(path, dtype=self._dtype)
        model = MiMoForCausalLM.from_pretrained(self._home, dtype=self._dtype).unpack()
        load_lora(model, path)
        return model.pack()

    @torch.no_grad()
    def _score(self, path: Path, rollouts: Sequence[Rollout]) -> Head:
        config = self._config
        model = self._load(path)
        for group in split(rollouts, lambda r: len(r.fed), config.micro_tokens):
            batch = pack_answers([(r.prompt.ids, r.tokens) for r in group])
            hidden = trunk(model, batch.ids, packed(batch.cu_seqlens)).hidden
            normed = model.model.norm(hidden[batch.rows])
            scores = ops.linear_logprob(
                normed, model.head.weight, batch.targets, temperature=config.temperature
            )
            sizes = batch.answers.tolist()
            for rollout, score, h in zip(
                group, scores.split(sizes), normed.split(sizes), strict=True
            ):
                rollout.teacher = score
                if config.loss.form != "sampled":
                    rollout.teacher_hidden = h
        return model.head.weight


def _find(name: str, path: str) -> Path:
    if is_lora(path):
        return Path(path)
    try:
        return resolve_model(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"mopd: teacher {name!r}", path, expected=error.expected, got=error.got
        ) from None


def _digest(path: Path) -> str:
    """Over the names and contents of a checkpoint's files."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        if file.suffix not in (".json", ".safetensors", ".gguf"):
            continue
        digest.update(file.name.encode() + b"\0")
        content = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                content.update(block)
        digest.update(content.digest())
    return digest.hexdigest()


def _require_same_text(name: str, path: Path, home: Path, student: MiMoForCausalLM) -> None:
    if path.suffix == ".gguf":
        return
    vocab, mine = MiMoConfig.from_pretrained(path).vocab_size, student.config.vocab_size
    if vocab != mine:
        raise ShapeError(
            "mopd",
            f"teacher {name!r}",
            expected=f"the student's vocabulary of {mine}",
            got=str(vocab),
            remedy="A teacher must read the student's own tokens.",
        )
    ours, theirs = home / "tokenizer.json", path / "tokenizer.json"
    if ours.is_file() and theirs.is_file() and ours.read_bytes() != theirs.read_bytes():
        raise CheckpointError(
            str(theirs), "tokenizer", expected="the student's", got="another of the same size"
        )
