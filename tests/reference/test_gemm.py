"""linear and grouped_gemm against torch and numpy."""

import numpy as np
import pytest
import torch

from mimo_native import ShapeError, reference


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_linear_is_the_float64_product_rounded_once(dtype: torch.dtype) -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 70, generator=gen, dtype=torch.float64).to(dtype)
    w = torch.randn(5, 70, generator=gen, dtype=torch.float64).to(dtype)
    want = np.einsum("abk,nk->abn", x.double().numpy(), w.double().numpy())
    got = reference.linear(x, w)
    assert got.dtype == dtype
    # Half a unit in the last place of bfloat16; elsewhere the float32 or float64 sum itself.
    rtol, atol = {
        torch.bfloat16: (2**-8, 1e-5),
        torch.float32: (0, 1e-5),
        torch.float64: (0, 1e-13),
    }[dtype]
    np.testing.assert_allclose(got.double().numpy(), want, rtol=rtol, atol=atol)
    wide = reference.linear(x, w, out_dtype=torch.float32)
    assert wide.dtype == torch.float32
    np.testing.assert_allclose(wide.numpy(), want, rtol=1e-5, atol=1e-5)


def test_grouped_gemm_multiplies_each_group_by_its_own_weight() -> None:
    gen = torch.Generator().manual_seed(1)
    sizes = torch.tensor([3, 0, 1, 4])
    x = torch.randn(8, 6, generator=gen, dtype=torch.float64)
    w = torch.randn(4, 5, 6, generator=gen, dtype=torch.float64)
    group = np.repeat(np.arange(4), sizes.numpy())
    want = np.einsum("mk,mnk->mn", x.numpy(), w.numpy()[group])
    np.testing.assert_allclose(reference.grouped_gemm(x, w, sizes).numpy(), want, rtol=1e-13)


class Packed:
    """Anything with unpack() is a weight."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def unpack(self) -> torch.Tensor:
        return self.weight


def test_packed_weights_are_accepted() -> None:
    x, w = torch.randn(4, 8), torch.randn(2, 6, 8)
    sizes = torch.tensor([1, 3])
    assert reference.linear(x, Packed(w[0])).equal(reference.linear(x, w[0]))
    assert reference.grouped_gemm(x, Packed(w), sizes).equal(reference.grouped_gemm(x, w, sizes))


def test_gradients() -> None:
    gen = torch.Generator().manual_seed(2)
    x, w = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((5, 4), (3, 2, 4)))
    x.requires_grad_(), w.requires_grad_()
    sizes = torch.tensor([2, 0, 3])
    assert torch.autograd.gradcheck(lambda x, w: reference.grouped_gemm(x, w, sizes), (x, w))
    assert torch.autograd.gradcheck(lambda x, w: reference.linear(x, w[0]), (x, w))


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: reference.linear(torch.ones(2, 3), torch.ones(4, 5)), "w"),
        (
            lambda: reference.grouped_gemm(
                torch.ones(2, 3), torch.ones(2, 4, 3), torch.tensor([1, 2])
            ),
            "group_sizes",
        ),
        (
            lambda: reference.grouped_gemm(
                torch.ones(2, 3), torch.ones(2, 4, 3), torch.tensor([3, -1])
            ),
            "group_sizes",
        ),
        (lambda: reference.grouped_gemm(torch.ones(2, 3), torch.ones(2, 4, 5), torch.ones(2)), "w"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call, argument: str) -> None:
    with pytest.raises(ShapeError) as caught:
        call()
    assert caught.value.argument == argument
