"""``mimo-native bench speculative``: what drafts bring and cost, beside plain decoding.

Every comparison alternates plain and speculative runs of the same request in one process; a
speed-up is the geometric mean over these pairs, with its lower 95 % bound. Both texts are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from ..inference.speculation import Plan
    from ..nn import MiMoForCausalLM
    from ..text import Tokenizer

REPORT = "the report, on its own hardware: accept length up to 3.6, 2.6x"
BUDGETS, BATCHES, WIDTHS = (1, 2, 4, 8, 16, 32), (1, 2, 4, 8), (1, 2, 3, 4, 6, 8, 12, 16)
_T95 = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81)  # one-sided, by pairs - 1
_SHORTEST = 32  # tokens of a document that is worth beginning
_MODES = ("chain", "tree", "auto")
_TEXT = (
    "The harbour master wrote down every ship: its name, its flag, the hour it came in and the "
    "hour it left. On the third of May the Ada arrived at 07:15 with 40 barrels of oil, the Brita "
    "at 09:30 with timber, and the Carla at 11:45, empty. Nobody asked why the Carla was empty."
)
_PROMPTS = {
    "copying": f"Repeat this text exactly, twice.\n\n{_TEXT}",
    "list": "List the numbers from 1 to 60, one per line, each as 'Number N'.",
    "code": "Write a Python class Stack with push, pop, peek, is_empty and size, with docstrings.",
    "prose": "Write a short story about a lighthouse.",
}


@dataclass(frozen=True)
class Row:
    """One comparison: ``rates`` in tokens per second."""

    what: str
    domain: str
    temperature: float
    batch: int
    accept_length: float
    plain_rate: float
    rate: float
    speed_up: float
    lower_95: float
    pairs: int
    identical: bool


def run(args: argparse.Namespace) -> int:
    import torch

    from .. import loading

    torch.set_num_threads(int(args.threads.split(",")[0]))
    model, tokenizer = loading.load(args.model, mtp=args.mtp)
    prompts = _domains(args.model, tokenizer, args.rounds)
    if args.domain:
        prompts = {name: prompts[name] for name in args.domain.split(",")}
    bench = _Bench(model, args.rounds, args.tokens)
    rows = []
    for temperature in (float(t) for t in args.temperature.split(",")):
        for domain, ids in prompts.items():
            for mode in _MODES:
                rows.append(bench.compare(mode, domain, ids, temperature))
                _say(args, rows[-1])
    if args.sweep:
        domain = next(iter(prompts))
        for budget in BUDGETS:
            rows.append(
                bench.compare(f"tree of {budget}", domain, prompts[domain], 0.0, _tree(budget))
            )
            _say(args, rows[-1])
        for batch in BATCHES:
            rows.append(bench.compare("auto", domain, prompts[domain], 0.0, batch=batch))
            _say(args, rows[-1])
    widths = bench.widths(next(iter(prompts.values()))[0])
    result = {
        "model": args.model,
        "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
        "verify_seconds": widths,
    }
    if args.save:
        from benchmarks.record import save_speculation

        print(f"written: {save_speculation(result)}", file=sys.stderr)
    if args.plot:
        result["plot"] = str(_plot(rows, widths, args.plot))
    if args.json:
        print(json.dumps(result))
    else:
        costs = ", ".join(f"{n}: {1e6 * s:.0f}" for n, s in widths.items())
        print(f"a pass over so many nodes, in us: {costs}\n({REPORT})")
    return 0 if all(row.identical for row in rows) else 1


class _Bench:
    def __init__(self, model: MiMoForCausalLM, pairs: int, tokens: int) -> None:
        self.model, self.pairs, self.tokens = model, pairs, tokens

    def compare(
        self,
        what: str,
        domain: str,
        prompts: Sequence[list[int]],
        temperature: float,
        plan: Plan | None = None,
        *,
        batch: int = 1,
    ) -> Row:
        """Pairs of runs in turn, the order changing, after one that is not counted."""
        logs, seconds, tokens, passes = [], [0.0, 0.0], 0, 0
        identical = True
        mode = what if what in _MODES else "tree"
        for pair in range(-1, self.pairs):
            asked = [prompts[(pair + i) % len(prompts)] for i in range(batch)]
            took, texts, drawn = [0.0, 0.0], [None, None], (0, 0)
            for side in (0, 1) if pair % 2 else (1, 0):
                took[side], texts[side], counts = self._one(
                    asked, mode if side else None, plan if side else None, temperature, pair + 1
                )
                drawn = counts if side else drawn
            identical &= texts[0] == texts[1]
            if pair < 0:
                continue
            logs.append(math.log(took[0] / took[1]))
            seconds = [a + b for a, b in zip(seconds, took, strict=True)]
            tokens, passes = tokens + drawn[0], passes + drawn[1]
        mean = sum(logs) / len(logs)
        spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / max(len(logs) - 1, 1) / len(logs))
        t = _T95[min(len(logs) - 2, len(_T95) - 1)] if len(logs) > 1 else math.inf
        return Row(
            what,
            domain,
            temperature,
            batch,
            tokens / passes,
            tokens / seconds[0],
            tokens / seconds[1],
            math.exp(mean),
            math.exp(mean - t * spread),
            len(logs),
            identical,
        )

    def _one(
        self,
        prompts: Sequence[list[int]],
        mode: Any,
        plan: Plan | None,
        temperature: float,
        seed: int,
    ) -> tuple[float, list[list[int]], tuple[int, int]]:
        """Seconds from the first tokens on, all tokens, and (tokens, passes) of these."""
        from ..inference import Engine, Sampling

        sampling = Sampling(
            temperature=temperature, seed=seed, max_tokens=self.tokens, ignore_eos=True
        )
        longest = max(len(p) for p in prompts) + self.tokens
        engine = Engine(self.model, max_batch=len(prompts), max_tokens=longest, speculative=mode)
        if plan is not None and engine.speculator is not None:
            engine.speculator.plan = plan
        for prompt in prompts:
            engine.add(prompt, sampling)
        while not all(r is not None and r.output for r in engine.rows):
            engine.step()
        before = sum(len(r.output) for r in engine.rows if r is not None)
        began = time.perf_counter()
        while engine.has_work:
            engine.step()
        seconds = time.perf_counter() - began
        done = [engine.finished[i] for i in range(len(prompts))]
        drawn = sum(len(r.output) for r in done) - before
        return seconds, [r.output for r in done], (drawn, sum(r.stats.decode_passes for r in done))

    def widths(self, prompt: list[int], turns: int = 40) -> dict[int, float]:
        """Median seconds of a pass over chains of so many nodes, all of them rejected or not."""
        from ..inference import Engine, Sampling
        from ..inference.speculation.draft import chain

        taken: dict[int, list[float]] = {n: [] for n in WIDTHS}
        engine = Engine(self.model, max_batch=1, max_tokens=len(prompt) + 4096, speculative="chain")
        engine.add(prompt, Sampling(temperature=0, max_tokens=4096, ignore_eos=True))
        engine.step()
        native = engine.speculator.native
        if native is None:
            raise UnsupportedError("bench", ["this model's rounds do not run in one native call"])
        engine.step()
        [request] = engine.rows
        for turn in range(turns * len(WIDTHS)):
            nodes = WIDTHS[turn % len(WIDTHS)]
            native.ready()
            # Tokens that are unlikely to be drawn: the text moves on by about one a pass.
            draft = chain([(7 * turn + 3 * i) % 97 + 5 for i in range(nodes - 1)])
            round = native.run([request], extra=[draft])
            for token, logprob in zip(round.walks[0].tokens, round.walks[0].logprobs, strict=True):
                request.append(token, logprob)
            taken[nodes].append(round.verify_time)
        return {n: sorted(times)[len(times) // 2] for n, times in taken.items()}


def _tree(budget: int) -> Plan:
    from ..inference.speculation import Plan, TreeShape

    return Plan(TreeShape(width=min(4, budget), beam=min(4, budget), budget=budget))


def _domains(name: str, tokenizer: Tokenizer, count: int) -> dict[str, list[list[int]]]:
    """Prompts by domain: for nano the beginnings of its own kinds of documents."""
    if name != "nano":
        chats = {k: [{"role": "user", "content": text}] for k, text in _PROMPTS.items()}
        return {k: [tokenizer.apply_chat(chat)] for k, chat in chats.items()}
    from ..pretrain.nano.corpora import DOMAINS

    found = {}
    for domain, (documents, _) in DOMAINS.items():
        texts = documents(random.Random(f"bench {domain}"))
        encoded = []
        while len(encoded) < count:
            ids = tokenizer.encode(next(texts))
            if len(ids) >= _SHORTEST:
                encoded.append(ids)
        found[domain] = [ids[: min(max(8, len(ids) // 4), 80)] for ids in encoded]
    return found


def _say(args: argparse.Namespace, row: Row) -> None:
    if args.json:
        return
    print(
        f"{row.domain:8} T={row.temperature:g} B={row.batch} {row.what:10} "
        f"{row.accept_length:5.2f} tokens a pass  {row.plain_rate:8.0f} -> {row.rate:8.0f} tokens/s"
        f"  {row.speed_up:.2f}x (at least {row.lower_95:.2f})"
        + ("" if row.identical else "  TEXTS DIFFER"),
        flush=True,
    )


def _plot(rows: Sequence[Row], widths: dict[int, float], output: Path) -> Path:
    """Speed-up against accept length, both against the budget, speed-up against batch, costs."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        reason = "plots need the package matplotlib"
        raise UnsupportedError("bench", [reason], remedy="Run `pip install matplotlib`.") from error
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).flat
    for mode in _MODES:
        points = [r for r in rows if r.what == mode and r.batch == 1]
        axes[0].scatter([r.accept_length for r in points], [r.speed_up for r in points], label=mode)
    axes[0].scatter([3.6], [2.6], marker="*", label="the report, at most")
    axes[0].set(xlabel="tokens a pass", ylabel="speed-up")
    trees = [(int(r.what.split()[-1]), r) for r in rows if r.what.startswith("tree of")]
    axes[1].plot([n for n, _ in trees], [r.accept_length for _, r in trees], label="tokens a pass")
    axes[1].plot([n for n, _ in trees], [r.speed_up for _, r in trees], label="speed-up")
    axes[1].set(xlabel="node budget")
    batches = [r for r in rows if r.what == "auto" and rows and r.domain == rows[0].domain]
    axes[2].plot([r.batch for r in batches], [r.speed_up for r in batches], "o", label="auto")
    axes[2].set(xlabel="batch", ylabel="speed-up")
    axes[3].plot(list(widths), [1e6 * s for s in widths.values()], label="verification")
    axes[3].set(xlabel="nodes", ylabel="us a pass", ylim=(0, None))
    for axis in axes:
        axis.legend()
    figure.savefig(output)
    return output
