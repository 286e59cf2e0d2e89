"""Tests share the machine: waiting OpenMP threads sleep instead of holding a core that is needed.

Set before torch loads the runtime. On two busy cores the suite is several times faster for it.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
