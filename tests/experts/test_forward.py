"""Routed and dense SwiGLU layers: exact against float64, the same bits in every batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mimo_native import _C, ShapeError
from mimo_native.ops import expert_mlp, pack, swiglu, swiglu_mlp

from ..case import FLOATS, check_case
from .cases import CASES, ExpertMlpCase

FORMAT = {torch.float32: "f32", torch.bfloat16: "bf16"}
OPS = {"expert_mlp": expert_mlp, "swiglu": swiglu, "swiglu_mlp": swiglu_mlp}


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


def packed(*, w_gate_up: Tensor, w_down: Tensor, **rest: object) -> dict[str, object]:
    format = FORMAT[w_gate_up.dtype]
    both = {"w_gate_up": pack(w_gate_up, format=format), "w_down": pack(w_down, format=format)}
    return {**rest, **both}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(isa: str, case) -> None:
    op = OPS[case.op]
    check_case(case, op)
    if case.op != "swiglu":
        check_case(case, lambda **args: op(**packed(**args)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("routing", ["uniform", "hot", "few"])
@pytest.mark.parametrize("ffn", [32, 44])
def test_a_token_has_the_same_bits_in_every_batch(
    isa: str, threads: int, ffn: int, routing: str, dtype: torch.dtype
) -> None:
    case = ExpertMlpCase(
        tokens=64, width=70, ffn=ffn, experts=6, slots=3, routing=routing, dtype=dtype
    )
    args = packed(**case.make())
    want = expert_mlp(**args)
    x, ids, weights = args.pop("x"), args.pop("ids"), args.pop("weights")
    for count in range(1, 64):
        first = min(count // 2, 64 - count)
        part = slice(first, first + count)
        got = expert_mlp(x=x[part], ids=ids[part], weights=weights[part], **args)
        assert got.equal(want[part]), count
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert expert_mlp(x=x[order], ids=ids[order], weights=weights[order], **args).equal(want[order])
    torch.set_num_threads(1)
    plain = {k: v for k, v in case.make().items() if k.startswith("w_")}
    assert expert_mlp(x=x, ids=ids, weights=weights, **plain).equal(want)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_long_call_is_the_sum_of_its_passes(dtype: torch.dtype) -> None:
    case = ExpertMlpCase(tokens=1200, width=16, ffn=8, experts=2, slots=1, dtype=dtype)
    args = packed(**case.make())
    tail = {k: args[k][1000:] for k in ("x", "ids", "weights")}
    assert expert_mlp(**args)[1000:].equal(expert_mlp(**{**args, **tail}))
    dense = {"w_gate_up": torch.randn(16, 16).to(dtype), "w_down": torch.randn(16, 8).to(dtype)}
    x = torch.randn(2100, 16).to(dtype)
    assert swiglu_mlp(x, **dense)[2000:].equal(swiglu_mlp(x[2000:], **dense))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_stored_products_and_strips_have_the_same_bits(isa: str, dtype: torch.dtype) -> None:
    # 512 rows of 2112 float32 products exceed what is stored; 40 rows do not.
    case = ExpertMlpCase(tokens=512, width=2112, ffn=8, experts=2, slots=1, dtype=dtype)
    args = packed(**case.make())
    few = {name: args[name][300:340] for name in ("x", "ids", "weights")}
    assert expert_mlp(**{**args, **few}).equal(expert_mlp(**args)[300:340])


def test_a_dense_layer_is_one_expert_with_weight_one(isa: str) -> None:
    for dtype in FLOATS:
        args = ExpertMlpCase(tokens=9, width=40, ffn=24, experts=1, slots=1, dtype=dtype).make()
        args["weights"] = torch.ones(9, 1)
        dense = swiglu_mlp(args["x"], args["w_gate_up"][0], args["w_down"][0])
        assert dense.equal(expert_mlp(**args))
        three = args["x"].reshape(3, 3, 40)
        assert swiglu_mlp(three, args["w_gate_up"][0], args["w_down"][0]).equal(
            dense.reshape(3, 3, 40)
        )


def test_slots_are_added_in_order_in_float32(isa: str) -> None:
    """2^24 + 1 + 1 is 2^24 when added in this order in float32, and 2^24 + 2 in any better one."""
    big = torch.tensor([2.0**24, 1.0, 1.0])
    gate_up = torch.tensor([[[40.0], [1.0]]] * 3)  # silu(40) * 1 = 40
    down = (big / 40).reshape(3, 1, 1)
    ids = torch.tensor([[0, 1, 2], [1, 2, 0]], dtype=torch.int32)
    got = expert_mlp(torch.ones(2, 1), gate_up, down, ids, torch.ones(2, 3))
    assert got.flatten().tolist() == [2.0**24, 2.0**24 + 2]


def test_one_expert_may_fill_several_slots() -> None:
    args = ExpertMlpCase(tokens=5, width=8, ffn=8, experts=3, slots=1).make()
    twice = {**args, "ids": args["ids"].repeat(1, 2), "weights": args["weights"].repeat(1, 2) / 2}
    torch.testing.assert_close(expert_mlp(**twice), expert_mlp(**args))


def test_swiglu_is_not_clamped(isa: str) -> None:
    for dtype in FLOATS:
        gate_up = torch.tensor([[100.0, -100.0, 64.0, 3.0]], dtype=dtype)
        got = swiglu(gate_up)
        assert got[0, 0] == 6400
        assert abs(got[0, 1]) < 1e-37
        layer = swiglu_mlp(
            torch.ones(1, 1, dtype=dtype),
            torch.tensor([[128.0], [64.0]], dtype=dtype),
            torch.ones(1, 1, dtype=dtype),
        )
        assert layer.item() == 8192


def test_extremes_stay_where_they_are(isa: str) -> None:
    args = ExpertMlpCase(tokens=6, width=32, ffn=32, experts=4, slots=2).make()
    want = expert_mlp(**args)
    args["x"][2, 5], args["x"][4, 0] = float("nan"), float("inf")
    got = expert_mlp(**args)
    assert not got[[2, 4]].isfinite().any()
    assert got[[0, 1, 3, 5]].equal(want[[0, 1, 3, 5]])


def test_the_plan_is_a_stable_permutation() -> None:
    ids = torch.tensor([[2, 0], [2, 5], [0, 2]], dtype=torch.int32)
    sizes, token, position, text = _C.expert_plan(ids, 6)
    assert sizes == [2, 0, 3, 0, 0, 1]
    assert token == [0, 2, 0, 1, 2, 1]
    assert position == [2, 0, 3, 5, 1, 4]
    assert text.startswith("3 tokens in 2 slots on 3 of 6 experts: 6 rows in 3 blocks")
    assert _C.expert_plan(ids[:0], 6)[:3] == ([0] * 6, [], [])


BAD = {
    "x": [(torch.ones(2, 3), "K = 4"), (torch.ones(2, 1, 4), r"\[T, D\]"),
          (torch.ones(2, 4).to(torch.bfloat16).double(), "float64"),
          (torch.ones(4, 2).T, "stride 1")],
    "w_gate_up": [(torch.ones(3, 5, 4), "even"), (torch.ones(6, 4), r"\[E, 2F, D\]"),
                  (torch.ones(3, 4, 6).transpose(1, 2), "stride 1")],
    "w_down": [(torch.ones(2, 4, 3), r"\[3, 4, 3\]"), (torch.ones(3, 4, 2), r"\[3, 4, 3\]"),
               (torch.ones(3, 4, 3).to(torch.bfloat16), "dtype")],
    "ids": [(torch.zeros(1, 2, dtype=torch.int32), "2, any"), (torch.zeros(2, 2), "int32"),
            (torch.tensor([[0, 1], [2, 3]], dtype=torch.int32), r"in \[0, 3\), got 3 at \[1, 1\]"),
            (torch.tensor([[0, -1], [2, 2]], dtype=torch.int32), r"got -1 at \[0, 1\]"),
            (torch.zeros(2, 4, dtype=torch.int32)[:, ::2], "contiguous")],
    "weights": [(torch.ones(2, 1), r"\[2, 2\]"), (torch.ones(2, 2).double(), "float32")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "value", "message"), [(k, *bad) for k, all_bad in BAD.items() for bad in all_bad]
)
def test_bad_arguments(argument: str, value: Tensor, message: str) -> None:
    good = {
        "x": torch.ones(2, 4),
        "w_gate_up": torch.ones(3, 6, 4),
        "w_down": torch.ones(3, 4, 3),
        "ids": torch.zeros(2, 2, dtype=torch.int32),
        "weights": torch.ones(2, 2),
    }
    expert_mlp(**good)
    with pytest.raises(ValueError, match=message) as caught:
        expert_mlp(**{**good, argument: value})
    if isinstance(caught.value, ShapeError):
        assert (caught.value.op, caught.value.argument) == ("expert_mlp", argument)


def test_packed_and_plain_weights_do_not_mix() -> None:
    with pytest.raises(ShapeError, match="pack both alike"):
        swiglu_mlp(torch.ones(1, 4), pack(torch.ones(6, 4), format="f32"), torch.ones(4, 3))
    with pytest.raises(ShapeError, match="even last dimension"):
        swiglu(torch.ones(2, 3))
