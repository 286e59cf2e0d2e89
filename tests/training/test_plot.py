"""The picture of a run: what is drawn is what the log says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_native import CheckpointError, UnsupportedError
from mimo_native.training import MetricsLog
from mimo_native.training.plot import plot

matplotlib = pytest.importorskip("matplotlib")


def log(directory: Path, *, steps: int = 5, mtp: bool = True, moe: bool = True) -> Path:
    with MetricsLog(directory, tensorboard=False) as out:
        for step in range(1, steps + 1):
            more = {"loads": [[step, 2, 1], [0, 0, 6]]} if moe and step % 2 else {}
            out.write("step", step, loss=5.0 / step, mtp=[4.0, 3.0] if mtp else [], lr=1e-3,
                      grad_norm=1.0, zero_grads=0.1, tokens_per_second=100.0, **more)  # fmt: skip
            if mtp and step == 3:
                out.write("eval", step, loss=2.0, accept_length=1.5, text_length=1.4,
                          domains={"code": {"loss": 2.0}})  # fmt: skip
    return directory


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that were saved."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    return figures


def panels(figure) -> dict:
    return {axis.get_title("left"): axis for axis in figure.axes if axis.get_title("left")}


def test_every_panel(tmp_path: Path, drawn: list) -> None:
    path = plot(log(tmp_path))
    assert path == tmp_path / "metrics.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    by_title = panels(drawn[0])
    assert list(by_title) == ["loss", "MTP heads", "acceptance length", "expert loads",
                              "gradient norm", "zero gradients", "learning rate",
                              "speed"]  # fmt: skip
    training, heldout, domain = by_title["loss"].get_lines()
    assert training.get_ydata().tolist() == [5.0 / step for step in range(1, 6)]
    assert (heldout.get_xdata().tolist(), domain.get_ydata().tolist()) == ([3], [2.0])
    assert [line.get_ydata()[0] for line in by_title["MTP heads"].get_lines()] == [4.0, 3.0]
    [image] = by_title["expert loads"].get_images()
    loads = image.get_array()
    assert loads.shape == (3, 3)  # experts, logged steps
    # Step 1: shares 1/4, 2/4, 1/4 and 0, 0, 1 of layers of three experts.
    assert loads[:, 0].tolist() == pytest.approx([3 / 8, 6 / 8, (3 / 4 + 3) / 2])


def test_a_dense_model_without_heads(tmp_path: Path, drawn: list) -> None:
    plot(log(tmp_path, mtp=False, moe=False, steps=1), tmp_path / "out.svg")
    assert (tmp_path / "out.svg").read_text().startswith("<?xml")
    assert not {"MTP heads", "acceptance length", "expert loads"} & set(panels(drawn[0]))


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="the log of a run"):
        plot(tmp_path)
    with pytest.raises(CheckpointError, match="at least one step"):
        plot(log(tmp_path / "empty", steps=0))
    run = log(tmp_path / "run")
    for bad in (tmp_path / "no" / "where.png", tmp_path / "out.bmp2"):
        with pytest.raises(CheckpointError, match="can be written"):
            plot(run, bad)
        assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match="matplotlib"):
        plot(run)


def test_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mimo_native.cli.main", "plot", str(log(tmp_path)), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"plot": str(tmp_path / "metrics.png")}
    assert (tmp_path / "metrics.png").is_file()


def test_domains_of_post_training(tmp_path: Path, drawn: list) -> None:
    """Scores, rewards and reverse KL by domain; the gap with its sign turned."""
    with MetricsLog(tmp_path, tensorboard=False) as out:
        for step in (1, 2):
            domains = {"maths": {"gap": -0.5 / step, "reward": 0.1 * step}, "chat": {"gap": 0.0}}
            if step == 1:
                del domains["chat"]
            out.write("step", step, loss=1.0, mismatch=0.25, entropy=0.5, domains=domains)
        out.write("score", 2, domains={"maths": {"score": 0.75}})
    plot(tmp_path)
    panels = {axis.get_title(loc="left"): axis for axis in drawn[0].axes}
    lines = {
        title: {line.get_label(): list(line.get_ydata()) for line in axis.get_lines()}
        for title, axis in panels.items()
    }
    assert lines["held-out scores"] == {"maths": [0.75]}
    assert lines["rewards"] == {"maths": [0.1, 0.2]}
    assert lines["reverse KL"] == {"maths": [0.5, 0.25], "chat": [0.0]}
    assert lines["sampler against policy"] == {"mismatch": [0.25, 0.25]}
    assert "acceptance length" not in panels
