"""The shortest proof that the package is alive: every public module imports and one kernel runs."""

import importlib
import pkgutil

import torch

import mimo_native as mn


def test_every_module_imports_and_public_names_survive() -> None:
    before = {name: getattr(mn, name) for name in mn.__all__}
    for module in pkgutil.walk_packages(mn.__path__, "mimo_native."):
        if module.name.rsplit(".", 1)[-1] not in {"__main__", "_cuda", "_ptxsim"}:
            importlib.import_module(module.name)
    for name, value in before.items():
        assert getattr(mn, name) is value, f"importing a submodule replaced mimo_native.{name}"


def test_a_kernel_runs() -> None:
    x = torch.randn(3, 70)
    torch.testing.assert_close(
        mn.ops.rms_norm(x, torch.ones(70)), torch.nn.functional.rms_norm(x, (70,), eps=1e-5)
    )
