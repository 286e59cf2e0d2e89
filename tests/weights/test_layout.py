"""The tensor list against published totals."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest

from mimo_native import MiMoConfig
from mimo_native.weights import TensorSpec, expected_tensors

from .cases import LLAMA

FLASH = MiMoConfig.mimo_v2_flash()


def numel(specs: Iterable[TensorSpec]) -> int:
    return sum(math.prod(spec.shape) for spec in specs)


def stored(specs: Iterable[TensorSpec]) -> int:
    """Tensors in a released file: every quantised weight has a scale beside it."""
    return sum(2 if spec.dtype_class == "linear" else 1 for spec in specs)


def test_v2_flash_has_the_published_size() -> None:
    specs = expected_tensors(FLASH).values()
    main = [spec for spec in specs if spec.component != "mtp"]
    mtp = [spec for spec in specs if spec.component == "mtp"]
    assert numel(main) == 308_778_780_864  # "309 B"
    assert numel(mtp) == 3 * 329_273_408  # "0.33 B" each
    active = numel(spec for spec in main if spec.component != "experts")
    active += numel(s for s in main if s.component == "experts" and s.dtype_class == "float32")
    active += numel(s for s in main if s.component == "experts" and s.dtype_class == "linear") // 32
    assert active == pytest.approx(15.45e9, rel=1e-3)  # "15 B"


def test_v2_flash_has_the_published_number_of_tensors() -> None:
    specs = expected_tensors(FLASH)
    assert stored(s for s in specs.values() if s.component != "mtp") == 72_766
    assert stored(s for s in specs.values() if s.component == "mtp") == 3 * 20


def test_fused_projections() -> None:
    fused = expected_tensors(replace(FLASH, attention_projection_layout="fused_qkv"))
    assert stored(s for s in fused.values() if s.component == "mtp") == 3 * 16
    assert fused["model.layers.0.self_attn.qkv_proj.weight"].shape == (13568, 4096)
    assert fused["model.layers.1.self_attn.qkv_proj.weight"].shape == (14848, 4096)
    assert numel(fused.values()) == numel(expected_tensors(FLASH).values())


def test_a_tied_dense_model_has_neither_head_nor_router() -> None:
    specs = expected_tensors(LLAMA)
    assert {spec.component for spec in specs.values()} == {
        "embedding",
        "attention",
        "dense",
        "norms",
    }
    assert "lm_head.weight" not in specs
    assert specs["model.layers.1.self_attn.k_proj.weight"].shape == (12, 36)
