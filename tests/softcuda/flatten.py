"""Writes one C++ file from a kernel's source: its headers in place, CUDA's words as those of device.hpp.

    flatten.py KERNEL OUT

The lowest headers are replaced where they hold instructions: conversions of numbers.cuh, dot4 and copy16 of
blocks_i8.cuh, all of persistent_asm.cuh, sdpa_hopper.cuh and sdpa_wgmma.cuh, and of sdpa_common.cuh conversions,
copies and products. Everything above them is the kernel's own text.
"""

import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
KERNELS = os.path.join(HERE, "../../crates/metallic_devices/src/cuda/kernels")
# A function that is replaced: from its first line to the blank line after it.
INSTRUCTIONS = {
    "numbers.cuh": ["float f16_to_f32(", "u16 f32_to_f16(", "u16 f32_to_bf16("],
    "blocks_i8.cuh": ["void copy16(", "i32 dot4("],
    "sdpa_common.cuh": [
        *["float half_to_float(", "u16 float_to_half(", "u16 float_to_bf16(", "u32 pack2(", "float exp2_fast("],
        *["u32 shared_address(", "void copy_async_16(", "void copy_commit(", "void copy_wait("],
        *["void load_matrix_4(", "void load_matrix_4_transposed(", "void multiply_add("],
    ],
}
# Headers that hold nothing else: what they include, and what takes their place.
REPLACED = {
    "persistent_asm.cuh": ("numbers.cuh", "instructions.hpp"),
    "sdpa_hopper.cuh": ("sdpa_common.cuh", "hopper.hpp"),
    "sdpa_wgmma.cuh": ("sdpa_common.cuh", "wgmma.hpp"),
}


def text_of(name):
    with open(os.path.join(KERNELS, name), encoding="utf-8") as file:
        return file.read()


def without(text, function):
    at = text.index("__device__ __forceinline__ " + function)
    if text[:at].endswith(">\n"):
        at = text.rindex("template <", 0, at)
    return text[:at] + text[text.index("\n\n", at) :]


def flatten(name, seen):
    if name in seen:
        return ""
    seen.add(name)
    if name in REPLACED:
        below, instead = REPLACED[name]
        return f'{flatten(below, seen)}\n#include "{instead}"\n'
    text = text_of(name)
    for function in INSTRUCTIONS.get(name, []):
        text = without(text, function)
    text = text.replace("#pragma once", "")
    if name == "numbers.cuh":
        # The types come first, what needs them after.
        text = text.replace("#define WARP 32", '#define WARP 32\n#include "conversions.hpp"')
    if name == "sdpa_common.cuh":
        text = text.replace("#define LOG2E", '#include "halves.hpp"\n#define LOG2E')
        text = text.replace("// --- matrix units", '#include "matrix_units.hpp"\n// --- matrix units')
    text = re.sub(r'#include "(\w+\.cuh)"', lambda found: flatten(found[1], seen), text)
    text = re.sub(r"extern __shared__ [^;]*?u8 shared\[\];", "u8 *shared = soft::shared;", text)
    text = re.sub(r"__shared__ (__align__\(\d+\) )?", "static thread_local ", text)
    return re.sub(r"__launch_bounds__\([^)]*\)", "", text)


def main():
    kernel, out = sys.argv[1:]
    with open(out, "w", encoding="utf-8") as file:
        file.write(flatten(kernel, set()))


if __name__ == "__main__":
    main()
