"""A Triton kernel with everything it is called with: run it here, or compile it for a GPU that is not here.

Because the same object is launched and compiled, what compiles ahead of time is what runs. (Triton seen: 3.8.)
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Any

from torch import Tensor

from umt_ds.environment import Environment, temporary_folder
from umt_ds.errors import MachineError


def is_interpreted() -> bool:
    """Whether Triton was told to run kernels by its interpreter, on the CPU. Must be set before Triton is imported.

    Raises ConfigError for a word that is neither yes nor no."""
    return Environment().yes("TRITON_INTERPRET")


@dataclass(frozen=True)
class Launch:
    """kernel: a `triton.jit` function. arguments: by name, constexprs too. warps: of 32 threads, per program."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4

    def run(self) -> None:
        """On the device of the tensors."""
        self.kernel[self.grid](**self.arguments, num_warps=self.warps)


@dataclass(frozen=True)
class Compiled:
    """What the assembler says of a kernel: registers a thread, bytes of stack (spills) a thread, shared bytes."""

    registers: int
    stack: int
    shared: int


def compile_for(launch: Launch, capability: int) -> Compiled:
    """Compile to machine code for a compute capability, 80 or 90; needs no GPU. Tensors may be on the meta device.

    Raises MachineError under TRITON_INTERPRET=1, where there are no kernels to compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if is_interpreted():
        raise MachineError("the interpreter compiles nothing", hint="unset TRITON_INTERPRET")
    source = ASTSource(launch.kernel, *variant(launch))
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": launch.warps})
    return Compiled(*_resources(built.asm["cubin"], triton.knobs.nvidia.cuobjdump.path), built.metadata.shared)


def variant(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """What Triton compiles anew for: types, constants, and what it knows of pointers and numbers.

    By its launcher's rules: 1 is a constant, pointers and multiples of 16 are known as such.
    """
    from triton.runtime.jit import mangle_type

    types, constants, hints = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value, name = launch.arguments[parameter.name], parameter.name
        is_number = isinstance(value, int) and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (is_number and value == 1):
            types[name], constants[name] = "constexpr", value
            continue
        types[name] = parameter.annotation_type or mangle_type(value)
        if isinstance(value, Tensor) or (is_number and value % 16 == 0):
            hints[index,] = [["tt.divisibility", 16]]
    return types, constants, hints


def _resources(cubin: bytes, cuobjdump: str) -> tuple[int, int]:
    """Registers and bytes of stack of one thread."""
    with NamedTemporaryFile(suffix=".cubin", dir=temporary_folder()) as file:
        file.write(cubin)
        file.flush()
        command = [cuobjdump, "--dump-resource-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])
