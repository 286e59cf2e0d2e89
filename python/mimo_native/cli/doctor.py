"""``mimo-native doctor``: what is installed, what this machine can do, and whether it is sound."""

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

SUMMARY = "report on the installation and this machine, for yourself or a bug report"
EXAMPLES = (
    "mimo-native doctor                           # exit status 1 if something is wrong",
    "mimo-native doctor --json",
    "MIMO_NATIVE_ISA=avx2 mimo-native doctor      # as a weaker CPU would see it",
)

_PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "gguf", "jinja2", "huggingface-hub")
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16")
_SPINNING = "unset: threads spin for a while; passive is far better beside other busy processes"
_INDENT, _WIDTH = 20, 100
_OPENMP_LIBRARIES = ("libgomp", "libomp", "libiomp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-selftest", action="store_true", help="leave out the self-test")


def run(args: argparse.Namespace) -> int:
    report = examine(selftest=not args.no_selftest)
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 1 if report["problems"] else 0


def examine(*, selftest: bool) -> dict[str, object]:
    """The report: sections of plain values, and ``problems``, each one sentence."""
    import torch  # before the extension, whose OpenMP runtime must be torch's

    from .. import _C
    from .._build_info import BUILD_INFO

    report: dict[str, object] = {
        "environment": _environment(),
        "build": dict(BUILD_INFO),
        "cpu": _cpu(_C),
        "instructions": _instructions(Path(_C.__file__), BUILD_INFO["isa_levels"]),
        "threads": _threads(torch, _C),
        "cuda": _cuda(torch, BUILD_INFO["cuda"]),
    }
    if selftest:
        report["selftest"] = _selftest()
    report["problems"] = _problems(report, _C)
    return report


def _environment() -> dict[str, object]:
    from .. import __version__
    from ..env import VARIABLES, cache_dir

    return {
        "mimo_native": __version__,
        "location": str(Path(__file__).resolve().parent.parent),
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cache": str(cache_dir()),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu(extension) -> dict[str, object]:
    facts = _cpuinfo()
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "name": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "levels": extension.isa_levels(),
        "level_in_use": extension.isa(),
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries in Linux's cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _instructions(extension: Path, levels: list[str]) -> dict[str, object]:
    from .instructions import LEVEL_INSTRUCTIONS, count_instructions

    counts = count_instructions(extension)
    if counts is None:
        return {"file": str(extension), "counts": "not examined: not x86-64 code"}
    wanted = {name for level in levels for name in LEVEL_INSTRUCTIONS[level]}
    return {
        "file": str(extension),
        "counts": counts,
        "missing": sorted(name for name in wanted if not counts[name]),
    }


def _threads(torch, extension) -> dict[str, object]:
    from ..env import openmp

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "usable_cores": usable,
        "torch": torch.get_num_threads(),
        "extension": extension.max_threads(),
        "openmp_libraries": _openmp_libraries(),
        "wait_policy": openmp().get("OMP_WAIT_POLICY", _SPINNING),
        "variables": openmp(),
    }


def _openmp_libraries() -> list[str]:
    """OpenMP runtimes mapped into this process; two of them would fight over the cores."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if "/" in line}
    return sorted(p for p in paths if Path(p).name.startswith(_OPENMP_LIBRARIES))


def _cuda(torch, built: str) -> dict[str, object]:
    section: dict[str, object] = {"build": built, "torch": torch.version.cuda or "CPU build"}
    try:
        from .. import _cuda
    except ImportError as error:
        section["module"] = f"cannot be imported: {error}" if _cuda_was_built() else "not built"
        return section
    section["module"] = f"_cuda, {_cuda.runtime_linkage()} runtime {_cuda.runtime_version()}"
    section["driver"] = _cuda.driver_version() or "none"
    section["unavailable"] = _cuda.unavailable_reason()
    if not section["unavailable"] and torch.cuda.is_available():
        count = torch.cuda.device_count()
        section["devices"] = [torch.cuda.get_device_name(i) for i in range(count)]
    return section


def _cuda_was_built() -> bool:
    return any(Path(__file__).resolve().parent.parent.glob("_cuda.*.so"))


def _selftest() -> dict[str, object]:
    from ..errors import UnsupportedError
    from ..self_test import selftest

    try:
        result = selftest()
    except UnsupportedError as error:
        return {"passed": False, "result": [str(error)]}
    return {"passed": result.passed, "result": str(result).splitlines()}


def _problems(report: dict, extension) -> list[str]:
    from ..env import isa
    from ..errors import UnsupportedError

    problems = []
    try:
        isa(extension.isa_levels())
    except UnsupportedError as error:
        problems.append(str(error))
    for name in report["instructions"].get("missing", ()):
        problems.append(f"the build names a level that needs {name}, and the binary has none")
    threads = report["threads"]
    if len(threads["openmp_libraries"]) > 1:
        problems.append(f"{len(threads['openmp_libraries'])} OpenMP runtimes share this process")
    if threads["torch"] != threads["extension"]:
        problems.append("torch and the extension do not agree on the number of threads")
    if str(report["cuda"]["module"]).startswith("cannot"):
        problems.append(f"_cuda {report['cuda']['module']}")
    if not report.get("selftest", {}).get("passed", True):
        problems.append("the self-test failed")
    return problems


def _text(report: dict) -> str:
    lines = []
    for section, values in report.items():
        if section == "problems":
            continue
        lines.append(section)
        lines += [f"  {key:<{_INDENT - 2}} {_value(value)}" for key, value in values.items()]
    problems = report["problems"]
    lines.append("problems" if problems else "no problems found")
    return "\n".join(lines + [f"  {problem}" for problem in problems])


def _value(value: object) -> str:
    if isinstance(value, dict):
        value = [f"{key} {item}" for key, item in value.items()]
    if isinstance(value, list):
        texts = [str(item) for item in value]
        value = ", ".join(texts)
        if len(value) > _WIDTH:
            value = ("\n" + " " * (_INDENT + 1)).join(texts)
    return str(value) if value not in ("", None) else "none"
