"""Machine code of the kernels as they are launched: no spills, rows moved 16 bytes at a time.

They are compiled without a GPU, with the arguments that `tests/ahead_of_time/launches/` lists.
"""

import os
import re

import pytest

from tests.ahead_of_time.compiling import Launch, compile_for, registered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1",
        reason="TRITON_INTERPRET is set: nothing is compiled",
    ),
]

COMPILED = [(launch, capability) for launch in registered() for capability in launch.capabilities]


def compiled(cases: list[tuple[Launch, int]]) -> pytest.MarkDecorator:
    ids = [f"{launch.name} sm_{capability}" for launch, capability in cases]
    return pytest.mark.parametrize(("launch", "capability"), cases, ids=ids)


@compiled(COMPILED)
def test_nothing_spills_and_rows_move_128_bits_at_a_time(launch: Launch, capability: int):
    code = compile_for(capability, launch)
    assert code.stack == 0
    assert code.spills == 0
    loads = code.count(r"LDG(?:STS)?\.\S*")  # LDGSTS goes straight to shared memory
    wide_loads = code.count(r"LDG(?:STS)?\.\S*\.128\S*")
    stores, wide_stores = code.count(r"STG\S*"), code.count(r"STG\S*\.128\S*")
    assert loads > 0
    assert loads - wide_loads <= launch.narrow_loads, "some loads are narrower"
    assert stores - wide_stores <= launch.narrow_stores, "some stores are narrower"


@compiled([case for case in COMPILED if case[0].tensor_cores])
def test_matrix_products_run_on_the_tensor_cores(launch: Launch, capability: int):
    code = compile_for(capability, launch)
    by_warp_groups, by_warps = code.count(r"HGMMA\S*"), code.count(r"HMMA\S*")
    assert (by_warp_groups > 0, by_warps > 0) == (capability == 90, capability < 90)
    assert code.count(r"LDGSTS\S*") > 0, "tiles are not fetched ahead"


@pytest.mark.parametrize("launch", registered(), ids=lambda c: c.name)
def test_rows_are_offset_by_64_bit_integers(launch: Launch):
    ttir = compile_for(launch.capabilities[0], launch).ttir
    offsets = re.findall(r"tt\.addptr [^\n]* : !tt\.ptr<\w+>, (\w+)", ttir)
    assert offsets
    assert set(offsets) == {"i64"}
