"""``mimo-native generate``: one prompt in, text out as it comes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from ..errors import ShapeError

if TYPE_CHECKING:
    from ..inference import Completion, Engine, Sampling
    from ..text import Tokenizer

SUMMARY = "complete a prompt"
EXAMPLES = (
    'mimo-native generate "What is the capital of France?"',
    "mimo-native generate --temperature 0.7 --top-p 0.9 --seed 1 'Write a haiku about rain.'",
    "mimo-native generate --model FILE.gguf --raw 'Once upon a time' --max-tokens 100",
    "mimo-native generate --speculative auto 'Write a JSON list of ten cities.'",
    "mimo-native generate --model nano --raw --speculative tree --show-tree 'Table of 7'",
    "mimo-native generate --mtp models/smollm2-mtp --speculative chain 'Name ten cities.'",
    "git diff | mimo-native generate --system 'Summarise this change.' --json",
)

_INTERRUPTED = 130
# Option, type, default, what it does. The names are those of mimo_native.Sampling.
_SAMPLING = (
    ("max_tokens", int, 256, "end after this many tokens"),
    ("temperature", float, 0.0, "0 takes the likeliest token, 1 the model's own distribution"),
    ("top_k", int, 0, "sample among the k likeliest tokens; 0 is off"),
    ("top_p", float, 1.0, "sample among the likeliest tokens of this total probability"),
    ("min_p", float, 0.0, "drop tokens below this fraction of the likeliest one's probability"),
    ("repetition_penalty", float, 1.0, "divide the scores of tokens that have occurred"),
    ("presence_penalty", float, 0.0, "subtract from the scores of generated tokens, once"),
    ("frequency_penalty", float, 0.0, "subtract from the scores of generated tokens, each time"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="the prompt; standard input without one, or -")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="smollm2",
        help="smollm2 (the default, fetched on first use), nano, FILE.gguf, a directory, a hub id",
    )
    model.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    model.add_argument(
        "--kv-format",
        choices=("bf16", "int8", "e4m3"),
        help="how global layers store keys and values (default: as they are computed)",
    )
    model.add_argument("--threads", type=int, help="threads of the kernels (default: torch's)")
    add_speculative(model)
    model.add_argument(
        "--show-tree", action="store_true", help="print every draft tree and what was accepted"
    )
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument("--system", help="a system message before the prompt")
    prompt.add_argument("--raw", action="store_true", help="no chat template: continue the prompt")
    sampling = parser.add_argument_group("sampling")
    for name, kind, default, text in _SAMPLING:
        option = "--" + name.replace("_", "-")
        sampling.add_argument(option, type=kind, default=default, help=f"{text} ({default})")
    sampling.add_argument("--seed", type=int, help="the same seed gives the same text")
    sampling.add_argument("--stop", action="append", default=[], help="end before this text")
    sampling.add_argument("--ignore-eos", action="store_true", help="go on after an end token")
    sampling.add_argument("--logprobs", action="store_true", help="report them (with --json)")


def add_speculative(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--mtp", metavar="DIR", help="MTP heads for a model that has none")
    group.add_argument(
        "--speculative",
        choices=("off", "chain", "tree", "auto"),
        default="off",
        help="verify drafted tokens, several in one pass: same text, sooner where it repeats (off)",
    )


def _engine_class(args: argparse.Namespace) -> type[Engine]:
    from ..inference import Engine

    if not args.show_tree:
        return Engine
    if args.speculative == "off" or args.json:
        raise ShapeError(
            "generate",
            "--show-tree",
            expected="--speculative chain, tree or auto beside it, and no --json",
            got=f"--speculative {args.speculative}" + (" --json" if args.json else ""),
        )
    from .show_tree import TreeEngine

    TreeEngine.colour = sys.stdout.isatty()
    return TreeEngine


def run(args: argparse.Namespace) -> int:
    engine_class = _engine_class(args)
    prompt = _prompt(args.prompt)
    import torch

    from .. import loading

    if args.threads is not None:
        if args.threads < 1:
            raise ShapeError("generate", "--threads", expected=">= 1", got=str(args.threads))
        torch.set_num_threads(args.threads)
    sampling = _sampling(args)
    began = time.perf_counter()
    model, tokenizer = loading.load(args.model, dtype=getattr(torch, args.dtype), mtp=args.mtp)
    loaded = time.perf_counter() - began

    ids = _encode(tokenizer, prompt, args)
    engine = engine_class(
        model,
        max_batch=1,
        max_tokens=len(ids) + sampling.max_tokens,
        speculative=None if args.speculative == "off" else args.speculative,
        kv_format=args.kv_format,
    )
    index = engine.add(ids, sampling)
    status = 0
    try:
        while engine.has_work:
            for piece in engine.step():
                if not args.json and not args.show_tree:
                    print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        engine.cancel(index)
        status = _INTERRUPTED
    completion = engine.finished[index].completion()
    if args.json:
        print(json.dumps(_record(args.model, completion, loaded)))
    else:
        print(completion.text if args.show_tree else "")
        print(_summary(completion, loaded), file=sys.stderr)
    return status


def _prompt(argument: str | None) -> str:
    if argument not in (None, "-"):
        return argument
    piped = "" if argument is None and sys.stdin.isatty() else sys.stdin.read()
    if not piped:
        raise ShapeError(
            "generate",
            "PROMPT",
            expected="a prompt as argument or on standard input",
            got="neither",
            remedy='Try: mimo-native generate "What is the capital of France?"',
        )
    return piped.removesuffix("\n")  # the one that echo adds is not meant


def _sampling(args: argparse.Namespace) -> Sampling:
    from ..inference import Sampling

    if args.temperature == 0:
        for name, _, default, _ in _SAMPLING:
            if name not in ("top_k", "top_p", "min_p") or getattr(args, name) == default:
                continue
            option = "--" + name.replace("_", "-")
            print(f"{option} has no effect at temperature 0, which is greedy", file=sys.stderr)
    return Sampling(
        **{name: getattr(args, name) for name, *_ in _SAMPLING},
        seed=args.seed,
        stop=tuple(args.stop),
        ignore_eos=args.ignore_eos,
        logprobs=args.logprobs,
    )


def _encode(tokenizer: Tokenizer, prompt: str, args: argparse.Namespace) -> list[int]:
    """Token ids of the prompt, as a user's turn where the model has a chat template."""
    if args.raw or tokenizer.chat is None:
        if args.system is not None:
            raise ShapeError(
                "generate",
                "--system",
                expected="a model with a chat template, without --raw",
                got="--raw" if args.raw else "a model without one",
                remedy="Put the text into the prompt.",
            )
        return tokenizer.encode(prompt)
    messages = [] if args.system is None else [{"role": "system", "content": args.system}]
    return tokenizer.apply_chat([*messages, {"role": "user", "content": prompt}])


def _summary(completion: Completion, loaded: float) -> str:
    stats = completion.stats
    parts = [
        f"loaded in {loaded:.2f} s",
        f"first token after {stats.time_to_first_token:.3f} s",
        f"prefill {stats.prefill_tokens_per_second:.1f} tokens/s ({stats.prompt_tokens})",
        f"decode {stats.decode_tokens_per_second:.1f} tokens/s ({stats.completion_tokens})",
        f"ended by {completion.finish_reason}",
    ]
    if stats.drafted:
        parts.insert(4, f"{stats.accept_length:.2f} tokens a pass")
    return "[" + ", ".join(parts) + "]"


def _record(model: str, completion: Completion, loaded: float) -> dict[str, object]:
    stats = completion.stats
    return {
        "model": model,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "logprobs": completion.logprobs,
        "seed": stats.seed,
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "load_seconds": loaded,
        "time_to_first_token": stats.time_to_first_token,
        "prefill_tokens_per_second": stats.prefill_tokens_per_second,
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "accept_length": stats.accept_length,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "draft_seconds": stats.draft_time,
        "verify_seconds": stats.verify_time,
    }
