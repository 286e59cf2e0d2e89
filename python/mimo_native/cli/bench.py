"""``mimo-native bench``: the kernel benchmarks of a source tree, and whole models."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ..errors import UnsupportedError

SUMMARY = "time the kernels against torch and this machine's limits"
EXAMPLES = (
    "mimo-native bench                        # all families, one thread, under 5 minutes",
    "mimo-native bench attention --threads 1,2",
    "mimo-native bench gemm experts --peers   # beside other libraries' kernels, where installed",
    "mimo-native bench gemm --json > gemm.json",
    "mimo-native bench gemm attention --device cuda   # on a GPU, beside torch's kernels there",
    "mimo-native bench speculative --model nano --sweep --plot speculative.png",
    "mimo-native bench acceptance --model nano --plot acceptance.svg   # MTP heads by domain",
    "mimo-native bench model --model DIR --threads 2 --peers   # decode and prefill end to end",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "family",
        nargs="*",
        help="kernel families, e.g. attention (default: all); model; speculative; acceptance",
    )
    parser.add_argument("--threads", default="1", help="thread counts, e.g. 1,2 (default 1)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    parser.add_argument("--seconds", type=float, help="time per case (default 0.4)")
    parser.add_argument("--peers", action="store_true", help="time installed peers too")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/F.CPU.json")
    whole = parser.add_argument_group("bench model, bench acceptance")
    whole.add_argument(
        "--model", default="smollm2", help="what to load (default smollm2), or released-layers"
    )
    whole.add_argument("--mtp", metavar="DIR", help="MTP heads for a model that has none")
    whole.add_argument("--data", type=Path, help="DIR/DOMAIN/heldout token files (default: nano's)")
    whole.add_argument("--rows", type=int, default=4, help="held-out rows of 512 tokens each (4)")
    whole.add_argument("--prompts", type=int, default=8, help="sampled continuations each (8)")
    whole.add_argument("--weight-format", help="of the packed weights (default: that of bfloat16)")
    whole.add_argument("--rounds", type=int, default=3, help="turns of ours and peers (default 3)")
    whole.add_argument("--peer-model", type=Path, help="the GGUF file for llama.cpp")
    whole.add_argument("--work", help='e.g. "decode B=1,prefill 512" (default: all four)')
    drafts = parser.add_argument_group(
        "bench speculative (also --model, --mtp, --rounds, --threads)"
    )
    drafts.add_argument("--domain", help="which texts, e.g. tables,code (default: all)")
    drafts.add_argument("--temperature", default="0", help="e.g. 0,1 (default 0)")
    drafts.add_argument("--tokens", type=int, default=128, help="per request (default 128)")
    drafts.add_argument("--sweep", action="store_true", help="over node budgets and batches too")
    drafts.add_argument("--plot", type=Path, help="where to draw it (acceptance too)")
    drafts.add_argument("--kernels", action="store_true", help="the family's kernels instead")
    parser.add_argument("--dir", type=Path, help="the benchmarks/ directory (default: searched)")


def run(args: argparse.Namespace) -> int:
    if args.device == "cuda":
        return _bench_cuda(args)
    if args.family == ["model"]:
        return _bench_model(args)
    if args.family == ["speculative"] and not args.kernels:
        from .bench_speculative import run as bench_speculative

        if args.save:
            sys.path.insert(0, str(_folder(args.dir).resolve().parent))
        return bench_speculative(args)
    if args.family == ["acceptance"]:
        from .bench_acceptance import run as bench_acceptance

        return bench_acceptance(args)
    folder = _folder(args.dir)
    files = [_file(folder, family) for family in args.family] or [folder]
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-only", "--no-header"]
    command += ["--bench-threads", args.threads, *map(str, files)]
    if args.seconds is not None:
        command += ["--bench-seconds", str(args.seconds)]
    command += ["--bench-peers"] if args.peers else []
    command += ["--bench-save"] if args.save else []
    if not args.json:
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "rows.json"
        command += ["--bench-json", str(result)]
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if result.exists():
            print(result.read_text(), end="")
    return status


def _bench_cuda(args: argparse.Namespace) -> int:
    given = {"--threads": args.threads != "1", "--peers": args.peers, "--save": args.save}
    reasons = [f"{option} is for the CPU" for option, there in given.items() if there]
    whole = sorted({"model", "acceptance"} & set(args.family))
    reasons += [f"{name!r} times a whole model, on the CPU" for name in whole]
    if reasons:
        raise UnsupportedError("bench", reasons, remedy="On a GPU kernel families are timed.")
    sys.path.insert(0, str(_folder(args.dir).resolve().parent))
    from benchmarks.on_gpu import run as run_on_gpu

    seconds = 0.4 if args.seconds is None else args.seconds
    result = run_on_gpu(args.family, seconds=seconds, json=args.json)
    if args.json:
        print(json.dumps(result))
    return 0


def _bench_model(args: argparse.Namespace) -> int:
    from .bench_model import run as bench_model

    folder = _folder(args.dir) if args.save else None
    result = bench_model(args)
    if folder:
        sys.path.insert(0, str(folder.resolve().parent))
        from benchmarks.record import save_model

        print(f"written: {save_model(result.as_dict())}", file=sys.stderr)
    return 0


def _folder(asked: Path | None) -> Path:
    source_tree = Path(__file__).resolve().parents[3]
    candidates = [asked] if asked else [Path.cwd() / "benchmarks", source_tree / "benchmarks"]
    for folder in candidates:
        if (folder / "harness.py").is_file():
            return folder
    raise UnsupportedError(
        "bench",
        [f"no benchmarks in {' or '.join(map(str, candidates))}"],
        remedy="They are part of the source tree: run inside it, or name it with --dir.",
    )


def _file(folder: Path, family: str) -> Path:
    file = folder / f"bench_{family}.py"
    if not file.is_file():
        known = sorted(p.stem.removeprefix("bench_") for p in folder.glob("bench_*.py"))
        raise UnsupportedError(
            "bench", [f"no family {family!r}"], remedy=f"There are {', '.join(known)}."
        )
    return file
