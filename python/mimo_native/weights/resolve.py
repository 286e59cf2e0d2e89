"""From what a user calls a model to a path on disk."""

import re
from pathlib import Path

from ..errors import CheckpointError, UnsupportedError
from .smollm2 import fetch_smollm2

__all__ = ["resolve_model"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Weights, index, configuration, tokenizer and template, not the code and formats beside them.
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja")


def resolve_model(spec: str | Path | None = None) -> Path:
    """A local file or directory for ``spec``, fetched first if need be.

    None or "smollm2": the cached SmolLM2 file. "nano": the small model in this package. A path:
    itself, a FILE.gguf or a directory with config.json. "owner/name": a snapshot of that hub
    repository, through the ``huggingface_hub`` package. A path that exists wins over a hub id.
    Raises CheckpointError if there is no such model or no network, UnsupportedError if a package is
    missing.
    """
    if spec is None or spec == "smollm2":
        return fetch_smollm2()
    if spec == "nano":
        return Path(__file__).resolve().parents[1] / "assets" / "nano"
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise _no_model(spec, "a directory without config.json")
        return path
    if path.exists():
        if path.suffix != ".gguf":
            raise _no_model(spec, f"a {path.suffix or 'plain'} file")
        return path
    if isinstance(spec, str) and _HUB_ID.fullmatch(spec) and path.suffix != ".gguf":
        return _snapshot(spec)
    raise _no_model(spec, "nothing of that name on disk")


def _no_model(spec: str | Path, got: str) -> CheckpointError:
    return CheckpointError(
        "model",
        repr(str(spec)),
        expected="'smollm2', 'nano', FILE.gguf, a directory with config.json, or hub id owner/name",
        got=got,
        remedy="`mimo-native get smollm2` fetches a small model to try.",
    )


def _snapshot(repo: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UnsupportedError(
            "model",
            [f"{repo!r} is not a path, and hub ids need the package huggingface_hub"],
            remedy="Run `pip install huggingface-hub`, or pass a local path.",
        ) from error
    try:
        return Path(snapshot_download(repo, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub client raises its HTTP library's own classes
        raise CheckpointError(
            "model",
            repr(repo),
            expected="a repository on the hub, or one in its local cache",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy="Check the name and the network, or pass a local path.",
        ) from error
