"""Jobs that need one another's results, in worker processes with one thread each.

A stage of training is bitwise the same on one thread as on several, and gains little from more of
them at this size; stages beside each other gain all of it.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Job", "run_jobs", "usable_cores"]

_AGAIN = 0.5  # seconds between requests to stop


@dataclass(frozen=True)
class Job:
    """``call(*args)``, once the jobs named in ``needs`` are done. All of it can be pickled."""

    name: str
    needs: tuple[str, ...]
    call: Callable[..., None]
    args: tuple[Any, ...] = ()


def usable_cores() -> int:
    """Of the processors, those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], *, workers: int, tell: Callable[[str], None]) -> None:
    """Run all ``jobs``, which are listed after those they need; earlier ones come first.

    workers: processes; 1 runs everything in this one. The first error, or KeyboardInterrupt, ends
    the others too: training saves and stops, the rest is dropped. No process outlives this one.
    """
    if workers == 1:
        for i, job in enumerate(jobs):
            tell(f"{i}/{len(jobs)} running: {job.name}")
            job.call(*job.args)
        return
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with ours, theirs, ProcessPoolExecutor(workers, context, _begin, (theirs,)) as pool:
        try:
            _run(pool, jobs, workers, tell)
        except BaseException:
            ours.close()
            pool.shutdown(cancel_futures=True)
            raise


def _run(
    pool: ProcessPoolExecutor, jobs: Sequence[Job], workers: int, tell: Callable[[str], None]
) -> None:
    waiting, done = list(jobs), set[str]()
    running: dict[Future[None], str] = {}
    while waiting or running:
        for job in [job for job in waiting if done.issuperset(job.needs)]:
            if len(running) < workers:
                waiting.remove(job)
                running[pool.submit(job.call, *job.args)] = job.name
        tell(f"{len(done)}/{len(jobs)} running: {', '.join(running.values())}")
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            future.result()
            done.add(running.pop(future))


def _begin(parent: Connection) -> None:
    """In a new worker: one thread, and no other signal than that of the parent.

    A Ctrl-C reaches every process of a terminal; the parent decides what becomes of its workers.
    """
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Connection) -> None:
    """End when the parent closes its end of the pipe, or is gone: training catches the first
    signal, saves and stops; whatever runs then is ended by the next one.
    """
    parent.poll(None)
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_AGAIN)
