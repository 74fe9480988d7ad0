"""Compile Triton kernels for GPUs that the machine does not have, and read the machine code.

The files of `launches/` list the launches of the kernels. `python -m tests.ahead_of_time.compiling`
compiles all of them for TARGETS and prints a table; `test_ahead_of_time.py` checks the rules. The
process must not have TRITON_INTERPRET set. The disassembler is part of Triton.
"""

import importlib
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = (90, 80)  # Hopper, and Ampere as the oldest we support
TOOLS = Path(next(iter(nvidia.__path__))) / "bin"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A specialisation of a kernel, as its launcher compiles it."""

    name: str
    kernel: Any
    """The `triton.jit` function; of an autotuned kernel its `fn`."""
    signature: Mapping[str, str]
    """Type of every run-time argument, in order: `*bf16`, `*fp32`, `*i64`, `i32` and so on."""
    constexprs: Mapping[str, object]
    unaligned: frozenset[str] = frozenset()
    """Arguments that are not multiples of 16 (bytes of a pointer, value of an integer)."""
    num_warps: int = 4
    num_stages: int = 3
    narrow_loads: int = 0
    """Number of loads in the code that may be narrower than 128 bits, such as those of scalars."""
    narrow_stores: int = 0
    """Number of stores in the code that may be narrower than 128 bits."""
    tensor_cores: bool = False
    """The work is matrix products of 16-bit numbers, which tensor cores do: wgmma on Hopper."""
    capabilities: tuple[int, ...] = TARGETS
    """Compute capabilities to compile for."""


@dataclass(frozen=True)
class MachineCode:
    """Machine code; registers and bytes of stack are per thread, shared bytes per program."""

    registers: int
    stack: int
    shared: int
    sass: str = field(repr=False)
    ttir: str = field(repr=False)
    """The kernel in Triton's own form, before it is optimised for a GPU."""

    @property
    def spills(self) -> int:
        """Number of instructions that read or write local memory."""
        return self.count(r"LDL|STL")

    def count(self, opcode: str) -> int:
        """Count the instructions whose opcode matches the pattern from its start."""
        return len(re.findall(rf"^\s+/\*\w+\*/\s+(?:@!?\w+\s+)?(?:{opcode})\b", self.sass, re.M))


def registered() -> list[Launch]:
    """Collect the LAUNCHES of every file of launches/, in the order of their names."""
    names = sorted(path.stem for path in (Path(__file__).parent / "launches").glob("*.py"))
    modules = [importlib.import_module(f"tests.ahead_of_time.launches.{name}") for name in names]
    return [launch for module in modules for launch in module.LAUNCHES]


def compile_for(capability: int, launch: Launch) -> MachineCode:
    """Compile for a compute capability: 90 is sm_90 and so on."""
    kernel, signature = launch.kernel, dict(launch.signature)
    constants = dict(launch.constexprs)
    aligned = [
        (kernel.arg_names.index(name),)
        for name, kind in signature.items()
        if (kind[0] == "*" or kind[0] == "i") and name not in launch.unaligned
    ]
    source = ASTSource(
        fn=kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={key: [["tt.divisibility", 16]] for key in aligned},
    )
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, stack, sass = _read(compiled.asm["cubin"])
    return MachineCode(registers, stack, compiled.metadata.shared, sass, compiled.asm["ttir"])


def _read(cubin: bytes) -> tuple[int, int, str]:
    """Read registers, bytes of stack and disassembly."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("--dump-sass", file.name)
    sizes = re.search(r"\bREG:(\d+) STACK:(\d+)", usage)
    assert sizes, f"cuobjdump says nothing of registers:\n{usage}"
    return int(sizes[1]), int(sizes[2]), sass


def _cuobjdump(*arguments: str) -> str:
    command = [str(TOOLS / "cuobjdump"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Print a table of all launches."""
    print(f"{'kernel':<48} sm  reg stack shared spills  LDG LDG.128  STG STG.128 HGMMA HMMA")
    for launch in registered():
        for capability in launch.capabilities:
            code = compile_for(capability, launch)
            loads, stores = code.count(r"LDG(?:STS)?\.\S*"), code.count(r"STG\S*")
            wide = code.count(r"LDG\S*\.128\S*"), code.count(r"STG\S*\.128\S*")
            products = code.count(r"HGMMA\S*"), code.count(r"HMMA\S*")
            print(
                f"{launch.name:<48} {capability} {code.registers:4} {code.stack:5} "
                f"{code.shared:6} {code.spills:6} {loads:4} {wide[0]:7} {stores:4} {wide[1]:7} "
                f"{products[0]:5} {products[1]:4}"
            )


if __name__ == "__main__":
    main()
