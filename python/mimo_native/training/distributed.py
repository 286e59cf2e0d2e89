"""Many processes: FSDP2 over all ranks, and experts shared out among the ranks of a group.

Started by torchrun. World W = data ranks x expert ranks P; all parameters but the experts' are
sharded over all W, a layer's experts over P first and then over the W / P ranks that hold the same
ones. Gradients are summed, not averaged: the objective divides by counts of the whole step.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from ..env import world_size
from ..errors import ShapeError, UnsupportedError
from ..nn import Experts, MiMoForCausalLM
from .expert_parallel import ParallelExperts
from .lora import AdaptedWeight

__all__ = ["Ranks", "full_model", "shard", "start", "whole_copy"]


@dataclass(frozen=True)
class Ranks:
    """This process among all: its rank, how many there are, and the meshes (None when alone)."""

    rank: int = 0
    world: int = 1
    data: DeviceMesh | None = None  # all ranks, for what is not an expert
    replicas: DeviceMesh | None = None  # ranks that hold the same experts
    experts: DeviceMesh | None = None  # ranks that share a layer's experts

    @property
    def leader(self) -> bool:
        return self.rank == 0


def start(expert_parallel: int = 1) -> Ranks:
    """Join the process group that torchrun describes; alone without it.

    Raises ShapeError where ``expert_parallel`` does not divide the number of ranks.
    """
    world = world_size()
    if world % expert_parallel:
        raise ShapeError(
            "pretrain",
            "expert_parallel",
            expected=f"a divisor of the number of processes, {world}",
            got=str(expert_parallel),
            remedy=f"Start with torchrun --nproc-per-node {expert_parallel}.",
        )
    if world == 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    mesh = init_device_mesh(
        "cpu", (world // expert_parallel, expert_parallel), mesh_dim_names=("replicas", "experts")
    )
    return Ranks(
        rank=dist.get_rank(),
        world=world,
        data=mesh["replicas", "experts"]._flatten("data"),
        replicas=mesh["replicas"],
        experts=mesh["experts"],
    )


def shard(root: nn.Module, model: MiMoForCausalLM, ranks: Ranks) -> None:
    """Shard ``model`` inside ``root``, the module that will be called, in place.

    Every rank must hold the same weights. Raises UnsupportedError for a bfloat16 model.
    """
    if ranks.data is None or ranks.replicas is None or ranks.experts is None:
        return
    if model.dtype != torch.float32:
        raise UnsupportedError("shard", ["sharded training of a bfloat16 model"])
    share = ranks.experts.size()
    for layer in [*model.model.layers, *model.model.mtp.layers]:
        if isinstance(experts := getattr(layer.mlp, "experts", None), Experts):
            if share > 1:
                layer.mlp.experts = experts = _share_out(experts, ranks.experts)
            _fully_shard(experts, ranks.replicas)
        _fully_shard(layer, ranks.data)
    _fully_shard(root, ranks.data)


def _fully_shard(module: nn.Module, mesh: DeviceMesh) -> None:
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    sharded: FSDPModule = fully_shard(module, mesh=mesh, mp_policy=policy)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def _share_out(experts: Experts, mesh: DeviceMesh) -> ParallelExperts:
    count, share, rank = experts.gate_up.experts, mesh.size(), mesh.get_local_rank()
    if count % share:
        raise ShapeError(
            "pretrain",
            "expert_parallel",
            expected=f"a divisor of the {count} experts",
            got=str(share),
        )
    own = slice(rank * count // share, (rank + 1) * count // share)
    for weight in (experts.gate_up, experts.down):
        piece = weight.weight.detach()[own].clone()
        weight.replace(nn.Parameter(DTensor.from_local(piece, mesh, [Shard(0)])))
    return ParallelExperts(experts, mesh)


def full_model(model: MiMoForCausalLM, ranks: Ranks) -> MiMoForCausalLM | None:
    """The whole model on the first rank (None on the others); itself where nothing is sharded.

    All ranks call it together.
    """
    return model if ranks.data is None else whole_copy(model, wanted=ranks.leader)


@torch.no_grad()
def whole_copy(model: MiMoForCausalLM, *, wanted: bool = True) -> MiMoForCausalLM | None:
    """An unsharded copy on every rank that wants one, with adapters added to what they adapt; all
    ranks call it together.
    """
    whole = MiMoForCausalLM(model.config).to(model.dtype) if wanted else None
    target: dict[str, Any] = {}
    if whole is not None:
        target = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
        whole.tokenizer = model.tokenizer
    adapted = {n: m for n, m in model.named_modules() if isinstance(m, AdaptedWeight)}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        value: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        holder, _, part = name.rpartition(".")
        if holder in adapted:
            if part != "base":
                continue
            name, value = f"{holder}.weight", adapted[holder].weight
        if whole is not None:
            target[name].copy_(value)
    return whole
