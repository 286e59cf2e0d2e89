"""``mimo-native race``: one prompt, plain and speculative decoding side by side."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..inference import Completion, Engine, Sampling

SUMMARY = "stream plain and speculative decoding of one prompt side by side"
EXAMPLES = (
    "mimo-native race 'Count from 1 to 40.'",
    "mimo-native race --model nano --raw --speculative tree 'Table of 7\\n'",
    "mimo-native race --json --temperature 0.8 --seed 3 'Write a JSON list of cities.'",
)
_REFRESH = 0.05  # seconds between two pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt")
    parser.add_argument("--model", default="smollm2", help="as for generate (smollm2)")
    parser.add_argument("--mtp", metavar="DIR", help="MTP heads for a model that has none")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--raw", action="store_true", help="no chat template")
    parser.add_argument("--speculative", choices=("chain", "tree", "auto"), default="auto")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    import torch

    from .. import loading
    from ..inference import Engine, Sampling

    model, tokenizer = loading.load(args.model, dtype=getattr(torch, args.dtype), mtp=args.mtp)
    if args.raw or tokenizer.chat is None:
        ids = tokenizer.encode(args.prompt)
    else:
        ids = tokenizer.apply_chat([{"role": "user", "content": args.prompt}])
    sampling = Sampling(temperature=args.temperature, seed=args.seed, max_tokens=args.max_tokens)
    modes = (None, args.speculative)
    engines = [
        Engine(model, max_batch=1, max_tokens=len(ids) + args.max_tokens, speculative=mode)
        for mode in modes
    ]
    plain, fast = _race(engines, ids, sampling, show=not args.json and sys.stdout.isatty())
    identical = plain.token_ids == fast.token_ids
    rates = [done.stats.decode_tokens_per_second for done in (plain, fast)]
    if args.json:
        result = {
            "identical": identical,
            "plain_tokens_per_second": rates[0],
            "speculative_tokens_per_second": rates[1],
            "accept_length": fast.stats.accept_length,
            "text": plain.text,
        }
        print(json.dumps(result))
    else:
        if not sys.stdout.isatty():
            print(plain.text)
        print(
            f"plain {rates[0]:.1f} tokens/s, {args.speculative} {rates[1]:.1f} tokens/s: "
            f"{rates[1] / rates[0]:.2f}x at {fast.stats.accept_length:.2f} tokens a pass; "
            + ("identical" if identical else "DIFFERENT")
        )
    return 0 if identical else 1


def _race(
    engines: list[Engine], ids: list[int], sampling: Sampling, *, show: bool
) -> list[Completion]:
    """Step the engine that has used less time, so that both run as if each had the machine."""
    texts, spent = ["", ""], [0.0, 0.0]
    for engine in engines:
        engine.add(ids, sampling)
    drawn = 0.0
    while any(engine.has_work for engine in engines):
        turn = min((i for i, e in enumerate(engines) if e.has_work), key=lambda i: spent[i])
        began = time.perf_counter()
        pieces = engines[turn].step()
        spent[turn] += time.perf_counter() - began
        texts[turn] += "".join(piece.text for piece in pieces)
        if show and time.perf_counter() - drawn > _REFRESH:
            _draw(texts)
            drawn = time.perf_counter()
    if show:
        _draw(texts)
    return [engine.finished[0].completion() for engine in engines]


def _draw(texts: list[str]) -> None:
    """Both texts in columns, on a cleared screen."""
    size = shutil.get_terminal_size()
    width, height = (size.columns - 3) // 2, size.lines - 3
    columns = [_wrapped(text, width)[-height:] for text in texts]
    rows = [f"{'plain':<{width}} | speculative"]
    for i in range(max(len(column) for column in columns)):
        left, right = (column[i] if i < len(column) else "" for column in columns)
        rows.append(f"{left:<{width}} | {right}")
    print("\x1b[2J\x1b[H" + "\n".join(rows), flush=True)


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]]
