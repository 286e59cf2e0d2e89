"""linear and grouped_gemm: the same bits for every row count, batch and number of threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mimo_native import ShapeError, UnsupportedError, backends
from mimo_native.ops import grouped_gemm, linear, pack

from ..case import FLOATS, check_case
from .cases import CASES

FORMAT = {torch.float32: "f32", torch.bfloat16: "bf16"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Most problems here are too small for more, and a busy machine is slow to join two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=(1, 2))
def threads(one_thread: None, request: pytest.FixtureRequest) -> int:
    torch.set_num_threads(request.param)
    return request.param


def packed_weight(op):
    """The op with its weight packed beforehand."""

    def call(*, w: Tensor, **rest: object) -> Tensor:
        return op(w=pack(w, format=FORMAT[w.dtype]), **rest)

    return call


OPS = {"linear": linear, "grouped_gemm": grouped_gemm}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(isa: str, case) -> None:
    check_case(case, packed_weight(OPS[case.op]))
    check_case(case, OPS[case.op])


def random_pair(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(rows + outputs)
    x, w = (torch.randn(n, inputs, generator=gen).to(dtype) for n in (rows, outputs))
    return x, w


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("outputs", [40, 300])
def test_a_row_has_the_same_bits_in_every_batch(isa: str, outputs: int, dtype: torch.dtype) -> None:
    # More than one chunk of inputs and more than one block of rows.
    x, w = random_pair(150, outputs, 600, dtype)
    packed = pack(w, format=FORMAT[dtype])
    want = linear(x, packed, out_dtype=torch.float32)
    for rows in (*range(1, 65), 97, 149):
        assert linear(x[:rows], packed, out_dtype=torch.float32).equal(want[:rows]), rows
    for first in (1, 17, 149):
        assert linear(x[first:], packed, out_dtype=torch.float32).equal(want[first:]), first
    assert linear(x, w, out_dtype=torch.float32).equal(want)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_threads_do_not_change_bits(isa: str, threads: int, dtype: torch.dtype) -> None:
    x, w = random_pair(100, 200, 300, dtype)
    got = linear(x, pack(w, format=FORMAT[dtype]))
    torch.set_num_threads(1)
    assert linear(x[:50], w).equal(got[:50])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_groups_do_not_change_bits(isa: str, threads: int, dtype: torch.dtype) -> None:
    x, w = random_pair(120, 5 * 70, 200, dtype)
    w = w.reshape(5, 70, 200)
    sizes = [17, 0, 1, 100, 2]
    got = grouped_gemm(x, pack(w, format=FORMAT[dtype]), torch.tensor(sizes, dtype=torch.int32))
    each = [linear(x_g, w_g) for x_g, w_g in zip(x.split(sizes), w, strict=True)]
    assert got.equal(torch.cat(each))
    assert grouped_gemm(x, w, torch.tensor(sizes)).equal(got)


def test_strided_rows_are_honoured() -> None:
    whole, w = random_pair(24, 40, 70, torch.float32)
    whole = whole.reshape(2, 12, 70)
    packed = pack(w, format="f32")
    want = linear(whole, packed)
    assert linear(whole[:, ::3], packed).equal(want[:, ::3])
    assert linear(whole[:, -1:], packed).equal(want[:, -1:])
    assert linear(whole[0, 3], packed).equal(want[0, 3])
    assert linear(whole.transpose(0, 1), packed).equal(want.transpose(0, 1))
    narrow = torch.randn(5, 100)[:, 10:80]
    assert linear(narrow, packed).equal(linear(narrow.contiguous(), packed))
    rows_of_w = torch.randn(40, 90)[:, :70]
    assert linear(narrow, rows_of_w).equal(linear(narrow, rows_of_w.contiguous()))


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_rows_meet_float32_weights(isa: str, packed: bool) -> None:
    x, w = random_pair(9, 33, 65, torch.float32)
    x = x.to(torch.bfloat16)
    weight = pack(w, format="f32") if packed else w
    got = linear(x, weight, out_dtype=torch.float32)
    assert got.equal(linear(x.float(), weight))
    assert linear(x, weight).equal(got.to(torch.bfloat16))
    assert linear(x[:1], weight, out_dtype=torch.float32).equal(got[:1])


def test_extremes(isa: str) -> None:
    inf = float("inf")
    x = torch.tensor([[1.0, 2.0], [inf, 1.0], [inf, -inf], [float("nan"), 0.0]])
    w = torch.ones(3, 2)
    for dtype in FLOATS:
        got = linear(x.to(dtype), pack(w, format=FORMAT[dtype])).float()
        assert got[:2].equal(torch.tensor([[3.0] * 3, [inf] * 3]))
        assert got[2:].isnan().all()
    huge = torch.full((1, 4), 3e38)
    assert linear(huge, torch.ones(1, 4)).isinf().all()


@pytest.mark.parametrize(
    ("x", "w", "argument", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 5), "x", "K = 5"),
        (torch.ones(2, 5).T, torch.ones(4, 2), "x", "stride 1"),
        (torch.ones(2, 3), torch.ones(3, 4).T, "w", "stride 1"),
        (torch.ones(2, 3), torch.ones(3), "w", r"\[N, K\]"),
        (torch.ones(2, 3), torch.ones(1, 4, 3), "w", r"\[N, K\]"),
        (torch.ones(2, 3), torch.ones(4, 3, dtype=torch.bfloat16), "x", "bfloat16"),
        (torch.ones(2, 3), torch.ones(4, 3, dtype=torch.float64), "w", "float32"),
        (torch.tensor(1.0), torch.ones(4, 3), "x", "shape"),
    ],
)
def test_bad_arguments_of_linear(x: Tensor, w: Tensor, argument: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        linear(x, w)
    assert (caught.value.op, caught.value.argument) == ("linear", argument)


@pytest.mark.parametrize(
    "sizes",
    [[1, 2], [3, -1], [2, 1], [2], [1, 1, 0], [1.0, 1.0], [2**40, 2 - 2**40]],
    ids=str,
)
def test_bad_group_sizes(sizes: list) -> None:
    with pytest.raises(ShapeError) as caught:
        grouped_gemm(torch.ones(2, 3), torch.ones(2, 4, 3), torch.tensor(sizes))
    assert caught.value.argument == "group_sizes"


def test_requests_without_a_kernel_say_why() -> None:
    x, w = torch.ones(2, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="float64"):
        linear(x, w)
    with backends.use("reference"):
        assert linear(x, w).equal(torch.full((2, 4), 3.0, dtype=torch.float64))
        assert linear(x.float(), pack(w, format="f32")).equal(torch.full((2, 4), 3.0))
    with pytest.raises(ShapeError, match="out_dtype"):
        linear(x.float(), w.float(), out_dtype=torch.float16)
