"""Tests of Triton kernels on CPU tensors, by Triton's interpreter.

`triton.jit` reads TRITON_INTERPRET when a kernel is defined, for the whole process: these files are
collected where it is 1 alone. `tests/test_interpreted.py` runs each of them in such a process, and
by hand it is `TRITON_INTERPRET=1 python -m pytest tests/interpreted`. bf16 is left to a GPU, as the
interpreter truncates where it should round.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
