"""The experts of a layer on several ranks: tokens travel to them and back."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from .. import ops
from ..nn import Experts

__all__ = ["ParallelExperts"]


class ParallelExperts(nn.Module):
    """``Experts`` of which this rank holds a consecutive share; same arguments, same result.

    Every slot (token, expert) is sent to the rank of its expert, computed there and sent back; the
    weighted sum over a token's slots runs at home, in slot order. No token is dropped. All ranks of
    ``mesh`` call it together, each with its own tokens, possibly none.
    """

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        super().__init__()
        # The same attributes as in Experts, so that parameters keep their names.
        self.gate_up, self.down = experts.gate_up, experts.down
        self.group, self.share = mesh.get_group(), mesh.size()
        self.own = experts.gate_up.experts // mesh.size()

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        slots = ids.shape[1]
        expert_S = ids.flatten().long()
        order_S = expert_S.argsort(stable=True)
        sent = (expert_S // self.own).bincount(minlength=self.share)
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=self.group)
        sizes, received = sent.tolist(), got.tolist()

        rows = _AllToAll.apply(x[order_S // slots], received, sizes, self.group)
        local = torch.empty(sum(received), dtype=torch.int64)
        dist.all_to_all_single(
            local, (expert_S % self.own)[order_S], received, sizes, group=self.group
        )
        out = ops.expert_mlp(
            rows,
            _local(self.gate_up.weight),
            _local(self.down.weight),
            local[:, None].to(torch.int32),
            weights.new_ones(len(local), 1),
        )
        home = _AllToAll.apply(out, sizes, received, self.group)
        slots_TKD = home[order_S.argsort()].unflatten(0, ids.shape)
        y = torch.zeros_like(x)
        for k in range(slots):
            y = y + weights[:, k, None].to(x.dtype) * slots_TKD[:, k]
        return y


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


class _AllToAll(torch.autograd.Function):
    """Rows by rank: ``sent[r]`` rows go to rank r, ``received[r]`` come from it."""

    @staticmethod
    def forward(ctx, rows: Tensor, received: list[int], sent: list[int], group) -> Tensor:
        ctx.sizes, ctx.group = (received, sent), group
        return _exchange(rows, received, sent, group)

    @staticmethod
    def backward(ctx, grad: Tensor):
        received, sent = ctx.sizes
        return _exchange(grad.contiguous(), sent, received, ctx.group), None, None, None


def _exchange(rows: Tensor, received: list[int], sent: list[int], group) -> Tensor:
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
    return out
