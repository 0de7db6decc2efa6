#!/usr/bin/env python3
"""Attention on random shapes against PyTorch in f64, through `metallic op sdpa`. Not a race.

    bench/peers/setup --torch
    cargo build --release
    bench/peers/.venv/bin/python bench/peers/torch_sdpa_random.py [--count 200] [--seed 1] [--device cuda:0]

Draws batch, heads, grouping, lengths, widths, type, scale and what hides keys. A result passes when it is as near to
the f64 one as the type's rounding of the result allows, or at most 1.5 times as far from it as PyTorch's own
scaled_dot_product_attention in that type. Rows that see no key are zero, where PyTorch gives NaN.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import scaled_dot_product_attention

ROOT = Path(__file__).resolve().parents[2]
HIDING = ("nothing", "causal", "offset", "window", "bool", "additive", "lens", "lens and causal", "causal and bool")
# Relative to the largest value: sums in f32 in another order, or rounding of scores and result to the type.
RELATIVE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


class Call:
    """One random call: tensors and flags for the program, and what PyTorch says."""

    def __init__(self, dice):
        self.dtype = dice.choice(list(RELATIVE))
        self.batch = dice.choice([1, 1, 2, 3, 5])
        kv_heads, self.group = dice.choice([1, 2, 3, 4]), dice.choice([1, 1, 2, 4, 7, 9])
        heads = kv_heads * self.group
        q_len = dice.choice([1, 1, 2, 3, 7, 16, 17, 64, 65, 100, 128, 129, 300])
        kv_len = dice.choice([q_len, q_len, 1, 5, 33, 64, 127, 256, 257, 500, 1000])
        width = dice.choice([1, 3, 8, 16, 32, 40, 48, 64, 64, 72, 80, 96, 112, 128, 128, 160, 192, 256])
        v_width = dice.choice([width, width, width, 8, 20, 64, 128])
        generator = torch.Generator().manual_seed(dice.randrange(1 << 30))

        def normal(*shape):
            return torch.randn(*shape, generator=generator).to(self.dtype)

        spread = dice.choice([0.3, 1.0, 4.0])
        self.tensors = {
            "q": normal(self.batch, heads, q_len, width) * spread,
            "k": normal(self.batch, kv_heads, kv_len, width),
            "v": normal(self.batch, kv_heads, kv_len, v_width),
        }
        self.flags = []
        self.hiding = dice.choice(HIDING)
        query, key = torch.arange(q_len)[:, None], torch.arange(kv_len)[None]
        bias = torch.zeros(self.batch, heads, q_len, kv_len, dtype=torch.float64)
        seen = torch.ones_like(bias, dtype=torch.bool)
        mask_shape = (dice.choice([1, self.batch]), dice.choice([1, heads]), dice.choice([1, q_len]), kv_len)
        diagonal = kv_len - q_len
        if self.hiding in ("offset", "causal and bool"):
            diagonal = dice.choice([0, 3, max(0, diagonal)])
            self.flags += ["--causal-offset", str(diagonal)]
        if self.hiding.startswith("lens"):
            lens = torch.randint(0, kv_len + 1, (self.batch,), generator=generator)
            self.tensors["kv_lens"] = lens.to(torch.int32)
            seen &= key < lens[:, None, None, None]
            diagonal = lens[:, None, None, None] - q_len
        if self.hiding in ("causal", "offset", "window", "lens and causal", "causal and bool"):
            self.flags.append("--causal")
            seen &= key <= query + diagonal
        if self.hiding == "window":
            left = dice.choice([0, 1, 5, 64])
            self.flags += ["--window-left", str(left)]
            seen &= key >= query + diagonal - left
        if self.hiding in ("bool", "causal and bool"):
            mask = torch.rand(mask_shape, generator=generator) > 0.4
            self.tensors["mask"] = mask
            seen &= mask
        if self.hiding == "additive":
            mask = normal(*mask_shape)
            mask[torch.rand(mask_shape, generator=generator) > 0.7] = float("-inf")
            self.tensors["mask"] = mask
            bias = bias + mask.double()
        self.scale = dice.choice([None, None, 0.05, 1.0])
        if self.scale:
            self.flags += ["--scale", str(self.scale)]
        self.bias = bias.masked_fill(~seen, float("-inf"))

    def __str__(self):
        shapes = " ".join(f"{name}{list(tensor.shape)}" for name, tensor in self.tensors.items())
        return f"{self.dtype} {shapes} {self.hiding} {' '.join(self.flags)}"

    def torch(self, dtype):
        """PyTorch's result in `dtype`, as f64."""
        q, k, v = (self.tensors[name].to(dtype) for name in ("q", "k", "v"))
        k, v = (tensor.repeat_interleave(self.group, 1) for tensor in (k, v))
        out = scaled_dot_product_attention(q, k, v, attn_mask=self.bias.to(dtype), scale=self.scale)
        return out.double().nan_to_num(0.0)


def complaint(arguments, backend, folder, call, want, peer):
    """What is wrong with one backend's result; None if nothing is."""
    given, taken = os.path.join(folder, "in.safetensors"), os.path.join(folder, "out.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in call.tensors.items()}, given)
    command = [arguments.binary, "op", "sdpa", "--inputs", given, "--output", taken, "--device", arguments.device]
    result = subprocess.run([*command, "--sdpa-backend", backend, *call.flags], capture_output=True, text=True, check=False)
    if result.returncode:
        return result.stderr.strip().splitlines()[-1]
    off = (load_file(taken)["out"].double() - want).abs().max().item()
    os.remove(taken)
    allowed = max(RELATIVE[call.dtype] * max(want.abs().max().item(), 0.1), 1.5 * (peer - want).abs().max().item())
    return None if off <= allowed else f"off by {off:.3e}, allowed {allowed:.3e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="how many calls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="Metallic's device; PyTorch uses the CPU")
    parser.add_argument("--binary", default=ROOT / "target/release/metallic")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    failed = ran = 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.count):
            call = Call(dice)
            want, peer = call.torch(torch.float64), call.torch(call.dtype)
            for backend in ("legacy", "graph"):
                wrong = complaint(arguments, backend, folder, call, want, peer)
                ran += 1
                if wrong is not None:
                    failed += 1
                    print(f"{backend}: {call}: {wrong}")
    print(f"{ran} compared, {failed} failed (seed {arguments.seed}, {arguments.device})")
    sys.exit(1 if failed or not ran else 0)


if __name__ == "__main__":
    main()
