"""Tokens per round against cross-entropy, beside the report's formula."""

import pytest
import torch

import mimo_native as mn
from mimo_native.pretrain.acceptance import AcceptancePoint, draw, measure, report_fit
from mimo_native.training import TokenFile, TokenWriter

from .models import random_model, tiny


@pytest.mark.parametrize(("nats", "length"), [(0.05, 3.59), (0.14, 3.26), (0.30, 2.85)])
def test_the_reports_points(nats: float, length: float) -> None:
    assert report_fit(nats) == pytest.approx(length, abs=0.02)


def test_beyond_its_range_the_formula_is_not_quoted() -> None:
    def point(nats: float) -> AcceptancePoint:
        return AcceptancePoint("d", nats, nats / 3, 2.0, 2.0, (0.5,))

    assert point(0.3).to_dict()["report"] == report_fit(0.3)
    assert point(0.36).to_dict()["report"] is None


def test_points_come_in_order_of_entropy(tmp_path) -> None:
    """A corpus of one repeated token is more certain than a random one for any trained model."""
    generator, files = torch.Generator().manual_seed(0), {}
    for name in ("b", "a"):
        with TokenWriter(tmp_path / name, vocab_size=256) as writer:
            for _ in range(4):
                ids = torch.randint(256, (40,), generator=generator)
                writer.add(ids.numpy(), text_bytes=40)
        files[name] = TokenFile(tmp_path / name)
    model = random_model(tiny(), dtype=torch.float32)
    points = measure(model, files, rows=2, seq_len=32, prompts=2, new_tokens=8)
    assert sorted(p.domain for p in points) == ["a", "b"]
    assert points[0].nats_per_token <= points[1].nats_per_token
    for p in points:
        assert p.nats_per_byte == pytest.approx(p.nats_per_token)
        assert 1 <= p.sample_length <= 4
        assert p.sample_length == pytest.approx(1 + sum(p.acceptance))


def test_a_model_without_heads_is_refused() -> None:
    with pytest.raises(mn.ShapeError, match="MTP heads"):
        measure(random_model(tiny(num_mtp_layers=0)), {})


def test_it_draws(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    points = [AcceptancePoint("d", 0.1 * n, 0.05 * n, 3.0, 3.1, (0.9,)) for n in range(1, 4)]
    assert draw({"model": points}, tmp_path / "a.svg").stat().st_size > 1000
