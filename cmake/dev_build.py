"""Build the extension in place, for work on the sources; then run with PYTHONPATH=python."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    build = ROOT / "build" / "dev"
    pybind11 = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    options = [
        f"-DMIMO_CUDA={os.environ.get('MIMO_CUDA', 'OFF')}",
        f"-Dpybind11_DIR={pybind11}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    subprocess.run(
        ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options],
        check=True,
    )
    subprocess.run(["cmake", "--build", build, "-j2"], check=True)
    subprocess.run(
        ["cmake", "--install", build, "--component", "python", "--prefix", ROOT / "python"],
        check=True,
    )


if __name__ == "__main__":
    main()
