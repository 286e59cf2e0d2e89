"""Coded weights: what codes stand for, products against float64, fixed bits, and refusals."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mimo_native import ShapeError, UnsupportedError
from mimo_native.ops import grouped_gemm, linear, pack

from ..case import FLOATS, normal
from ..tolerance import assert_close_bound, rounding_bound, sum_bound
from .cases import C

FORMATS = ("e4m3_128x128", "int8_row", "int8_32", "int4_32", "mxfp4")
SEGMENT = {"e4m3_128x128": 128, "int8_32": 32, "int4_32": 32, "mxfp4": 32}
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SHAPES = [(1, 1), (32, 32), (33, 65), (40, 128), (100, 300), (130, 257), (64, 1100)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stored(format: str, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random codes with scales: what pack takes, and (values, magnitudes) in float64.

    Magnitudes are what a product adds up: with a min, code * scale and min apart.
    """
    gen = torch.Generator().manual_seed(seed)
    outputs, inputs = shape[-2:]
    segment = SEGMENT.get(format, inputs)
    segments = -(-inputs // segment)

    def spread(scales: Tensor) -> Tensor:
        return scales.double().repeat_interleave(segment, -1)[..., :inputs]

    if format == "e4m3_128x128":
        codes = torch.randint(0, 256, shape, generator=gen, dtype=torch.uint8)
        codes[(codes & 0x7F) == 0x7F] = 0x80  # no NaN, but every other code
        weight = codes.view(torch.float8_e4m3fn)
        grid = (*shape[:-2], -(-outputs // 128), segments)
        scale = torch.rand(grid, generator=gen) * 1e-2 + 1e-4
        rows = scale.repeat_interleave(128, -2)[..., :outputs, :]
        values = weight.double() * spread(rows)
    elif format in ("int8_row", "int8_32"):
        weight = torch.randint(-128, 128, shape, generator=gen, dtype=torch.int8)
        scale = torch.rand(*shape[:-1], segments, generator=gen) * 1e-2
        scale = scale.to(torch.float16) if format == "int8_32" else scale
        values = weight.double() * spread(scale)
    elif format == "int4_32":
        weight = torch.randint(0, 16, shape, generator=gen, dtype=torch.uint8)
        scale = torch.randn(*shape[:-1], segments, 2, generator=gen).to(torch.float16)
        product, low = weight.double() * spread(scale[..., 0]), spread(scale[..., 1])
        return weight, scale, product + low, product.abs() + low.abs()
    else:
        codes = torch.randint(0, 16, shape, generator=gen, dtype=torch.uint8)
        sign = 1 - 2 * (codes >> 3).double()
        scale = torch.randint(110, 140, (*shape[:-1], segments), generator=gen, dtype=torch.uint8)
        values = sign * torch.tensor(E2M1).double()[(codes & 7).long()]
        values *= torch.exp2(spread(scale) - 127)
        weight = codes[..., 0::2] | codes[..., 1::2] << 4
    return weight, scale, values, values.abs()


def even(format: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """mxfp4 is stored in pairs."""
    return (*shape[:-1], shape[-1] + shape[-1] % 2) if format == "mxfp4" else shape


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 40, 66)], ids=str)
def test_codes_are_kept_and_stand_for_their_values(format: str, shape: tuple[int, ...]) -> None:
    weight, scale, values, magnitude = stored(format, *even(format, shape))
    packed = pack(weight, format=format, scale=scale)
    assert packed.shape == values.shape
    # One rounding: code * scale has more than 24 bits where the scale is float32, a sum with min.
    assert_close_bound(packed.unpack(), values, 2.0**-24 * magnitude)
    kept = packed.codes()
    again = weight.view(torch.uint8)
    if format == "mxfp4":
        again = torch.stack([weight & 15, weight >> 4], -1).flatten(-2)
    assert kept.codes.equal(again)
    if format == "e4m3_128x128":
        assert kept.scales[..., ::128, :].equal(scale)
        by_row = pack(weight, format=format, scale=kept.scales)
        assert by_row.storage.equal(packed.storage)
    elif format == "int4_32":
        assert torch.stack([kept.scales, kept.mins], -1).equal(scale)
    else:
        assert kept.scales.equal(scale)


def bound_of(x: Tensor, magnitude: Tensor, want: Tensor, dtype: torch.dtype) -> Tensor:
    """K roundings in the sums of segments, one more for each segment, and that of unpack's own."""
    size = x.double().abs() @ magnitude.mT
    terms = x.shape[-1] * (1 + 2 / 32) + 1
    return rounding_bound(want, sum_bound(size, int(terms) + 1, c=C), dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_against_float64(
    isa: str, shape: tuple[int, int], format: str, dtype: torch.dtype
) -> None:
    weight, scale, values, magnitude = stored(format, *even(format, shape))
    packed = pack(weight, format=format, scale=scale)
    for rows in (1, 2, 5, 13, 40):
        x = normal(rows, values.shape[1], seed=rows, dtype=dtype)
        want = x.double() @ values.T
        for out in {dtype, torch.float32}:
            got = linear(x, packed, out_dtype=out)
            assert got.dtype == out
            assert_close_bound(got, want, bound_of(x, magnitude, want, out), f"{rows} rows")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_the_same_bits_in_every_batch(isa: str, format: str, dtype: torch.dtype) -> None:
    weight, scale, *_ = stored(format, 200, 600)
    packed = pack(weight, format=format, scale=scale)
    x = normal(130, 600, seed=3, dtype=dtype)
    want = linear(x, packed)
    for count in (*range(1, 15), 17, 24, 25, 37, 64, 97):
        assert linear(x[count : 2 * count][:count], packed).equal(want[count : 2 * count]), count
    torch.set_num_threads(2)
    assert linear(x, packed).equal(want)
    assert linear(x[:1], packed).equal(want[:1])
    strided = torch.zeros(130, 700, dtype=dtype)
    strided[:, :600] = x
    assert linear(strided[:, :600], packed).equal(want)
    view = packed.rows(64, 200)
    assert linear(x, view).equal(want[:, 64:])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_groups(isa: str, format: str, dtype: torch.dtype) -> None:
    weight, scale, values, magnitude = stored(format, 4, 40, 130)
    packed = pack(weight, format=format, scale=scale)
    sizes = (3, 0, 20, 1)
    x = normal(sum(sizes), 130, seed=4, dtype=dtype)
    got = grouped_gemm(x, packed, torch.tensor(sizes))
    parts = x.split(sizes)
    for g, part in enumerate(got.split(sizes)):
        want = parts[g].double() @ values[g].T
        assert_close_bound(part, want, bound_of(parts[g], magnitude[g], want, dtype))
    one = pack(weight[2], format=format, scale=scale[2])
    assert got[3:23].equal(linear(parts[2], one))


# Half a step of the largest code of a segment, relative to its largest value: 4 significant bits of
# e4m3 and the power-of-two scale of mxfp4, 7 bits, and 15 steps from min to max.
STEP = {"e4m3_128x128": 2**-4, "int8_row": 0.5 / 127, "int8_32": 0.51 / 127, "int4_32": 1.02 / 15,
        "mxfp4": 0.25}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_quantising_is_as_near_as_the_codes_allow(format: str) -> None:
    weight = normal(150, 300, seed=0, dtype=torch.float32)
    weight[3] = 0
    weight[5, 32:64] = 0
    packed = pack(weight, format=format)
    segment = 300 if format == "int8_row" else SEGMENT[format]
    for k in range(0, 300, segment):
        part, got = weight[:, k : k + segment], packed.unpack()[:, k : k + segment]
        largest = part.abs().amax(1, keepdim=True)
        if format == "e4m3_128x128":
            largest = torch.cat([b.amax().expand(len(b), 1) for b in largest.split(128)])
        assert ((got - part).abs() <= STEP[format] * largest).all()
    assert not packed.unpack()[3].any()
    # What is representable comes back, in the order of the values.
    again = pack(packed.unpack(), format=format)
    assert_close_bound(again.unpack(), packed.unpack(), 2.0**-9 * weight.abs().max())


def test_e2m1_rounds_to_nearest_and_ties_to_even() -> None:
    midpoints = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    want = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    row = torch.zeros(3, 32)
    row[:, 31] = 6.0
    for i, shift in enumerate((0.0, -1e-3, 1e-3)):
        row[i, :7] = midpoints + shift
        row[i, 7:14] = -(midpoints + shift)
    got = pack(row, format="mxfp4").unpack()
    below, above = torch.tensor(E2M1)[:-1], torch.tensor(E2M1)[1:]
    assert got[:, :7].equal(torch.stack([want, below, above]))
    assert got[:, 7:14].equal(-got[:, :7])
    assert got[:, 31].eq(6).all()


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_looked_up_and_views_and_copies_work(format: str) -> None:
    packed = pack(normal(100, 70, seed=0, dtype=torch.float32), format=format)
    ids = torch.tensor([0, 99, 31, 32, 31])
    assert packed.gather_rows(ids).equal(packed.unpack()[ids])
    assert packed.rows(32, 100).unpack().equal(packed.unpack()[32:])
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert twin.unpack().equal(packed.unpack())
    for shape in ((5, 0), (0, 5)):
        empty = pack(torch.empty(shape), format=format)
        assert empty.unpack().shape == shape
        assert not linear(torch.ones(2, shape[1]), empty).any()


def test_refusals() -> None:
    codes, grid = torch.zeros(130, 256, dtype=torch.float8_e4m3fn), torch.ones(2, 2)
    pack(codes, format="e4m3_128x128", scale=grid)
    for scale, message in (
        (torch.ones(3, 2), r"scale: expected \[130, 2\] or \[2, 2\]"),
        (torch.ones(2, 3), r"scale: expected"),
        (torch.ones(2, 2, dtype=torch.bfloat16), r"scale: expected torch\.float32"),
        (torch.tensor([[1.0, 1.0], [float("nan"), 1.0]]), "scale: expected finite scales"),
        (torch.tensor([[1.0, 1.0], [float("inf"), 1.0]]), "scale: expected finite scales"),
    ):
        with pytest.raises(ShapeError, match=message):
            pack(codes, format="e4m3_128x128", scale=scale)
    bad = codes.view(torch.uint8).clone()
    bad[7, 7] = 0xFF
    with pytest.raises(ShapeError, match="NaN"):
        pack(bad.view(torch.float8_e4m3fn), format="e4m3_128x128", scale=grid)
    with pytest.raises(ShapeError, match=r"codes in \[0, 15\]"):
        pack(bad, format="int4_32", scale=torch.ones(130, 8, 2, dtype=torch.float16))
    with pytest.raises(ShapeError, match=r"weight: expected torch\.int8"):
        pack(bad, format="int8_row", scale=torch.ones(130))
    exponents = torch.full((130, 16), 255, dtype=torch.uint8)
    with pytest.raises(ShapeError, match="finite scales"):
        pack(bad, format="mxfp4", scale=exponents)
    with pytest.raises(ShapeError, match="Codes need their scale"):
        pack(codes, format="e4m3_128x128")
    with pytest.raises(UnsupportedError, match="takes no scale"):
        pack(torch.ones(2, 2), scale=torch.ones(1))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ShapeError, match="finite values"):
            pack(torch.tensor([[1.0, value]]), format="int8_row")
    with pytest.raises(ShapeError, match="float16"):
        pack(torch.tensor([[1e9, 0.0]]), format="int8_32")
    with pytest.raises(UnsupportedError, match="has no codes"):
        pack(torch.ones(2, 2)).codes()
    with pytest.raises(ShapeError, match="K = 256"):
        linear(torch.ones(1, 255), pack(codes, format="e4m3_128x128", scale=grid))
