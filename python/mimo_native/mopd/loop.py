"""The skeleton of a post-training run: resume, step, log, score, save, stop when asked."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import backends
from ..errors import ShapeError, UnsupportedError
from ..nn import MiMoForCausalLM
from ..pretrain.run import RunResult
from ..text import Tokenizer
from ..training.balance import update_bias
from ..training.checkpoint import Checkpoints
from ..training.distributed import Ranks, start, whole_copy
from ..training.lora import attach_lora
from ..training.metrics import MetricsLog
from ..training.optimizer import StepStats
from ..training.signals import StopRequest
from ..training.state import TrainState, has_tokenizer, require_same
from ..weights.resolve import resolve_model
from .config import PostConfig
from .evaluate import answer_logprobs, require_answers, verified
from .prompts import Prompt, PromptStream, read_prompts
from .rewards import Reward, needs_answers

__all__ = ["PostRun", "in_ranks", "load_trainable", "most", "summed"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PostRun(ABC):
    """One run; what a step does is the subclass's. ``rewards``: the verifier of each domain."""

    def __init__(self, config: PostConfig, rewards: dict[str, Reward], ranks: Ranks) -> None:
        self.config, self.rewards, self.ranks = config, rewards, ranks
        if config.lora is not None and ranks.world > 1:
            raise UnsupportedError(type(config).__name__, ["adapters with several processes"])
        self.init = resolve_model(config.init)
        model = load_trainable(self.init, config)
        self.tokenizer = model.tokenizer
        self.limit = model.config.max_position_embeddings
        self.prompts = self._read(model, {n: d.prompts for n, d in config.domains.items()})
        self.heldout = self._read(
            model, {n: d.heldout for n, d in config.domains.items() if d.heldout is not None}
        )
        for name, own in self.heldout.items():
            self.require_room(name, own, sampled=name in rewards)
            if name not in rewards or needs_answers(rewards[name]):
                require_answers(own)
        self.stream = PromptStream(
            self.prompts, config.domains, per_step=config.prompts_per_step, seed=config.seed
        )
        self.prepare(model)
        if config.lora is not None:
            attach_lora(model, config.lora, seed=config.seed)
        self.state = TrainState(model, self.objective(model), config.optimizer, ranks)
        self.checkpoints = Checkpoints(
            Path(config.output) / "checkpoints",
            keep=config.save.keep,
            asynchronous=config.save.asynchronous,
        )
        self._saved = -1
        self._log: MetricsLog | None = None

    # ------------------------------------------------------------------ what a subclass gives

    @abstractmethod
    def prepare(self, model: MiMoForCausalLM) -> None:
        """Check whatever else the run needs, before anything is trained."""

    @abstractmethod
    def objective(self, model: MiMoForCausalLM) -> nn.Module:
        """The module that holds the model and is called for the loss."""

    @abstractmethod
    def one_step(self, n: int) -> dict[str, Any]:
        """Train on the prompts of step ``n``; what there is to log."""

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must agree with beside the recipe."""
        return {"prompts": {name: len(prompts) for name, prompts in self.prompts.items()}}

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint. Raises CheckpointError where it is of another run."""
        meta = self.checkpoints.meta(path)
        mine = json.loads(json.dumps({"recipe": self.config.recipe(), **self.facts()}))
        for key, value in mine.items():
            require_same(path, key, meta.get(key), value)
        self.state.load(path)
        self.state.step = self._saved = meta["step"]

    # ------------------------------------------------------------------ the run

    def run(self, *, progress: bool = False) -> RunResult:
        config, output = self.config, Path(self.config.output)
        if (latest := self.checkpoints.latest()) is not None:
            self.restore(latest)
        with ExitStack() as stack:
            if self.ranks.leader:
                output.mkdir(parents=True, exist_ok=True)
                (output / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
                total = config.steps if progress else 0
                self._log = stack.enter_context(
                    MetricsLog(output, step=self.state.step, total=total)
                )
            stop = stack.enter_context(StopRequest())
            while self.state.step < config.steps:
                self._advance()
                if stop.asked() and self.state.step < config.steps:
                    self.save()
                    self.checkpoints.wait()
                    return self._result("stopped")
            self.save()
            self.state.export(output / "final", self.init, base=config.init)
            self.checkpoints.wait()
            return self._result("finished")

    def _result(self, status: Any) -> RunResult:
        tokens = self.state.step * self.config.prompts_per_step
        return RunResult(status, self.state.step, tokens, Path(self.config.output))

    def _advance(self) -> None:
        began = time.perf_counter()
        values = self.one_step(self.state.step)
        self.state.step += 1
        step, config = self.state.step, self.config
        if self._log is not None:
            self._log.write("step", step, **values, seconds=time.perf_counter() - began)
            self._log.progress(step, f"step {step} loss {values['loss']:.4f}")
        if step == config.steps or (config.score.every and step % config.score.every == 0):
            self.score()
        if config.save.every and step % config.save.every == 0:
            self.save()

    def update(self, loads: Tensor) -> StepStats:
        """One optimizer step and one of the balancing bias, after the backward passes."""
        stats = self.state.optimizer.step(self.config.learning_rate(self.state.step))
        self.require_number("gradient", stats.grad_norm)
        if loads.numel():
            update_bias(self.state.model, loads, self.config.bias_rate)
        return stats

    def require_number(self, what: str, value: float) -> None:
        if not torch.isfinite(torch.tensor(value)):
            self.state.optimizer.zero_grad()
            raise FloatingPointError(
                f"{type(self.config).__name__}: {what}: expected a finite number at step "
                f"{self.state.step + 1}, got {value}. Nothing was saved since step "
                f"{max(self._saved, 0)}: resume from there with a lower learning rate."
            )

    # ------------------------------------------------------------------ scores and files

    def sampler(self, *, wanted: bool = True, format: str | None = None) -> MiMoForCausalLM | None:
        """A packed copy of the weights as they are, for sampling; all ranks call it together."""
        copy = whole_copy(self.state.model, wanted=wanted)
        return None if copy is None else copy.pack(format)

    def score(self) -> None:
        """Log the held-out scores of the model as it is, computed on the first rank."""
        if not self.heldout:
            return
        model = self.sampler(wanted=self.ranks.leader)
        if model is None or self._log is None:
            return
        config, domains = self.config, {}
        for name, prompts in sorted(self.heldout.items()):
            chosen = prompts[: config.score.prompts]
            if name in self.rewards:
                values = verified(
                    model,
                    chosen,
                    self.rewards[name],
                    max_new_tokens=config.max_new_tokens,
                    temperature=config.temperature,
                    seed=config.seed + 1,
                )
            else:
                values = answer_logprobs(model, chosen, temperature=config.temperature)
            spread = float(values.std(correction=1)) if len(values) > 1 else 0.0
            domains[name] = {
                "score": float(values.mean()),
                "error": spread / len(values) ** 0.5,
                "prompts": len(values),
                "of": "reward" if name in self.rewards else "log-probability",
            }
        self._log.write("score", self.state.step, domains=domains)

    def save(self) -> None:
        if self._saved != self.state.step:
            meta = {"step": self.state.step, "recipe": self.config.recipe(), **self.facts()}
            self.checkpoints.save(self.state.step, self.state.tensors(), meta)
            self._saved = self.state.step

    def _read(self, model: MiMoForCausalLM, files: dict[str, str]) -> dict[str, list[Prompt]]:
        vocab = model.config.vocab_size
        return {n: read_prompts(n, path, self.tokenizer, vocab) for n, path in files.items()}

    def require_room(
        self, domain: str, prompts: Sequence[Prompt], *, sampled: bool = False
    ) -> None:
        """Raise ShapeError for a prompt that the model's positions do not hold together with its
        own answer, or with one that is to be ``sampled``.
        """
        new = self.config.max_new_tokens
        for prompt in prompts:
            answer = new if sampled else len(prompt.answer_ids or ())
            if len(prompt.ids) + answer > self.limit:
                raise ShapeError(
                    type(self.config).__name__,
                    f"domain {domain!r}, prompt {prompt.index}",
                    expected=f"at most {self.limit} tokens with its answer, the model's positions",
                    got=f"{len(prompt.ids)} and {answer}",
                )


def load_trainable(path: Path, config: PostConfig) -> MiMoForCausalLM:
    """The checkpoint as trainable parameters, with its tokenizer where it has one."""
    dtype = _DTYPES[config.dtype]
    model = MiMoForCausalLM.from_pretrained(path, dtype=dtype).unpack().to(dtype)
    if has_tokenizer(path):
        model.tokenizer = Tokenizer.from_pretrained(path)
    return model.requires_grad_(True)


def summed(tensor: Tensor) -> Tensor:
    """Over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def most(count: int) -> int:
    """The largest count over all ranks: they run equally many passes."""
    if not dist.is_initialized():
        return count
    largest = torch.tensor(count)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def in_ranks(config: PostConfig, build: Any, *, progress: bool) -> RunResult:
    """Join the ranks, build the run with them, run it, and leave."""
    outside = dist.is_initialized()
    ranks = start(config.expert_parallel)
    with ExitStack() as stack:
        if dist.is_initialized() and not outside:
            stack.callback(dist.destroy_process_group)
        stack.enter_context(backends.use(config.backend))
        return build(ranks).run(progress=progress)
