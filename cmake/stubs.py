"""Write the stubs (python/mimo_native/_C.pyi and others) of the modules that are built in place.

    python cmake/dev_build.py && python cmake/stubs.py

Run it after a binding changed and commit the result; tests/system/test_stubs.py compares.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "mimo_native"
MODULES = ("_C", "_cuda", "_ptxsim")


def generate(module: str, import_path: str | None = None) -> str:
    """The stub text of mimo_native.<module>, imported from the PYTHONPATH or ``import_path``."""
    environment = dict(os.environ)
    if import_path is not None:
        environment["PYTHONPATH"] = import_path
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pybind11_stubgen", f"mimo_native.{module}", "-o", folder],
            check=True,
            env=environment,
        )
        return (Path(folder) / "mimo_native" / f"{module}.pyi").read_text()


def main() -> None:
    for module in MODULES:
        if not list(PACKAGE.glob(f"{module}.*.so")):
            print(f"{module} is not built; its stub stays as it is")
            continue
        (PACKAGE / f"{module}.pyi").write_text(generate(module, str(PACKAGE.parent)))


if __name__ == "__main__":
    main()
