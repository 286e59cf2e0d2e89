"""Products that quantise the activations: exact integers, fixed bits, the stated error."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native import _C, UnsupportedError
from mimo_native.ops import PackedWeight, grouped_gemm, linear, pack
from mimo_native.reference.int8 import dequantised_rows, quantise_rows

from ..case import FLOATS, normal
from ..tolerance import assert_close_bound, rounding_bound, sum_bound
from .cases import C

FORMATS = ("int8_row_a8", "int8_32_a8")
SHAPES = [(1, 1), (32, 32), (33, 65), (40, 128), (100, 300), (64, 1100)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def any_codes(format: str, *shape: int) -> tuple[PackedWeight, Tensor]:
    """Every code of int8 under random scales, and its values in float64."""
    gen = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, shape, generator=gen, dtype=torch.int8)
    if "row" in format:
        scale = torch.rand(*shape[:-1], 1, generator=gen) * 1e-2
        spread = scale.expand(shape)
    else:
        scale = torch.rand(*shape[:-1], -(-shape[-1] // 32), generator=gen).half()
        spread = scale.repeat_interleave(32, -1)[..., : shape[-1]]
    return pack(codes, format=format, scale=scale), codes.double() * spread.double()


def test_rounding_of_the_activations() -> None:
    x = torch.zeros(5, 64)
    x[0, :4] = torch.tensor([127.0, 0.5, 1.5, -2.5])  # scale 1: ties to even
    x[1, 32:] = torch.linspace(-3, 3, 32)
    x[2, 0], x[2, 40] = 2.0**-101, 2.0**-90
    x[3, 5], x[3, 40] = torch.inf, 1.0
    x[4, 40] = torch.nan
    codes, scales = quantise_rows(x)
    assert codes[0, :4].tolist() == [127, 0, 2, -2]
    assert scales[0].tolist() == [1, 0]
    assert int(codes[1, 32]), int(codes[1, 63]) == (-127, 127)
    assert not codes[2, :32].any()
    assert int(codes[2, 40]) == 127
    assert scales[3].isnan().tolist() == [True, False]
    assert scales[4].isnan().tolist() == [False, True]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_against_float64(
    isa: str, shape: tuple[int, int], format: str, dtype: torch.dtype
) -> None:
    packed, values = any_codes(format, *shape)
    for rows in (1, 2, 3, 5, 8, 13, 40):
        x = normal(rows, shape[1], seed=rows, dtype=dtype)
        x[0] *= 2.0**-30
        seen = dequantised_rows(x, torch.float64)
        want = seen @ values.T
        # Sums of granules are exact: what rounds is a multiply-add for each, and its two scales.
        size = seen.abs() @ values.abs().T
        bound = sum_bound(size, shape[1] // 32 + 3, c=C) + 2 * 2.0**-24 * size
        for out in {dtype, torch.float32}:
            got = linear(x, packed, out_dtype=out)
            assert_close_bound(got, want, rounding_bound(want, bound, out), f"{rows} rows")
            with mn.backends.use("reference"):
                other = linear(x, packed, out_dtype=out)
            assert_close_bound(other, want, rounding_bound(want, 4 * bound, out))


@pytest.mark.parametrize("format", FORMATS)
def test_the_error_is_the_one_stated(format: str) -> None:
    """Half a step of each activation, on top of that of a float32 sum."""
    packed, values = any_codes(format, 200, 700)
    x = normal(30, 700, seed=1, dtype=torch.float32)
    x[:, 64:96] *= 50  # outliers spoil their own 32 inputs only
    largest = torch.nn.functional.pad(x, (0, 4)).unflatten(1, (-1, 32)).abs().amax(-1)
    step = (largest / 127).repeat_interleave(32, 1)[:, :700].double()
    size = values.abs().T
    bound = step / 2 @ size * 1.0001 + sum_bound(x.double().abs() @ size, 30, c=C)
    want = x.double() @ values.T
    ratio = assert_close_bound(linear(x, packed), want, bound)
    assert ratio > 0.01
    exact = linear(x, pack(packed.codes().codes.view(torch.int8), format=format[:-3],
                           scale=packed.codes().scales))  # fmt: skip
    assert not exact.equal(linear(x, packed))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_the_levels_have_the_same_bits(format: str, dtype: torch.dtype) -> None:
    packed, _ = any_codes(format, 70, 333)
    x = normal(21, 333, seed=2, dtype=dtype)
    before, results = _C.isa(), []
    try:
        for level in _C.isa_levels()[1:]:  # multiply-adds of the scalar one round twice
            _C.set_isa(level)
            results.append(linear(x, packed, out_dtype=torch.float32))
    finally:
        _C.set_isa(before)
    assert all(r.equal(results[0]) for r in results[1:])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_the_same_bits_in_every_batch(isa: str, format: str, dtype: torch.dtype) -> None:
    packed, _ = any_codes(format, 200, 600)
    x = normal(130, 600, seed=3, dtype=dtype)
    want = linear(x, packed)
    for count in (*range(1, 18), 24, 25, 37, 64, 97):
        assert linear(x[count : 2 * count][:count], packed).equal(want[count : 2 * count]), count
    torch.set_num_threads(2)
    assert linear(x, packed).equal(want)
    assert linear(x[:1], packed).equal(want[:1])
    strided = torch.zeros(130, 700, dtype=dtype)
    strided[:, :600] = x
    assert linear(strided[:, :600], packed).equal(want)
    assert linear(x, packed.rows(64, 200)).equal(want[:, 64:])


@pytest.mark.parametrize("format", FORMATS)
def test_groups(isa: str, format: str) -> None:
    packed, values = any_codes(format, 4, 40, 130)
    sizes = (3, 0, 20, 1)
    x = normal(sum(sizes), 130, seed=4, dtype=torch.float32)
    got = grouped_gemm(x, packed, torch.tensor(sizes)).split(sizes)
    for g, part in enumerate(x.split(sizes)):
        seen = dequantised_rows(part, torch.float64)
        size = seen.abs() @ values[g].abs().T
        assert_close_bound(got[g], seen @ values[g].T, sum_bound(size, 10, c=C))


@pytest.mark.parametrize("format", FORMATS)
def test_numbers_that_are_not_finite_stay_in_their_row(isa: str, format: str) -> None:
    packed, _ = any_codes(format, 40, 100)
    x = normal(9, 100, seed=5, dtype=torch.float32)
    want = linear(x, packed)
    for value in (torch.nan, torch.inf, -torch.inf):
        spoiled = x.clone()
        spoiled[4, 70] = value
        got = linear(spoiled, packed)
        assert got[4].isnan().all()
        assert got[:4].equal(want[:4])
        assert got[5:].equal(want[5:])
    x[2], x[3] = 0.0, 2.0**-140
    assert not linear(x, packed)[2:4].any()


@pytest.mark.parametrize("format", FORMATS)
def test_codes_gradients_and_compiling(format: str) -> None:
    weight = normal(64, 96, seed=0, dtype=torch.float32)
    packed, plain = pack(weight, format=format), pack(weight, format=format[:-3])
    assert packed.storage.equal(plain.storage)
    assert packed.unpack().equal(plain.unpack())
    again = pack(packed.codes().codes.view(torch.int8), format=format, scale=plain.codes().scales)
    assert again.storage.equal(packed.storage)
    x = normal(5, 96, seed=1, dtype=torch.float32).requires_grad_()
    y = linear(x, packed)
    (dx,) = torch.autograd.grad(y.sum(), x)  # that of the product without rounding
    torch.testing.assert_close(dx, packed.unpack().sum(0).expand(5, 96), rtol=1e-5, atol=1e-5)
    compiled = torch.compile(lambda x: linear(x, packed), backend="eager", fullgraph=True)
    assert compiled(x).equal(y)
    ids = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match=f"no gradient through a {format} head"):
        mn.ops.linear_logprob(x, packed, ids)
    with torch.no_grad():
        got = mn.ops.linear_logprob(x, packed, ids)
    torch.testing.assert_close(got, y.detach().log_softmax(-1)[:, 0], rtol=1e-5, atol=1e-5)
