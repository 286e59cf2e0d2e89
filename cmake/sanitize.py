"""Build the CPU extension with AddressSanitizer and UndefinedBehaviorSanitizer and run tests on it.

    python cmake/sanitize.py [PYTEST ARGUMENTS]     # default: the kernel families' tests

The build and a copy of the package lie in build/sanitize; the one in python/ stays as it is. Leaks
are not looked for: the interpreter itself never frees much of what it allocates.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "sanitize"
PACKAGE = BUILD / "package"
TESTS = (
    "gemm",
    "experts",
    "routing",
    "attention",
    "norm_rope",
    "sampling",
    "loss",
    "speculative",
    "cache",
)
# torch.compile starts a compiler, which does not bear the preloaded libraries; freed memory that is
# kept apart, and shadows, are no peak of ours.
IGNORED = ("*test_compile.py", "*test_packed_memory.py")
# A report goes past the capture of descriptors, which would end with the process.
DEFAULTS = ["-q", "-x", "--capture=sys", "-p", "no:cacheprovider"]
DEFAULTS += [f"--ignore-glob={name}" for name in IGNORED]


def build() -> None:
    pybind11 = _output(sys.executable, "-m", "pybind11", "--cmakedir")
    options = {
        "MIMO_CUDA": "OFF",
        "MIMO_SANITIZE": "ON",
        "pybind11_DIR": pybind11,
        "Python_EXECUTABLE": sys.executable,
    }
    defines = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(["cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", *defines], check=True)
    subprocess.run(["cmake", "--build", BUILD, "-j2"], check=True)
    shutil.rmtree(PACKAGE, ignore_errors=True)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "python" / "mimo_native", PACKAGE / "mimo_native", ignore=ignore)
    subprocess.run(
        ["cmake", "--install", BUILD, "--component", "python", "--prefix", PACKAGE], check=True
    )


def run_tests(arguments: list[str]) -> int:
    compiler = os.environ.get("CXX", "c++")
    libraries = [_output(compiler, f"-print-file-name=lib{n}.so") for n in ("asan", "ubsan")]
    environment = os.environ | {
        "PYTHONPATH": str(PACKAGE),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    build()
    sys.exit(run_tests(sys.argv[1:] or [*DEFAULTS, *(f"tests/{family}" for family in TESTS)]))
