"""Packing is exact, a view of rows shares its bytes, and what it cannot do is refused by name."""

import copy
import pickle

import pytest
import torch

from mimo_native import ShapeError, UnsupportedError
from mimo_native.ops import PackedWeight, linear, pack

FORMATS = {"bf16": torch.bfloat16, "f32": torch.float32}
SHAPES = [
    (1, 1), (32, 2), (33, 63), (64, 96), (100, 31), (5, 0), (0, 5), (3, 40, 65), (2, 1, 17),
    (0, 8, 8),
]  # fmt: skip


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype and a.shape == b.shape and a.view(torch.uint8).equal(b.view(torch.uint8))
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpack_returns_every_bit(isa: str, shape: tuple[int, ...], format: str) -> None:
    dtype = FORMATS[format]
    bits = torch.randint(-(2**15), 2**15, (*shape, dtype.itemsize // 2), dtype=torch.int16)
    weight = bits.view(dtype).squeeze(-1)  # any pattern: infinities, NaNs, denormals
    packed = pack(weight, format=format)
    assert packed.shape == weight.shape
    assert packed.dtype == dtype
    assert same_bits(packed.unpack(), weight.contiguous())


def test_rows_of_any_stride_and_wider_dtypes_are_packed() -> None:
    weight = torch.randn(80, 100)[::2, :50]
    assert pack(weight, format="f32").unpack().equal(weight)
    assert pack(weight).unpack().equal(weight.to(torch.bfloat16))
    assert pack(torch.nn.Parameter(weight)).unpack().equal(weight.to(torch.bfloat16))


@pytest.mark.parametrize("format", FORMATS)
def test_the_layout_is_the_documented_one(isa: str, format: str) -> None:
    outputs, inputs = 70, 6
    weight = torch.arange(outputs * inputs).reshape(outputs, inputs).to(FORMATS[format])
    packed = pack(weight, format=format)
    depth = 2 if format == "bf16" else 1
    words = packed.storage.view(weight.dtype).reshape(3, inputs // depth, 2, 16, depth)
    for output in (0, 15, 16, 31, 32, 69):
        panel, lane = divmod(output, 32)
        got = words[panel, :, lane // 16, lane % 16, :].flatten()
        assert got.equal(weight[output])
    assert not words[2, :, 0, 6:].any()
    assert not words[2, :, 1].any()


@pytest.mark.parametrize("shape", [(100, 40), (3, 100, 40)], ids=str)
def test_views_of_rows(shape: tuple[int, ...]) -> None:
    weight = torch.randn(*shape).to(torch.bfloat16)
    packed = pack(weight)
    for begin, end in ((0, 32), (32, 96), (64, 100), (96, 100), (0, 100), (32, 32)):
        view = packed.rows(begin, end)
        assert view.unpack().equal(weight[..., begin:end, :])
        if begin < end:
            assert view.storage.data_ptr() >= packed.storage.data_ptr()
            assert view.storage.untyped_storage().data_ptr() == (
                packed.storage.untyped_storage().data_ptr()
            )
    inner = packed.rows(32, 100).rows(32, 64)
    assert inner.unpack().equal(weight[..., 64:96, :])


@pytest.mark.parametrize("bounds", [(1, 32), (0, 33), (32, 0), (-32, 32), (0, 128)])
def test_views_that_would_cut_a_panel_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="multiples of 32"):
        pack(torch.ones(100, 4)).rows(*bounds)


def test_large_weights_lie_on_huge_pages() -> None:
    packed = pack(torch.zeros(1100, 1024))
    assert packed.nbytes >= 2 << 20
    assert packed.storage.data_ptr() % (2 << 20) == 0


def test_copies_and_pickles() -> None:
    weight, x = torch.randn(3, 40, 10).to(torch.bfloat16), torch.randn(2, 10).to(torch.bfloat16)
    packed = pack(weight)
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert isinstance(twin, PackedWeight)
        assert twin.storage.data_ptr() != packed.storage.data_ptr()
        assert twin.unpack().equal(weight)
    plain = pack(weight[0])
    assert linear(x, copy.deepcopy(plain.rows(32, 40))).equal(linear(x, plain)[:, 32:])


def test_bad_requests() -> None:
    with pytest.raises(UnsupportedError, match="no format 'int3'"):
        pack(torch.ones(2, 2), format="int3")
    with pytest.raises(UnsupportedError, match="takes no scale"):
        pack(torch.ones(2, 2), scale=torch.ones(1))
    for bad in (torch.ones(2), torch.ones(1, 1, 1, 1), torch.ones(2, 2, dtype=torch.int32)):
        with pytest.raises(ShapeError, match="weight: expected a floating tensor"):
            pack(bad)
    with pytest.raises(ShapeError, match="stride 1"):
        pack(torch.ones(4, 6).T, format="f32")
