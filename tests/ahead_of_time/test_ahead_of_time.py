"""Machine code of the kernels as they are launched: no spills, rows moved 16 bytes at a time.

They are compiled without a GPU, with the arguments that `tests/ahead_of_time/launches/` lists.
"""

import os
import re

import pytest
import triton
from torch.torch_version import TorchVersion

from tests.ahead_of_time.compiling import Launch, compile_for, registered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1",
        reason="TRITON_INTERPRET is set: nothing is compiled",
    ),
]

# The versions that GPUs and CPUs have run. Others spill 8 to 64 bytes in up to four kernels: 3.5 in
# the update of AdamW, 3.8 and 3.9 in fp32.
MAX_STACK = 0 if "3.6" <= TorchVersion(triton.__version__) < "3.8" else 64
COMPILED = [(launch, capability) for launch in registered() for capability in launch.capabilities]


def compiled(cases: list[tuple[Launch, int]]) -> pytest.MarkDecorator:
    """Return the cases as parameters; `make test LONG=1` has those of Ampere too."""
    parameters = [
        pytest.param(
            launch,
            capability,
            id=f"{launch.name} sm_{capability}",
            marks=[pytest.mark.long] if capability == 80 else [],
        )
        for launch, capability in cases
    ]
    return pytest.mark.parametrize(("launch", "capability"), parameters)


@compiled(COMPILED)
def test_nothing_spills_and_rows_move_128_bits_at_a_time(launch: Launch, capability: int):
    code = compile_for(capability, launch)
    assert code.stack <= MAX_STACK
    assert MAX_STACK or code.spills == 0
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
