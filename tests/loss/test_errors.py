"""What the losses refuse, and how they say so."""

import pytest
import torch

from mimo_native import ShapeError, UnsupportedError, backends, ops

H, W = torch.ones(3, 4), torch.ones(10, 4)
IDS = torch.tensor([1, 2, 3])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ops.linear_cross_entropy(H, W, torch.tensor([1, 10, 2])), r"targets.*\[0, 10\)"),
        (lambda: ops.linear_cross_entropy(H, W, torch.tensor([1, -1, 2])), r"targets.*\[0, 10\)"),
        (lambda: ops.linear_cross_entropy(H, W, IDS[:2]), "linear_cross_entropy: targets"),
        (lambda: ops.linear_cross_entropy(H, W, IDS[:, None]), r"int64 \[N\]"),
        (lambda: ops.linear_cross_entropy(H, W, IDS.int()), "targets.*int64"),
        (lambda: ops.linear_cross_entropy(H, W, IDS, reduction="all"), "reduction.*'all'"),
        (lambda: ops.linear_cross_entropy(H[:, :3], W, IDS), r"hidden.*\[N, D\]"),
        (lambda: ops.linear_cross_entropy(H, W[None], IDS), r"weight.*\[V, D\]"),
        (lambda: ops.linear_cross_entropy(H, W.bfloat16(), IDS), "hidden.*dtype of the weight"),
        (lambda: ops.linear_cross_entropy(H, W.T.contiguous().T, IDS), "weight.*contiguous"),
        (lambda: ops.linear_cross_entropy(H, W[:0], IDS), "weight: expected at least one id"),
        (lambda: ops.linear_logprob(H, W, torch.tensor([1, -1, 2])), r"ids.*\[0, 10\).*-1"),
        (lambda: ops.linear_logprob(H, W, IDS, temperature=0.0), "temperature.*> 0"),
        (lambda: ops.linear_logprob(H, W, IDS, temperature=float("nan")), "temperature"),
        (lambda: ops.linear_reverse_kl(H, W, H[:2], W), "teacher_hidden"),
        (lambda: ops.linear_reverse_kl(H, W, H, W[:9]), "teacher_weight.*vocabulary, 10"),
        (lambda: ops.linear_reverse_kl(H, W, H, W, top_k=0), "top_k.*1 to 10"),
        (lambda: ops.linear_reverse_kl(H, W, H, W, top_k=11), "top_k.*1 to 10"),
        (lambda: ops.linear_reverse_kl(H, W, H, W, top_k=2, correction="no"), "correction"),
    ],
)
def test_refusals(call, match: str) -> None:
    with pytest.raises(ShapeError, match=match):
        call()


def test_plain_top_k_is_refused_with_the_reason() -> None:
    for backend in ("cpu", "reference"):
        with backends.use(backend), pytest.raises(UnsupportedError, match="training collapses"):
            ops.linear_reverse_kl(H, W, H, W, top_k=2, correction=None)
