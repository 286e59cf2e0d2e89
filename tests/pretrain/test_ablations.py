"""The ablations' variants, their paired statistics, and a run of all of them in small."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mimo_native as mn
from mimo_native.pretrain import ablations
from mimo_native.pretrain.ablations import VARIANTS, AblationRow, ablation_run, compare, draw, table
from mimo_native.training import TokenWriter


def test_each_variant_changes_what_its_name_says(tmp_path: Path) -> None:
    runs = {name: ablation_run(tmp_path, name, 3, data=tmp_path) for name in VARIANTS}
    base = runs["base"]
    assert base.model.window_keys < base.schedule.stages[0].seq_len
    assert base.model.add_swa_attention_sink_bias
    assert base.model.num_mtp_layers == 1
    assert 0 in base.model.hybrid_layer_pattern
    assert 1 in base.model.hybrid_layer_pattern
    assert not any(runs["all global"].model.hybrid_layer_pattern)
    assert not runs["window without sink"].model.add_swa_attention_sink_bias
    assert runs["wider window"].model.window_keys > 3 * base.model.window_keys
    assert runs["without MTP"].model.num_mtp_layers == 0
    assert runs["without balancing"].schedule.stages[0].bias_rate == 0
    assert runs["without balancing"].schedule.stages[0].aux_coefficient == 0
    assert runs["balance loss alone"].schedule.stages[0].aux_coefficient > 0
    for one in runs.values():  # the same seeds, rows and steps everywhere
        assert one.seed == 3
        assert one.schedule.tokens == base.schedule.tokens
        assert one.schedule.stages[0].lr == base.schedule.stages[0].lr
    assert len({one.output for one in runs.values()}) == len(runs)


def test_an_unknown_variant_is_named(tmp_path: Path) -> None:
    with pytest.raises(mn.ShapeError, match="ablation_run: variant"):
        ablation_run(tmp_path, "no such", 0, data=tmp_path)


def test_differences_are_paired() -> None:
    """Seeds that differ by far more than the variants do not hide a steady difference."""
    noise = [0.0, 3.0, -2.0, 1.0, 5.0]
    base = [{"loss": 4 + n, "load": 1.0} for n in noise]
    steps = zip(noise, [0, 0.01, 0, -0.01, 0], strict=True)
    steady = [{"loss": 4 + n - 0.1 + d, "load": 1.0} for n, d in steps]
    jumps = zip(noise, [-1, 1, -1, 1, 0.2], strict=True)
    unsteady = [{"loss": 4 + n + d, "load": 1.0} for n, d in jumps]
    rows = compare({"base": base, "steady": steady, "unsteady": unsteady})
    found = {row.variant: row for row in rows if row.metric == "loss"}
    # Student's t for four degrees of freedom: 2.776 * 0.00707 / sqrt(5)
    assert found["steady"].difference == pytest.approx(-0.1)
    assert found["steady"].half_width == pytest.approx(2.776 * 0.0070711 / 5**0.5, rel=1e-3)
    assert found["steady"].verdict == "lower"
    assert found["unsteady"].verdict == "not resolved"
    assert found["base"].difference == found["base"].half_width == 0


def test_table_says_not_resolved() -> None:
    rows = [
        AblationRow("base", "loss", 4.0, 0.0, 0.0, 5),
        AblationRow("base", "load", 1.5, 0.0, 0.0, 5),
        AblationRow("without MTP", "loss", 4.01, 0.01, 0.02, 5),
        AblationRow("without MTP", "load", 1.6, 0.1, 0.02, 5),
    ]
    assert "| without MTP | 4.0100 | +0.0100 | -0.0100 to +0.0300 | not resolved | 1.60 |" in table(
        rows
    )


def test_all_of_them_run_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ablations.DOMAINS:
        for part in ("train", "heldout"):
            with TokenWriter(tmp_path / "tokens" / name / part, vocab_size=2048) as writer:
                for _ in range(20):
                    ids = torch.randint(2048, (300,), generator=generator)
                    writer.add(ids.numpy(), text_bytes=300)
    said: list[str] = []
    options = {"seeds": 2, "tokens": 4096, "data": tmp_path / "tokens"}
    few = {name: VARIANTS[name] for name in ("base", "without MTP", "without balancing")}
    monkeypatch.setattr(ablations, "VARIANTS", few)
    rows = ablations.ablate(tmp_path / "runs", progress=said.append, **options)
    assert len(said) == 6
    assert {row.metric for row in rows} > {"loss", "load", "loss code"}
    again = ablations.ablate(tmp_path / "runs", **options)
    assert again == rows
    with pytest.raises(mn.ShapeError, match="ablate: seeds"):
        ablations.ablate(tmp_path / "runs", **(options | {"seeds": 1}))
    pytest.importorskip("matplotlib")
    assert draw(rows, tmp_path / "a.svg").stat().st_size > 1000


def test_rows_are_json() -> None:
    row = AblationRow("v", "loss", 1.0, 0.2, 0.1, 5)
    assert replace(row).to_dict()["verdict"] == "higher"
