"""Runs the CUDA kernels that hold no PTX but conversions on this machine's CPU, thread by thread, against f64 loops.

Needs a C++20 compiler. It says nothing of speed, of the machine's own arithmetic or of kernels built on PTX. Run
through scripts/test-softcuda.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "crates/metallic_devices/src/cuda/kernels"
TESTS = ROOT / "tests/softcuda"

# PTX in numbers.cuh, as C++: the function's name and its body.
CONVERSIONS = {
    "f16_to_f32": ("float", "u16 bits", "return (float)bits_as<_Float16>(bits);"),
    "f32_to_f16": ("u16", "float value", "return bits_as<u16>((_Float16)value);"),
    "f32_to_bf16": (
        "u16",
        "float value",
        "const u32 bits = __float_as_uint(value);\n"
        "    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;",
    ),
}


def translated():
    """many_rows.cu with its header, in C++."""
    numbers = (KERNELS / "numbers.cuh").read_text(encoding="utf-8").replace("#pragma once", "")
    for name, (result, parameter, body) in CONVERSIONS.items():
        pattern = re.compile(rf"__device__ __forceinline__ {result} {name}\([^)]*\) \{{.*?\n\}}\n", re.DOTALL)
        numbers, count = pattern.subn(f"inline {result} {name}({parameter}) {{\n    {body}\n}}\n", numbers)
        assert count == 1, f"{name} is not in numbers.cuh as expected"
    kernels = (KERNELS / "many_rows.cu").read_text(encoding="utf-8").replace('#include "numbers.cuh"', numbers)
    assert "asm" not in kernels, "kernels with PTX cannot run here"
    return re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1 *\2 = (\1 *)dynamic_shared;", kernels)


def main():
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])), None)
    if compiler is None:
        sys.exit("test-softcuda: no C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernels.inc").write_text(translated(), encoding="utf-8")
        program = os.path.join(folder, "many_rows")
        command = [compiler, "-std=c++20", "-O1", "-w", f"-I{folder}", f"-I{TESTS}", str(TESTS / "many_rows.cpp")]
        subprocess.run([*command, "-o", program, "-pthread"], check=True)
        sys.exit(subprocess.run([program], check=False).returncode)


if __name__ == "__main__":
    main()
