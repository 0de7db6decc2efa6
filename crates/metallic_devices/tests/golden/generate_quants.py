"""Writes quants_v1.bin: blocks of every format and the f32 values the gguf package gives them.

Run from this folder: pip install gguf numpy, then python generate_quants.py
File: b"MQGD", u32 schema version, u32 entries, then for each: u32 name length, name, u32 elements,
u32 bytes, the bytes, the elements as f32. All little-endian. Entry "encode q8_0" holds f32 input
and the Q8_0 bytes it encodes to.
"""

import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

VERSION = 1
# name, type, block length, block bytes, byte positions of f16 fields
FORMATS = [
    ("q8_0", T.Q8_0, 32, 34, [0]),
    ("q4_0", T.Q4_0, 32, 18, [0]),
    ("q4_1", T.Q4_1, 32, 20, [0, 2]),
    ("q5_0", T.Q5_0, 32, 22, [0]),
    ("q5_1", T.Q5_1, 32, 24, [0, 2]),
    ("q2_k", T.Q2_K, 256, 84, [80, 82]),
    ("q3_k", T.Q3_K, 256, 110, [108]),
    ("q4_k", T.Q4_K, 256, 144, [0, 2]),
    ("q5_k", T.Q5_K, 256, 176, [0, 2]),
    ("q6_k", T.Q6_K, 256, 210, [208]),
    ("iq4_nl", T.IQ4_NL, 32, 18, [0]),
    ("iq4_xs", T.IQ4_XS, 256, 136, [0]),
]

rng = np.random.default_rng(20)
entries = []


def add(name, raw, values):
    values = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    entries.append((name.encode(), len(values), raw.tobytes(), values.tobytes()))


for name, kind, length, size, halves in FORMATS:
    blocks = 3 if length == 32 else 2
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    for at in halves:
        scale = rng.normal(0, 0.02, blocks).astype("<f2")
        scale[-1] = np.float16(3e-6)  # a subnormal f16
        raw[:, at : at + 2] = scale.view(np.uint8).reshape(blocks, 2)
    add(name, raw, quants.dequantize(raw.reshape(1, -1), kind))

plain = rng.normal(0, 1, 32).astype("<f4")
add("f32", plain.view(np.uint8), plain)
half = plain.astype("<f2")
half[:4] = [0.0, -0.0, 65504.0, 5.96e-8]
add("f16", half.view(np.uint8), half.astype(np.float32))
brain = (plain.view("<u4") >> 16).astype("<u2")
add("bf16", brain.view(np.uint8), (brain.astype("<u4") << 16).view("<f4"))

inputs = rng.normal(0, 3, 128).astype(np.float32)
inputs[32:64] = 0.0
inputs[64:96] = np.linspace(-127, 127, 32).round() / 2
inputs[95] = 127.0  # scale 1: halves are rounded away from zero
add("encode q8_0", quants.quantize(inputs.reshape(1, -1), T.Q8_0), inputs)

with open("quants_v1.bin", "wb") as file:
    file.write(b"MQGD" + struct.pack("<II", VERSION, len(entries)))
    for name, elements, raw, values in entries:
        file.write(struct.pack("<I", len(name)) + name)
        file.write(struct.pack("<II", elements, len(raw)) + raw + values)
