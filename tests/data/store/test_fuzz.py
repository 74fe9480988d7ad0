"""Damaged corpora and manifests are refused with their name, or hold the right data.

1,500 mutations, or as many as TRESSE_FUZZ says: `TRESSE_FUZZ=10000 python -m pytest
tests/data/store/test_fuzz.py`.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, end, start

NUM_MUTATIONS = int(os.environ.get("TRESSE_FUZZ", "1500"))
SECONDS_EACH = 0.1
"""Limit in seconds for a hang; a run usually takes a hundredth of it."""


@pytest.mark.slow
def test_no_damage_crashes_hangs_or_gives_other_data() -> None:
    worker = str(ROOT / "tests" / "support" / "workers" / "fuzz.py")
    process = start(sys.executable, "-X", "faulthandler", worker, "0", str(NUM_MUTATIONS))
    try:
        output, errors = process.communicate(timeout=60 + SECONDS_EACH * NUM_MUTATIONS)
    except subprocess.TimeoutExpired:
        end(process.pid)
        output, errors = process.communicate()
        errors += "\nit hangs"
    lines = output.splitlines()
    assert process.returncode == 0, f"mutation {lines[-1] if lines else 'none'}:\n{errors}"
    counts = json.loads(lines[-1])
    assert sum(counts.values()) == NUM_MUTATIONS
    # The mutations reach all that they are made for.
    for outcome in ("sealed corpus verified", "sealed corpus opened, not verified"):
        assert counts[outcome] > NUM_MUTATIONS / 200, counts
    assert counts["manifest right"] > NUM_MUTATIONS / 200, counts
    assert counts["unsealed corpus opened, not verified"] > 0, counts
