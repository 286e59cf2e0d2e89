"""The package's front: the same names for the type checker, for ``import *`` and at run time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mimo_native as mn

from .command_line import ENVIRONMENT


def test_the_three_lists_of_names_agree():
    tree = ast.parse(Path(mn.__file__).read_text("utf-8"))
    imported = {
        alias.asname or alias.name: node.module or ""
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        for alias in node.names
    }
    assert sorted(imported) == sorted(mn.__all__)
    assert {name: home for name, home in imported.items() if home} == mn._HOME


@pytest.mark.parametrize("name", mn.__all__)
def test_every_name_loads_by_itself(name):
    """In whatever order: the submodule that holds it must not take its place."""
    value = getattr(mn, name)
    assert getattr(mn, name) is value
    assert name in dir(mn)
    if not mn._HOME.get(name):
        assert value.__name__ == f"mimo_native.{name}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        mn.no_such_name  # noqa: B018


def test_importing_costs_little_beside_torch():
    """What loads: nothing heavy until it is used, and no optional package with the model."""
    code = (
        "import sys, mimo_native as mn; assert 'torch' not in sys.modules\n"
        "mn.MiMoForCausalLM, mn.generate, mn.ops\n"
        "heavy = {'tokenizers', 'gguf', 'jinja2', 'transformers', 'huggingface_hub', 'rich'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
