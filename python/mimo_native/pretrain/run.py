"""The training loop: plan, rows, losses, step, bias, log, evaluate, save."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from .. import backends
from ..errors import UnsupportedError
from ..training.balance import routers, update_bias
from ..training.batch import MicroBatch, micro_batches
from ..training.checkpoint import Checkpoints
from ..training.data import HiddenFile, Mixture, TokenFile, store_hidden
from ..training.distributed import Ranks, full_model, start
from ..training.forward import hidden_states
from ..training.metrics import MetricsLog
from ..training.optimizer import StepStats
from ..training.schedule import StepPlan
from ..training.signals import StopRequest
from ..weights.mtp_heads import trunk_digest
from .config import PretrainConfig
from .estimate import forward_flops
from .evaluate import evaluate, overall
from .objective import Totals, Weights
from .state import RunState

__all__ = ["RunResult", "run"]


@dataclass(frozen=True)
class RunResult:
    """How a run ended: "finished", or "stopped" by a signal after saving."""

    status: Literal["finished", "stopped"]
    step: int
    tokens: int
    output: Path


def run(config: PretrainConfig, *, progress: bool = False) -> RunResult:
    """Train as ``config`` says, from the newest checkpoint in its output if there is one.

    Writes config.json, metrics.jsonl, checkpoints/, and in the hub's layout final/ and, where there
    is held-out text, best/. Under torchrun every process calls it. Raises ShapeError or
    CheckpointError for a wrong configuration or corpus before training, CheckpointError where a
    checkpoint cannot be written, FloatingPointError for a loss or a gradient that is no number;
    checkpoints are then as they were.
    """
    outside = dist.is_initialized()  # then the process group is the caller's to close
    ranks = start(config.expert_parallel)
    output = Path(config.output)
    with ExitStack() as stack:
        if dist.is_initialized() and not outside:
            stack.callback(dist.destroy_process_group)
        stack.enter_context(backends.use(config.backend))
        files = {name: TokenFile(Path(path) / "train") for name, path in config.data.items()}
        if config.cache_hidden and ranks.world > 1:
            raise UnsupportedError("pretrain", ["cache_hidden with several processes"])
        state = RunState(config, ranks, files)
        checkpoints = Checkpoints(
            output / "checkpoints", keep=config.save.keep, asynchronous=config.save.asynchronous
        )
        if (latest := checkpoints.latest()) is not None:
            state.restore(latest)
        log = None
        if ranks.leader:
            output.mkdir(parents=True, exist_ok=True)
            (output / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
            total = config.schedule.tokens if progress else 0
            log = stack.enter_context(MetricsLog(output, step=state.step, total=total))
        stop = stack.enter_context(StopRequest())
        loop = _Loop(state, files, checkpoints, log)
        while (plan := config.schedule.plan(state.tokens)) is not None:
            loop.advance(plan)
            if stop.asked() and config.schedule.plan(state.tokens) is not None:
                loop.save()
                checkpoints.wait()
                return RunResult("stopped", state.step, state.tokens, output)
        loop.finish()
        checkpoints.wait()
        return RunResult("finished", state.step, state.tokens, output)


class _Loop:
    """One step after another; everything it remembers is in the state."""

    def __init__(
        self,
        state: RunState,
        files: Mapping[str, TokenFile],
        checkpoints: Checkpoints,
        log: MetricsLog | None,
    ) -> None:
        self.state, self.files, self.checkpoints, self.log = state, files, checkpoints, log
        self.ranks: Ranks = state.ranks
        self.config = state.config
        self._hidden = self._stored() if self.config.cache_hidden else None
        self._mixture: tuple[int, Mixture] | None = None
        self._saved = self._evaluated = state.step if state.step else -1

    def _stored(self) -> dict[str, HiddenFile]:
        """The frozen trunk's states at every token of every corpus, computed where they lack."""
        model, digest = self.state.model, trunk_digest(self.state.model.named_parameters())
        width = model.config.hidden_size
        return {
            name: store_hidden(file, partial(hidden_states, model), trunk=digest, width=width)
            for name, file in self.files.items()
        }

    def advance(self, plan: StepPlan) -> None:
        began = time.perf_counter()
        state, stage = self.state, plan.stage
        state.enter(stage)
        batches = self._batches(plan)
        sums, loads, stats = self._step(batches, plan)
        state.step += 1
        state.tokens += plan.tokens
        if self.log is not None:
            self._write(plan, sums, loads, stats, time.perf_counter() - began)
        every = self.config.eval.every
        if every and state.step % every == 0:
            self.evaluate(stage.seq_len)
        every = self.config.save.every
        if every and state.step % every == 0:
            self.save()

    def _batches(self, plan: StepPlan) -> list[MicroBatch]:
        if self._mixture is None or self._mixture[0] != plan.index:
            stage = plan.stage
            mixture = Mixture(
                self.files,
                stage.mixture,
                seq_len=stage.seq_len,
                seed=self.config.seed,
                stage=plan.index,
                hidden=self._hidden,
            )
            self._mixture = (plan.index, mixture)
        return micro_batches(
            [self._mixture[1].row(n) for n in range(plan.row, plan.row + plan.rows)],
            micro_rows=self.config.micro_rows,
            vocab_size=self.state.model.config.vocab_size,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )

    def _step(
        self, batches: list[MicroBatch], plan: StepPlan
    ) -> tuple[dict[str, float | list[float]], Tensor, StepStats]:
        state = self.state
        heads = len(state.model.model.mtp.layers)
        counts = _summed(Totals.count(batches, heads))
        totals = Totals.of(counts)
        weights = Weights(plan.stage.mtp_weight, plan.stage.aux_coefficient)
        sums, loads = torch.zeros(2 + heads, dtype=torch.float64), torch.zeros(0)
        for batch in batches:
            losses = state.objective(batch, totals, weights)
            losses.loss.backward()
            state.optimizer.accumulate()
            sums += torch.cat([losses.main[None], losses.aux[None], losses.mtp]).double()
            loads = losses.counts if loads.numel() == 0 else loads + losses.counts
        sums = _summed(sums)
        main, aux = float(sums[0]) / totals.main, float(sums[1]) / totals.rows
        mtp = [s / n for s, n in zip(sums[2:].tolist(), totals.mtp, strict=True)]
        self._require_number("loss", main + aux + sum(mtp))
        stats = state.optimizer.step(plan.lr)
        self._require_number("gradient", stats.grad_norm)
        # A frozen trunk keeps its routing: nothing is there to balance.
        rate = 0.0 if self.config.mtp_only else plan.stage.bias_rate
        loads = update_bias(state.model, loads, rate)
        # With stored states no trunk ran, and there is no loss of its to report.
        trunks = {} if self._hidden is not None else {"loss": main, "aux": aux}
        return trunks | {"mtp": mtp}, loads, stats

    def _require_number(self, what: str, value: float) -> None:
        if not torch.isfinite(torch.tensor(value)):
            self.state.optimizer.zero_grad()
            raise FloatingPointError(
                f"pretrain: {what}: expected a finite number at step {self.state.step + 1}, "
                f"got {value}. Nothing was saved since step {max(self._saved, 0)}: resume from "
                "there with a lower learning rate, or other data."
            )

    def _write(
        self,
        plan: StepPlan,
        sums: dict[str, float | list[float]],
        loads: Tensor,
        stats: StepStats,
        seconds: float,
    ) -> None:
        assert self.log is not None
        state = self.state
        balance: dict[str, object] = {}
        if loads.numel():
            balance["load_max_over_mean"] = float((loads.amax(1) / loads.double().mean(1)).max())
            biases = [r.e_score_correction_bias for r in routers(state.model)]
            balance["bias_range"] = float(max(b.max() - b.min() for b in biases))
            if state.step % self.config.loads_every == 0:
                balance["loads"] = loads.tolist()
        if not self.config.mtp_only:
            flops = 3 * forward_flops(state.model.config, plan.stage.seq_len) * plan.tokens
            balance["gflops"] = flops / seconds / 1e9
        self.log.write(
            "step",
            state.step,
            stage=plan.stage.name,
            tokens=state.tokens,
            rows=plan.rows,
            lr=plan.lr,
            **sums,
            grad_norm=stats.grad_norm,
            zero_grads=stats.num_zeros / stats.size,
            **balance,
            seconds=seconds,
            tokens_per_second=plan.tokens / seconds,
        )
        heads = sums["mtp"]
        shown = sums["loss"] if "loss" in sums else sum(heads) / len(heads)
        self.log.progress(state.tokens, f"{plan.stage.name} step {state.step} loss {shown:.3f}")

    def evaluate(self, seq_len: int) -> None:
        """Score the held-out text on the first rank, and keep the best model so far."""
        state, config = self.state, self.config
        self._evaluated = state.step
        heldout = {
            name: TokenFile(Path(path) / "heldout")
            for name, path in config.data.items()
            if (Path(path) / "heldout").is_dir()
        }
        if not heldout:
            return
        whole = full_model(state.model, self.ranks)
        better = torch.zeros(())
        if whole is not None and self.log is not None:
            scores = evaluate(whole, heldout, config.eval, seq_len=seq_len, seed=config.seed)
            means = overall(scores)
            self.log.write(
                "eval", state.step, **means, domains={n: s.to_dict() for n, s in scores.items()}
            )
            # With MTP heads the longest acceptance is best, else the lowest loss.
            value = means["accept_length"] or -means["loss"]
            if value > state.best.get("value", float("-inf")):
                state.best = {"value": value, "step": state.step}
                better = torch.ones(())
        if bool(_summed(better)):
            state.export(Path(config.output) / "best", config.tokenizer, base=config.init)

    def save(self) -> None:
        if self._saved != self.state.step:
            self.checkpoints.save(self.state.step, self.state.tensors(), self.state.meta())
            self._saved = self.state.step

    def finish(self) -> None:
        """After the last step: evaluate and save if that step did not, and export final/."""
        if self._evaluated != self.state.step:
            self.evaluate(self.config.schedule.stages[-1].seq_len)
        self.save()
        config = self.config
        self.state.export(Path(config.output) / "final", config.tokenizer, base=config.init)


def _summed(tensor: Tensor) -> Tensor:
    """Over all ranks."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
