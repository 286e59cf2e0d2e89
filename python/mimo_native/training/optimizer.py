"""AdamW as in the report, with float32 master weights, clipping and the num-zeros count.

beta 0.9 and 0.95, weight decay 0.1 on matrices only, gradients clipped at a global norm of 1. Muon
may take the matrices inside the layers instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ShapeError
from .muon import muon_step

__all__ = ["Optimizer", "OptimizerConfig", "StepStats"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and clipping; the learning rate belongs to the schedule.

    kind       "muon" takes the matrices inside the layers from AdamW, see ``training.muon``
    momentum   of Muon
    """

    kind: Literal["adamw", "muon"] = "adamw"
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.kind not in ("adamw", "muon") or not 0 <= self.momentum < 1:
            raise ShapeError(
                "OptimizerConfig",
                "kind, momentum",
                expected="adamw or muon, a momentum in [0, 1)",
                got=f"{self.kind}, {self.momentum}",
            )
        if not (all(0 <= b < 1 for b in self.betas) and self.eps > 0 and self.weight_decay >= 0):
            raise ShapeError(
                "OptimizerConfig",
                "betas, eps, weight_decay",
                expected="betas in [0, 1), eps > 0, weight_decay >= 0",
                got=f"{self.betas}, {self.eps}, {self.weight_decay}",
            )

    def recipe(self) -> dict[str, Any]:
        """Plain values; without Muon those of checkpoints from before it, so that they resume."""
        content = asdict(self) | {"betas": list(self.betas)}
        if self.kind == "adamw":
            del content["kind"], content["momentum"]
        return content


class StepStats(NamedTuple):
    """grad_norm before clipping; num_zeros: gradient elements that are exactly zero, of ``size``.

    A rising share of zeros means that experts starve, a falling one overfitting (section 4.2).
    """

    grad_norm: float
    num_zeros: int
    size: int


class Optimizer:
    """Trains the named parameters that require a gradient.

    A parameter narrower than float32 has a float32 master here, which the update changes and the
    parameter follows; gradients of several micro-batches add up in the master's dtype. Sharded
    parameters (DTensor) are updated shard by shard.

    matrices: the rows of the matrices in each parameter that Muon may take, by name.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        *,
        matrices: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.config, self._matrices = config, dict(matrices or {})
        self.params = {name: p for name, p in named if p.requires_grad}
        if not self.params:
            raise ShapeError(
                "Optimizer", "parameters", expected="at least one that is trained", got="none"
            )
        self.masters = {name: _master(p) for name, p in self.params.items()}
        self._momenta = {
            name: torch.zeros_like(master)
            for name, master in self.masters.items()
            if config.kind == "muon" and name in self._matrices
        }
        self._adamw = torch.optim.AdamW(
            self._groups(), lr=0.0, betas=config.betas, eps=config.eps, foreach=True
        )
        self._fill_state()

    def _adams(self) -> dict[str, Tensor]:
        return {name: m for name, m in self.masters.items() if name not in self._momenta}

    def _groups(self) -> list[dict[str, object]]:
        # Norm weights and sinks are no matrices: decay would only pull them off their scale.
        # One group per mesh, because a fused update cannot mix differently sharded tensors.
        groups: dict[tuple[bool, object], list[Tensor]] = {}
        for master in self._adams().values():
            mesh = getattr(master, "device_mesh", None)
            groups.setdefault((master.ndim > 1, mesh), []).append(master)
        decay = self.config.weight_decay
        return [
            {"params": params, "weight_decay": decay if matrix else 0.0}
            for (matrix, _), params in groups.items()
        ]

    def _fill_state(self) -> None:
        """Zero moments from the start, so that a checkpoint always has the same entries."""
        for master in self._adams().values():
            state = self._adamw.state[master]
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(master)
            state["exp_avg_sq"] = torch.zeros_like(master)

    def accumulate(self) -> None:
        """Move the parameters' gradients into the masters; call after each backward."""
        for name, param in self.params.items():
            master = self.masters[name]
            if master is param or param.grad is None:
                continue
            grad = param.grad.to(master.dtype)
            master.grad = grad if master.grad is None else master.grad.add_(grad)
            param.grad = None

    def zero_grad(self) -> None:
        for name, param in self.params.items():
            param.grad = self.masters[name].grad = None

    def norm(self) -> StepStats:
        """Global norm and zero count of the gradients, over all ranks."""
        sums = torch.zeros(3, dtype=torch.float64)
        for master in self.masters.values():
            size = local(master).numel()
            nonzero = 0
            if master.grad is not None and size:
                grad = local(master.grad)
                sums[0] += torch.linalg.vector_norm(grad).double() ** 2
                nonzero = int(torch.count_nonzero(grad))
            sums[1:] += torch.tensor([size - nonzero, size])
        if dist.is_initialized():
            dist.all_reduce(sums)
        return StepStats(float(sums[0].sqrt()), int(sums[1]), int(sums[2]))

    def step(self, lr: float) -> StepStats:
        """Clip, update at ``lr``, clear the gradients. A norm that is no number changes nothing."""
        stats = self.norm()
        if not torch.isfinite(torch.tensor(stats.grad_norm)):
            return stats
        clip = self.config.clip
        if clip is not None and stats.grad_norm > clip:
            for master in self.masters.values():
                if master.grad is not None:
                    local(master.grad).mul_(clip / stats.grad_norm)
        for master in self.masters.values():
            if master.grad is None:  # decay and momentum go on for what this step did not touch
                master.grad = torch.zeros_like(master)
        for group in self._adamw.param_groups:
            group["lr"] = lr
        muon_step(
            self.masters,
            self._momenta,
            self._matrices,
            lr=lr,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )
        self._adamw.step()
        self.publish()
        self.zero_grad()
        return stats

    def publish(self) -> None:
        """Bring the parameters to their masters' values."""
        with torch.no_grad():
            for name, param in self.params.items():
                if self.masters[name] is not param:
                    param.copy_(self.masters[name])

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, live: what a checkpoint saves and loads in place."""
        state = {f"momentum.{name}": buffer for name, buffer in self._momenta.items()}
        for name, master in self._adams().items():
            for key, value in self._adamw.state[master].items():
                state[f"{key}.{name}"] = value
        return state


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; the tensor itself where it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _master(param: nn.Parameter) -> Tensor:
    if param.dtype in (torch.float32, torch.float64):
        return param
    return param.detach().to(torch.float32).requires_grad_()
