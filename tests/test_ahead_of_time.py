"""Machine code of the kernels as they are launched: no spills, rows moved 16 bytes at a time.

Compiled without a GPU; what a kernel is compiled with stands in `tests/aot_*.py`.
"""

import os
import re

import pytest

from tests.aot import TARGETS, Configuration, compile_for, registered

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1",
    reason="TRITON_INTERPRET is set: nothing is compiled",
)


@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("configuration", registered(), ids=lambda c: c.name)
def test_nothing_spills_and_rows_move_128_bits_at_a_time(
    configuration: Configuration, capability: int
):
    code = compile_for(capability, configuration)
    assert code.stack == 0
    assert code.spills == 0
    loads, wide_loads = code.count(r"LDG\S*"), code.count(r"LDG\S*\.128\S*")
    stores, wide_stores = code.count(r"STG\S*"), code.count(r"STG\S*\.128\S*")
    assert wide_loads > 0
    assert loads - wide_loads <= configuration.narrow_loads, "some loads are narrower"
    assert stores - wide_stores <= configuration.narrow_stores, "some stores are narrower"


@pytest.mark.parametrize("configuration", registered(), ids=lambda c: c.name)
def test_rows_are_offset_by_64_bit_integers(configuration: Configuration):
    ttir = compile_for(TARGETS[0], configuration).ttir
    offsets = re.findall(r"tt\.addptr [^\n]* : !tt\.ptr<\w+>, (\w+)", ttir)
    assert offsets
    assert set(offsets) == {"i64"}
