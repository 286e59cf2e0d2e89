"""Layers with coded weights are the products they consist of, whatever the batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mimo_native import ShapeError, UnsupportedError
from mimo_native.ops import PackedWeight, expert_mlp, linear, pack, swiglu, swiglu_mlp

from ..case import FLOATS
from ..tolerance import assert_close_bound, rounding_bound
from .cases import ExpertMlpCase

FORMATS = ("e4m3_128x128", "int8_row", "int8_32", "int4_32", "mxfp4", "int8_row_a8", "int8_32_a8")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layer(format: str, ffn: int, dtype: torch.dtype, tokens: int = 40) -> dict[str, object]:
    case = ExpertMlpCase(
        tokens=tokens, width=150, ffn=ffn, experts=5, slots=2, routing="hot", dtype=dtype
    )
    args = case.make()
    for name in ("w_gate_up", "w_down"):
        args[name] = pack(args[name].float(), format=format)
    return args


def one_expert(w: PackedWeight, e: int) -> PackedWeight:
    codes = w.codes().map(lambda t: t[e].contiguous())
    alone = PackedWeight.empty(w.shape[1:], format=w.format)
    alone.write(0, codes)
    return alone


def rows_of(isa: str, format: str, x: Tensor) -> torch.dtype:
    """bf16 rows stay bf16 only where the CPU multiplies bf16; quantised ones never were."""
    return x.dtype if not format.endswith("_a8") and isa == "avx512bf16" else torch.float32


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("ffn", [32, 44])
def test_a_layer_is_its_products(isa: str, ffn: int, format: str, dtype: torch.dtype) -> None:
    args = layer(format, ffn, dtype)
    x, ids, weights = args["x"], args["ids"], args["weights"]
    slots = []
    for e in range(5):
        up, down = one_expert(args["w_gate_up"], e), one_expert(args["w_down"], e)
        h = swiglu(linear(x, up, out_dtype=torch.float32)).to(rows_of(isa, format, x))
        slots.append(linear(h, down, out_dtype=torch.float32))
        dense = swiglu_mlp(x, up, down)
        assert dense.equal(slots[-1].to(dtype)), e
    each = torch.stack(slots)[ids.long(), torch.arange(len(x))[:, None]].double()
    want = (each * weights.double()[..., None]).sum(1)
    size = (each.abs() * weights.double().abs()[..., None]).sum(1)
    got = expert_mlp(**args)
    assert_close_bound(got, want, rounding_bound(want, 4 * 2.0**-24 * size, dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_a_token_has_the_same_bits_in_every_batch(
    isa: str, format: str, dtype: torch.dtype
) -> None:
    args = layer(format, 44, dtype, tokens=90)
    want = expert_mlp(**args)
    x, ids, weights = args.pop("x"), args.pop("ids"), args.pop("weights")
    for count in (1, 2, 5, 8, 13, 30):
        part = slice(count, 2 * count)
        assert expert_mlp(x=x[part], ids=ids[part], weights=weights[part], **args).equal(want[part])
    torch.set_num_threads(2)
    assert expert_mlp(x=x, ids=ids, weights=weights, **args).equal(want)


def test_refusals() -> None:
    args = layer("int8_32", 32, torch.float32)
    with pytest.raises(UnsupportedError, match="no gradient through int8_32 weights"):
        expert_mlp(**args | {"x": args["x"].requires_grad_()})
    args = layer("int8_32", 32, torch.float32)
    with pytest.raises(ShapeError, match="w_down"):
        expert_mlp(**args | {"w_down": pack(args["w_down"].unpack(), format="int8_row")})
