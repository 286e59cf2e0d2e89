"""Random problems of every op: ``python -m tests.fuzz``."""
