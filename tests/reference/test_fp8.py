"""Quantised activations: the codes, and what they cost beside unrounded ones."""

import pytest
import torch

from mimo_native import ShapeError
from mimo_native.ops import linear, pack
from mimo_native.reference.fp8 import linear_e4m3, quantise_rows


def test_rows_are_quantised_by_groups_of_128() -> None:
    x = torch.randn(3, 5, 300) * torch.logspace(-3, 3, 300)
    codes, scales = quantise_rows(x)
    assert codes.shape == x.shape
    assert scales.shape == (3, 5, 3)
    for b, k in enumerate((slice(0, 128), slice(128, 256), slice(256, 300))):
        group, got = x[..., k], codes[..., k].float() * scales[..., b, None]
        largest = group.abs().amax(-1, keepdim=True)
        assert codes[..., k].float().abs().amax(-1).eq(448).all()
        # Half a step of four significant bits, or of the subnormal codes.
        assert ((got - group).abs() <= 2.0**-4 * group.abs() + 2.0**-10 * largest / 448).all()
    assert not quantise_rows(torch.zeros(1, 128))[0].float().any()


def test_the_product_is_that_of_the_rounded_values() -> None:
    x, w = torch.randn(7, 300), pack(torch.randn(140, 300), format="e4m3_128x128")
    codes, scales = quantise_rows(x)
    rounded = codes.double() * scales.double().repeat_interleave(128, -1)[:, :300]
    want = rounded @ w.unpack().double().T
    got = linear_e4m3(x, w, dtype=torch.float64)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)
    # Three significant bits in one operand of 300 products: a few percent of a typical result.
    exact = linear(x, w)
    error = ((got - exact).square().mean() / exact.square().mean()).sqrt()
    assert 0.005 < error < 0.05
    with pytest.raises(ShapeError, match="e4m3_128x128"):
        linear_e4m3(x, pack(torch.randn(4, 300), format="int8_row"))
