"""Checkpoints that are stored as codes: FP8 blocks in every grid, mxfp4 experts, GGUF blocks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mimo_native import CheckpointError, MiMoConfig, MiMoForCausalLM, UnsupportedError
from mimo_native.nn import Weight
from mimo_native.weights import expected_tensors, save_checkpoint

from . import gguf_files
from .cases import SMALL, state_of

# The shapes of the release where they matter: heads of 192 and 128, so that a global layer's key
# head and its value head share a block, and a sliding layer's two heads fill whole ones.
FP8 = replace(
    SMALL,
    hidden_size=160,
    intermediate_size=136,
    head_dim=192,
    v_head_dim=128,
    swa_head_dim=192,
    swa_v_head_dim=128,
    num_attention_heads=8,
    num_key_value_heads=4,
    swa_num_attention_heads=8,
    swa_num_key_value_heads=4,
    num_mtp_layers=1,
)
QUANTIZATION = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}


def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale grid and values, block by block."""
    rows, columns = (-(-n // 128) for n in weight.shape)
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    grid, values = torch.empty(rows, columns), torch.empty(weight.shape)
    for i in range(rows):
        for j in range(columns):
            at = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            grid[i, j] = weight[at].abs().max() / 448
            codes[at] = (weight[at] / grid[i, j]).to(torch.float8_e4m3fn)
            values[at] = codes[at].float() * grid[i, j]
    return codes, grid, values


def joint_blocks(
    weights: dict[str, Tensor], ranks: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """q, k and v quantised as one matrix per rank: split files, their values, and fused ones."""
    parts = [list(weights[x].unflatten(0, (ranks, -1))) for x in "qkv"]
    stored: dict[str, list[Tensor]] = {}
    fused: list[tuple[Tensor, Tensor]] = []
    for rank in zip(*parts, strict=True):
        codes, grid, values = quantise(torch.cat(rank))
        fused.append((codes, grid))
        first = 0
        for x, part in zip("qkv", rank, strict=True):
            last = first + len(part)
            stored.setdefault(x, []).append(codes[first:last])
            stored.setdefault(f"{x} values", []).append(values[first:last])
            # A scale row is written with the part in which its block begins.
            blocks = grid[-(-first // 128) : -(-last // 128)]
            stored.setdefault(f"{x} grid", []).append(blocks)
            first = last
    joined = {name: torch.cat([t.view(torch.uint8) if t.dtype.itemsize == 1 else t for t in ts])
              for name, ts in stored.items()}  # fmt: skip
    tensors, values = {}, {}
    for x in "qkv":
        tensors[x] = joined[x].view(torch.float8_e4m3fn)
        tensors[f"{x} grid"], values[x] = joined[f"{x} grid"], joined[f"{x} values"]
    codes = torch.cat([c.view(torch.uint8) for c, _ in fused]).view(torch.float8_e4m3fn)
    return tensors, values, codes, torch.cat([g for _, g in fused])


def fp8_checkpoint(folder: Path, *, fused: bool = False) -> dict[str, Tensor]:
    """Writes FP8 as releases do, linear weights in blocks; returns the values of every tensor."""
    config = FP8
    plain, values = {n: t * 0.1 for n, t in state_of(config).items()}, {}
    files: dict[str, Tensor] = {}
    specs = expected_tensors(config)
    for name, tensor in plain.items():
        projection = next((x for x in "qkv" if name.endswith(f".{x}_proj.weight")), None)
        if specs[name].dtype_class != "linear":
            files[name] = values[name] = tensor
        elif projection is None:
            codes, grid, values[name] = quantise(tensor.float())
            files[name], files[name + "_scale_inv"] = codes, grid
        elif projection == "q":
            names = {x: name.replace("q_proj", f"{x}_proj") for x in "qkv"}
            weights = {x: plain[n].float() for x, n in names.items()}
            weights["k"] *= 10  # so that scales of keys would be wrong for values
            moe = "mtp" in name or int(name.split(".")[2]) > 0  # sliding
            ranks = 2 if moe and not fused else config.num_key_value_heads
            tensors, found, codes, grid = joint_blocks(weights, ranks)
            for x, n in names.items():
                values[n] = found[x]
                if not fused:
                    files[n], files[n + "_scale_inv"] = tensors[x], tensors[f"{x} grid"]
            if fused:
                whole = name.replace("q_proj", "qkv_proj")
                files[whole], files[whole + "_scale_inv"] = codes, grid
    spelled = config.to_dict() | {"quantization_config": QUANTIZATION}
    if fused:
        spelled["attention_projection_layout"] = "fused_qkv"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(spelled))
    save_file({n: t.contiguous() for n, t in files.items()}, folder / "model.safetensors")
    return values


def linear_values(model: MiMoForCausalLM) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.hub_tensors() if tensor.ndim == 2}


def logits(model: MiMoForCausalLM) -> Tensor:
    ids = torch.arange(24).reshape(2, 12) * 5 % model.config.vocab_size
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("fused", [False, True])
def test_fp8_blocks_stand_for_their_values(tmp_path: Path, fused: bool) -> None:
    values = fp8_checkpoint(tmp_path / "fp8", fused=fused)
    model = MiMoForCausalLM.from_pretrained(tmp_path / "fp8", weight_format="stored")
    formats = {m.weight.format for m in model.modules() if isinstance(m, Weight)}
    assert formats == {"e4m3_128x128", "bf16", "f32"}
    assert model.model.layers[0].self_attn.qkv.weight.format == "e4m3_128x128"
    assert model.model.layers[0].self_attn.o.weight.format == "bf16"
    assert model.model.layers[1].mlp.gate.proj.weight.format == "f32"
    for name, got in linear_values(model).items():
        assert got.float().equal(values[name].float()), name
    # Without "stored" it is the model of the dequantised checkpoint, bit for bit.
    save_checkpoint({n: v.bfloat16() if "mlp.gate." not in n else v for n, v in values.items()},
                    FP8, tmp_path / "bf16")  # fmt: skip
    plain = MiMoForCausalLM.from_pretrained(tmp_path / "fp8")
    want = logits(MiMoForCausalLM.from_pretrained(tmp_path / "bf16"))
    assert logits(plain).equal(want)
    # In float32 the values are exact either way, and the products differ in their rounding only.
    codes, wide = (
        MiMoForCausalLM.from_pretrained(tmp_path / "fp8", dtype=torch.float32, weight_format=f)
        for f in ("stored", None)
    )
    torch.testing.assert_close(logits(codes), logits(wide), rtol=1e-3, atol=1e-3)


def test_the_joint_block_of_keys_and_values_is_told_by_its_grid(tmp_path: Path) -> None:
    values = fp8_checkpoint(tmp_path)
    model = MiMoForCausalLM.from_pretrained(tmp_path, weight_format="stored")
    rows = model.model.layers[0].self_attn.qkv.weight.codes().scales[-4 * 128 :]
    keys = model.model.layers[0].self_attn.qkv.weight.codes().scales[8 * 192 : 12 * 192]
    for head in range(4):
        shared = rows[128 * head : 128 * head + 64]
        assert shared.equal(keys[192 * head + 128 : 192 * head + 192])
        assert (rows[128 * head + 64] < shared[0] / 2).all()
    assert values  # the values themselves are compared above


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("mlp.up_proj.weight_scale_inv", None, "got no such tensor"),
        ("mlp.up_proj.weight_scale_inv", torch.ones(2, 3), r"\[row blocks, 2\]"),
        ("mlp.up_proj.weight_scale_inv", torch.ones(5, 2), "2 rows of blocks"),
        ("mlp.up_proj.weight_scale_inv", torch.full((2, 2), torch.nan), "finite scales"),
        ("self_attn.v_proj.weight_scale_inv", torch.ones(8, 2), "4 rows, 1 of each key head"),
        ("self_attn.k_proj.weight_scale_inv", torch.ones(7, 2), "6 rows of blocks"),
        ("mlp.up_proj.weight", torch.full((136, 160), torch.nan).to(torch.float8_e4m3fn), "NaN"),
    ],
)
def test_grids_that_fit_nothing(tmp_path: Path, name: str, edit: Tensor | None, message) -> None:
    from safetensors.torch import load_file

    fp8_checkpoint(tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    key = f"model.layers.0.{name}"
    files = {n: t for n, t in (files | {key: edit}).items() if t is not None}
    save_file(files, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        MiMoForCausalLM.from_pretrained(tmp_path, weight_format="stored")


def test_mxfp4_experts(tmp_path: Path) -> None:
    config = replace(SMALL, moe_intermediate_size=64, hidden_size=96, num_mtp_layers=0)
    state, values = state_of(config), {}
    e2m1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    files = {}
    for name, tensor in state.items():
        if ".experts." not in name:
            files[name] = tensor
            continue
        rows, columns = tensor.shape
        codes = torch.randint(0, 16, (rows, columns), dtype=torch.uint8)
        scales = torch.randint(120, 128, (rows, columns // 32), dtype=torch.uint8)
        files[name] = codes[:, ::2] | codes[:, 1::2] << 4
        files[name + "_scale"] = scales
        values[name] = e2m1[codes.long()] * torch.exp2(
            scales.float().repeat_interleave(32, 1) - 127
        )
    quantization = QUANTIZATION | {"store_dtype": "mxfp4", "mxfp4_block_size": 32}
    (tmp_path / "config.json").write_text(
        json.dumps(config.to_dict() | {"quantization_config": quantization})
    )
    save_file(files, tmp_path / "model.safetensors")
    model = MiMoForCausalLM.from_pretrained(tmp_path, weight_format="stored")
    assert model.model.layers[1].mlp.experts.down.weight.format == "mxfp4"
    got = dict(model.hub_tensors())
    for name, value in values.items():
        assert got[name].equal(value), name
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_gguf_blocks_are_taken_as_they_are(tmp_path: Path, kind: str) -> None:
    path = gguf_files.write(
        tmp_path / "m.gguf", gguf_files.Llama(), encoding=gguf_files.QUANTS[kind]
    )
    model = MiMoForCausalLM.from_pretrained(path, weight_format="stored")
    formats = {m.weight.format for m in model.modules() if isinstance(m, Weight)}
    assert formats == {"int8_32" if kind == "Q8_0" else "int4_32"}
    exact = dict(MiMoForCausalLM.from_pretrained(path, dtype=torch.float32).hub_tensors())
    if kind == "Q8_0":  # the same codes for products with rows of eight bits
        eight = MiMoForCausalLM.from_pretrained(path, weight_format="int8_32_a8")
        for name, got in linear_values(eight).items():
            assert got.equal(exact[name]), name
    for name, got in linear_values(model).items():
        assert got.equal(exact[name]), name
    wide = MiMoForCausalLM.from_pretrained(path, dtype=torch.float32, weight_format="stored")
    want = logits(MiMoForCausalLM.from_pretrained(path, dtype=torch.float32))
    torch.testing.assert_close(logits(wide), want, rtol=1e-2, atol=1e-2)


def test_formats_by_component() -> None:
    model = MiMoForCausalLM(MiMoConfig.tiny()).init_weights().to(torch.bfloat16)
    model.pack({"experts": "int4_32", "head": "int8_row", "mtp": "int8_32"})
    layer = model.model.layers[1]
    assert layer.mlp.experts.gate_up.weight.format == "int4_32"
    assert layer.mlp.experts.down.weight.format == "int4_32"
    assert layer.mlp.gate.proj.weight.format == "f32"
    assert layer.self_attn.qkv.weight.format == "bf16"
    assert model.head.weight.format == "int8_row"
    assert model.model.mtp.layers[0].eh.weight.format == "int8_32"
    # Codes serve both dtypes, plain values do not.
    with pytest.raises(UnsupportedError, match="packed as bf16"):
        model.float()
    both = MiMoForCausalLM(MiMoConfig.tiny()).init_weights().pack("int8_32")
    assert both.to(torch.bfloat16).dtype == torch.bfloat16
    assert logits(both).isfinite().all()
    for bad in ({"router": "int8_row"}, "int3", {"head": "stored"}):
        with pytest.raises(UnsupportedError):
            MiMoForCausalLM(MiMoConfig.tiny()).pack(bad)
