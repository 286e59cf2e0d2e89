"""What a user may call a model."""

import sys
import types

import pytest

from mimo_native.errors import CheckpointError, UnsupportedError
from mimo_native.weights import resolve
from mimo_native.weights.resolve import resolve_model


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for huggingface_hub that records what it is asked for."""
    asked = []

    def snapshot_download(repo, *, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(tmp_path / "snapshot")

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


@pytest.mark.parametrize("spec", [None, "smollm2"])
def test_the_default_model(monkeypatch, tmp_path, spec):
    monkeypatch.setattr(resolve, "fetch_smollm2", lambda: tmp_path / "small.gguf")
    assert resolve_model(spec) == tmp_path / "small.gguf"


def test_local_files_and_directories(tmp_path, hub):
    (tmp_path / "m.gguf").touch()
    (tmp_path / "config.json").touch()
    assert resolve_model(tmp_path / "m.gguf") == tmp_path / "m.gguf"
    assert resolve_model(str(tmp_path)) == tmp_path
    assert hub == []


def test_a_directory_wins_over_a_hub_id(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "config.json").touch()
    assert resolve_model("owner/name").is_dir()
    assert hub == []


def test_a_hub_id(tmp_path, hub):
    assert resolve_model("XiaomiMiMo/MiMo-V2-Flash") == tmp_path / "snapshot"
    ((repo, patterns),) = hub
    assert repo == "XiaomiMiMo/MiMo-V2-Flash"
    assert "*.safetensors" in patterns
    assert not any("py" in p for p in patterns)  # a repository's code is neither fetched nor run


@pytest.mark.parametrize(
    "spec", ["nothing", "a/b/c", "./a/b", "gone/m.gguf", "/gone/away", "a/../b"]
)
def test_names_that_are_neither(spec, hub):
    with pytest.raises(CheckpointError, match=r"hub id owner/name, got nothing of that name"):
        resolve_model(spec)
    assert hub == []


def test_files_of_another_kind(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(CheckpointError, match=r"a \.bin file"):
        resolve_model(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        resolve_model(tmp_path)


def test_without_the_hub_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnsupportedError, match="pip install huggingface-hub"):
        resolve_model("owner/name")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def snapshot_download(repo, *, allow_patterns):
        raise ConnectionError("no route\nmore text")

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(CheckpointError, match=r"ConnectionError: no route\. Check the name"):
        resolve_model("owner/name")
