"""Memory of large results is kept for the next ones, and never shared by two that live."""

import pytest
import torch

from mimo_native import _C

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    _C.release_scratch()


def bytes_of(count: int) -> torch.Tensor:
    return _C.empty(torch.empty(0, dtype=torch.uint8), (count,))


@pytest.mark.parametrize("count", [0, 1, MIB - 1, MIB, 3 * MIB + 5, 65 * MIB])
def test_is_dense_and_writable_to_its_last_byte(count: int) -> None:
    x = bytes_of(count)
    assert x.shape == (count,)
    assert x.is_contiguous()
    assert int(x.fill_(3).sum(dtype=torch.int64)) == 3 * count


def test_takes_dtype_and_shape() -> None:
    x = _C.empty(torch.empty(0, dtype=torch.bfloat16), (3, 1024, 512))
    assert (x.dtype, x.shape) == (torch.bfloat16, (3, 1024, 512))
    assert x.data_ptr() % (2 * MIB) == 0


def test_memory_comes_back() -> None:
    at = bytes_of(3 * MIB).data_ptr()
    assert bytes_of(3 * MIB - 7).data_ptr() == at  # the same after rounding


def test_living_tensors_do_not_share() -> None:
    at = bytes_of(3 * MIB).data_ptr()
    kept = bytes_of(3 * MIB)
    view = kept[5:]
    del kept
    other = bytes_of(3 * MIB)
    assert view.data_ptr() == at + 5
    assert other.data_ptr() != at


def test_no_more_than_64_mib_are_kept() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    before = resident()
    blocks = [bytes_of(20 * MIB).fill_(1) for _ in range(8)]
    assert resident() - before > 150 * MIB
    del blocks
    assert resident() - before < 80 * MIB
    _C.release_scratch()
    assert resident() - before < 20 * MIB
