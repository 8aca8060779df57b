"""These tests run kernels in Triton's interpreter, which is chosen before Triton is imported: in a process of its own.

`tests/unit/kernels/test_interpreted_kernels.py` starts it; by hand: TRITON_INTERPRET=1 pytest tests/interpreted
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
