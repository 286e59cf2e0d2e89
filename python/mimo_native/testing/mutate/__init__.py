"""Does a test suite notice when a kernel's synchronisation is broken? Break it everywhere, and see.

Every barrier, wait, fence, commit, predicate and synchronisation constant in a kernel's PTX is
removed or shifted, one at a time, and the kernel's cases run on the simulated GPU. A mutant that
no case and no checker notices survives: a missing test, a missing check, or a change that makes no
difference.

    python -m mimo_native.testing.mutate rms_norm
"""

from . import (  # register their subjects, and what is argued
    attention_argued,
    attention_cases,
    compiler,
    experts_cases,
    gemm_argued,
    gemm_cases,
    routing_argued,
    routing_cases,
    sampling_argued,
    small_argued,
    small_cases,
)
from .arguments import ARGUMENTS, Argument, argue
from .campaign import run
from .mutations import Mutation, apply, mutations
from .ptx import Ptx
from .result import Outcome, Result, stale
from .subjects import SUBJECTS, Subject, register

__all__ = [
    "ARGUMENTS",
    "SUBJECTS",
    "Argument",
    "Mutation",
    "Outcome",
    "Ptx",
    "Result",
    "Subject",
    "apply",
    "argue",
    "attention_argued",
    "attention_cases",
    "compiler",
    "experts_cases",
    "gemm_argued",
    "gemm_cases",
    "mutations",
    "register",
    "routing_argued",
    "routing_cases",
    "run",
    "sampling_argued",
    "small_argued",
    "small_cases",
    "stale",
]
