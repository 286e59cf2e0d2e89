"""``mimo-native chat``: a conversation in the terminal."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from ..errors import ShapeError, UnsupportedError
from .generate import add_speculative

if TYPE_CHECKING:
    from ..inference import Completion, Engine, Sampling

SUMMARY = "talk with a model; what was said stays in its cache"
EXAMPLES = (
    "mimo-native chat",
    "mimo-native chat --system 'Answer in one sentence.' --temperature 0.7 --seed 1",
    "printf 'Hello\\nWhat did I say?\\n' | mimo-native chat --json",
)
_HELP = "/new begins anew, /exit or an empty end of input leaves; Ctrl-C ends an answer."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="smollm2", help="as for generate (smollm2)")
    model.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    model.add_argument("--context", type=int, default=4096, help="tokens of a conversation (4096)")
    add_speculative(model)
    parser.add_argument("--system", help="a system message before the conversation")
    parser.add_argument("--max-tokens", type=int, default=512, help="of one answer (512)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    import torch

    from .. import loading
    from ..inference import Engine, Sampling

    if args.max_tokens >= args.context:
        raise ShapeError(
            "chat",
            "--max-tokens",
            expected=f"less than the context of {args.context}",
            got=str(args.max_tokens),
        )
    model, tokenizer = loading.load(args.model, dtype=getattr(torch, args.dtype), mtp=args.mtp)
    if tokenizer.chat is None:
        raise UnsupportedError(
            "chat", [f"{args.model} has no chat template"], remedy="Use mimo-native generate."
        )
    engine = Engine(
        model,
        max_batch=1,
        max_tokens=args.context,
        speculative=None if args.speculative == "off" else args.speculative,
    )
    sampling = Sampling(
        temperature=args.temperature, top_p=args.top_p, seed=args.seed, max_tokens=args.max_tokens
    )
    opening = [] if args.system is None else [{"role": "system", "content": args.system}]
    messages = list(opening)
    interactive = sys.stdin.isatty() and not args.json
    if interactive:
        print(_HELP, file=sys.stderr)
    while (said := _read(interactive)) is not None:
        if said in ("/exit", "/quit"):
            break
        if said == "/new":
            messages = list(opening)
            continue
        if not said:
            continue
        messages.append({"role": "user", "content": said})
        ids = tokenizer.apply_chat(messages)
        while len(ids) + args.max_tokens > args.context and len(messages) > len(opening) + 1:
            del messages[len(opening) : len(opening) + 2]  # the oldest question and its answer
            ids = tokenizer.apply_chat(messages)
        done = _answer(engine, ids, sampling, show=not args.json)
        messages.append({"role": "assistant", "content": done.text or ""})
        if args.json:
            record = {"user": said, "assistant": done.text, "token_ids": done.token_ids}
            print(json.dumps(record | {"accept_length": done.stats.accept_length}), flush=True)
    return 0


def _read(interactive: bool) -> str | None:
    if not interactive:
        line = sys.stdin.readline()
        return line.strip() if line else None
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None


def _answer(engine: Engine, ids: list[int], sampling: Sampling, *, show: bool) -> Completion:
    index = engine.add(ids, sampling)
    try:
        while engine.has_work:
            for piece in engine.step():
                if show:
                    print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        engine.cancel(index)
    done = engine.finished.pop(index).completion()
    if show:
        stats = done.stats
        passes = f", {stats.accept_length:.2f} tokens a pass" if stats.drafted else ""
        print()
        print(f"[{stats.decode_tokens_per_second:.0f} tokens/s{passes}]", file=sys.stderr)
    return done
