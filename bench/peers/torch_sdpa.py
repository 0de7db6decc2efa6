#!/usr/bin/env python3
"""Attention alone: PyTorch's scaled_dot_product_attention on the CPU and Metallic's two backends.

    bench/peers/setup --torch
    cargo build --release
    bench/peers/.venv/bin/python bench/peers/torch_sdpa.py [--quick]

Batches 1, 4, 8; lengths 128, 256, 512; head_dim 64 and 128 with the heads of Qwen2.5 0.5B and 1.5B;
causal and not; then longer prompts and decoding steps. For PyTorch the better of two forms counts: keys and
values repeated for every query head beforehand, outside the timed part, or `enable_gqa`. Each shape runs in
turns on PyTorch and Metallic. The table shows medians in µs; `torch/graph` above 1 means graph is faster.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import runs

HEADS = {64: (14, 2), 128: (12, 2)}  # head_dim → query heads, key/value heads: Qwen2.5 0.5B and 1.5B
SAMPLE_SECONDS = 0.05  # each sample repeats the call for at least this long


@dataclass(frozen=True)
class Shape:
    batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    causal: bool
    dtype: str


def shapes(dtypes, quick):
    cases = []
    for dim, length, batch, causal in itertools.product((64, 128), (128, 256, 512), (1, 4, 8), (True, False)):
        cases.append((batch, *HEADS[dim], length, length, dim, causal))
    cases += [(1, *HEADS[64], length, length, 64, True) for length in (1024, 2048, 4096)]
    cases += [(1, *HEADS[64], 1, length, 64, False) for length in (512, 4096, 32768)]
    cases += [(1, *HEADS[128], 1, 4096, 128, False)]
    return [Shape(*case, dtype) for case in (cases[::5] if quick else cases) for dtype in dtypes]


def torch_us(shape, samples):
    """The better form's median, in µs."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[shape.dtype]

    def random(heads, length):
        return torch.randn(shape.batch, heads, length, shape.head_dim).to(dtype)

    q, k, v = (
        random(shape.q_heads, shape.q_len),
        random(shape.kv_heads, shape.kv_len),
        random(shape.kv_heads, shape.kv_len),
    )
    wide_k, wide_v = (x.repeat_interleave(shape.q_heads // shape.kv_heads, 1) for x in (k, v))
    forms = (
        lambda: scaled_dot_product_attention(q, wide_k, wide_v, is_causal=shape.causal),
        lambda: scaled_dot_product_attention(q, k, v, is_causal=shape.causal, enable_gqa=True),
    )
    with torch.no_grad():
        return min(median_us(form, samples) for form in forms)


def median_us(call, samples):
    call()
    start = time.perf_counter()
    call()
    count = max(1, int(SAMPLE_SECONDS / max(time.perf_counter() - start, 1e-7)))
    taken = []
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(count):
            call()
        taken.append((time.perf_counter() - start) / count * 1e6)
    return statistics.median(taken)


def metallic_us(shape, args):
    """{backend: µs} of `metallic bench sdpa`."""
    command = [
        str(args.binary),
        "bench",
        "sdpa",
        "--json",
        "--threads",
        str(args.threads),
        "-r",
        str(args.rounds),
    ]
    for name in ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "dtype"):
        command += [f"--{name.replace('_', '-')}", str(getattr(shape, name))]
    command += ["--causal"] if shape.causal else []
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {row["backend"]: row["us"] for row in rows}


def parse_arguments():
    parser = argparse.ArgumentParser(description="PyTorch's attention on the CPU and Metallic's, in turns")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both")
    parser.add_argument("-r", "--rounds", type=int, default=5, help="samples of each shape")
    parser.add_argument("--dtype", default="f32,f16,bf16", help="element types, separated by commas")
    parser.add_argument("--quick", action="store_true", help="every fifth shape")
    parser.add_argument("--binary", type=Path, default=runs.ROOT / "target/release/metallic")
    return parser.parse_args()


def main():
    args = parse_arguments()
    if not args.binary.exists():
        sys.exit(f"no program at {args.binary}; run `cargo build --release` or pass --binary")
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is not installed; run `bench/peers/setup --torch`")
    runs.warn_if_busy()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    rows, results = [], []
    for shape in shapes(args.dtype.split(","), args.quick):
        peer, ours = torch_us(shape, args.rounds), metallic_us(shape, args)
        results.append(
            {**asdict(shape), "torch_us": round(peer, 1), **{f"{k}_us": round(v, 1) for k, v in ours.items()}}
        )
        lengths = f"{shape.q_len}x{shape.kv_len}"
        case = [
            shape.batch,
            f"{shape.q_heads}/{shape.kv_heads}",
            lengths,
            shape.head_dim,
            "causal" if shape.causal else "full",
        ]
        times = [f"{value:.0f}" for value in (peer, ours["legacy"], ours["graph"])]
        ratios = [f"{peer / ours['graph']:.2f}", f"{ours['legacy'] / ours['graph']:.2f}"]
        rows.append([*case, shape.dtype, *times, *ratios])
        print(f"{len(rows)}: {' '.join(map(str, rows[-1]))}", file=sys.stderr, flush=True)
    columns = ["batch", "heads", "lengths", "head_dim", "mask", "dtype", "torch µs", "legacy µs", "graph µs"]
    print(runs.table([*columns, "torch/graph", "legacy/graph"], rows))
    peer = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    path = runs.keep("torch_sdpa", {"peer": peer, "threads": args.threads, "results": results})
    print(f"kept in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
