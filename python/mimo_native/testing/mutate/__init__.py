"""Does a test suite notice when a kernel's synchronisation is broken? Break it everywhere, and see.

Every barrier, wait, fence, commit, predicate and synchronisation constant in a kernel's PTX is
removed or shifted, one at a time, and the kernel's cases run on the simulated GPU. A mutant that
no case and no checker notices survives: a missing test, a missing check, or a change that makes no
difference.

    python -m mimo_native.testing.mutate rms_norm
"""

from . import (  # register their subjects
    attention_cases,
    experts_cases,
    gemm_cases,
    routing_cases,
    small_cases,
)
from .campaign import Outcome, Result, run
from .mutations import Mutation, apply, mutations
from .subjects import SUBJECTS, Subject, register

__all__ = [
    "SUBJECTS",
    "Mutation",
    "Outcome",
    "Result",
    "Subject",
    "apply",
    "attention_cases",
    "experts_cases",
    "gemm_cases",
    "mutations",
    "register",
    "routing_cases",
    "run",
    "small_cases",
]
