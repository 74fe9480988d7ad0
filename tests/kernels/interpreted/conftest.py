"""Tests of Triton kernels on CPU tensors, by Triton's interpreter.

`triton.jit` reads TRITON_INTERPRET when a kernel is defined, for the whole process, so these files
are collected only where it is 1. `tests/kernels/test_interpreted.py` runs each of them in its own
process; by hand: `TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted`. bf16 is tested on
a GPU, because the interpreter truncates where it should round.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
