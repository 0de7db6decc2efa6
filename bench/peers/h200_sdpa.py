#!/usr/bin/env python3
"""Attention on one NVIDIA GPU: the repository's kernels beside PyTorch's flash, cuDNN and FlashAttention-3.

    bench/peers/h200_sdpa.py [--quick]

Times replays of a CUDA graph of calls that rotate among input sets larger than the cache, ours and the peers'
in turns, on fresh random f16 data, and prints medians in µs. The kernels are the repository's own files,
compiled by NVRTC, in the shape that `metallic_devices::cuda::graph::sdpa::engine` picks. FlashAttention-3
runs in bf16, and only where `fa3_fwd_interface` can be imported. Appends to `bench/runs/<date>-nvidia-h200/`.
"""

import argparse
import datetime
import json
import os
import statistics
from pathlib import Path

import sdpa_cuda as cuda
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    import fa3_fwd_interface as fa3
except ImportError:
    fa3 = None

HEADS = {64: (14, 2), 128: (28, 4)}  # head_dim → query and key heads of Qwen2.5 0.5B and 7B
SET_BYTES = 128e6  # input sets rotate over at least this much


def power(n):
    return 1 << (max(1, n).bit_length() - 1)


def choose(driver, q, k, causal):
    """The launcher and its shape, as engine.rs picks them."""
    batch, q_heads, q_len, width = q.shape
    kv_heads, kv_len, wide = k.shape[1], k.shape[2], width > 64
    processors = driver.multiprocessors
    if q_len <= 8:
        heads = batch * kv_heads * -(-(q_heads // kv_heads * q_len) // 16)
        room = max(1, processors // heads)
        few, many = kv_len <= 1024, room == 1
        warps = 4 if (few and not many) or (many and wide) else 8
        steps = max(1, -(-kv_len // (warps * 16)))
        one = not few and kv_len <= 8192 and power(room) >= 16
        stages = 2 if wide or few or one else 3
        spread = not few and not one and not wide and power(room) >= 64 and steps >= 4 * 64
        if few:
            splits = cluster = min(power(room), 8, power(steps))
        elif one:
            splits = cluster = 16
        elif spread:
            splits, cluster, stages = 64, 8, 2
        else:
            splits = min(power(room), 32, steps)
            cluster = 1 if splits < 32 else 2 if wide else 4
        return cuda.decode, {"warps": warps, "stages": stages, "cluster": cluster, "splits": splits}
    if not wide and max(q_len, kv_len) <= 128:
        return cuda.prefill, {"warps": 4, "keys": 64}
    pieces = batch * q_heads * -(-q_len // 64)
    small = (pieces <= 2 * processors and q_len <= 256) or (causal and q_len <= 128)
    if not wide:
        groups, keys = (1, 128) if q_len < 2048 else (2, 192)
    else:
        groups, keys = (1, 64) if small else (2, 128)
    blocks = -(-q_len // (64 * groups))
    cached = batch * kv_heads * kv_len * width * 4 <= 16 << 20
    waves = max(1, min(batch * q_heads, batch * q_heads if cached else 512 // blocks)) if causal else 1
    return cuda.prefill_sm90, {"groups": groups, "keys": keys, "stages": 2, "waves": waves}


def cells(quick):
    """(case, batch, q_heads, kv_heads, q_len, kv_len, head_dim, causal)"""
    for batch in (1, 4, 8):
        for length in (128, 256, 512):
            for width, (q_heads, kv_heads) in HEADS.items():
                for causal in (True, False):
                    yield "short", batch, q_heads, kv_heads, length, length, width, causal
    for width, (q_heads, kv_heads) in HEADS.items():
        for batch in (1, 8, 64):
            for kv_len in (512, 4096, 32768):
                yield "decode", batch, q_heads, kv_heads, 1, kv_len, width, False
    for length in (1024, 4096) if quick else (1024, 2048, 4096, 8192, 16384):
        for heads, width in ((32, 64), (16, 128)):
            for causal in (True, False):
                yield "prefill", max(1, 16384 // length), heads, heads, length, length, width, causal


def capture(calls, count):
    """A graph of `count` calls, warmed up."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(count):
            calls[index % len(calls)]()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def replay_us(graph, count):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1000 / count


def in_turns(rivals, count, rounds):
    """Median µs of each rival, one replay of each in every round."""
    graphs = {name: capture(calls, count) for name, calls in rivals.items()}
    times = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            times[name].append(replay_us(graph, count))
    return {name: statistics.median(samples) for name, samples in times.items()}


def measure(driver, cell):
    _case, batch, q_heads, kv_heads, q_len, kv_len, width, causal = cell
    flops = 4 * batch * q_heads * q_len * kv_len * width * (0.5 if causal else 1)
    bytes_moved = 4 * batch * width * (q_heads * q_len + kv_heads * kv_len)
    sets = []
    for _ in range(max(1, min(8, int(SET_BYTES // bytes_moved) + 1))):
        shapes = ((q_heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))
        q, k, v = (torch.randn(batch, h, s, width, device="cuda", dtype=torch.float16) for h, s in shapes)
        sets.append((q, k, v, torch.full_like(q, torch.nan)))
    launch, shape = choose(driver, *sets[0][:2], causal)
    band = {"right": 0} if causal else {}
    rivals = {"ours": [launch(driver, *tensors, **shape, **band) for tensors in sets]}

    def torch_call(backend, q, k, v):
        with sdpa_kernel([backend]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q_heads != kv_heads)

    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        rivals[name] = [lambda s=s, b=backend: torch_call(b, *s[:3]) for s in sets]
    if fa3 is not None:
        halves = [tuple(t.to(torch.bfloat16).transpose(1, 2).contiguous() for t in s[:3]) for s in sets]
        rivals["fa3_bf16"] = [lambda s=s: fa3.flash_attn_func(*s, causal=causal) for s in halves]
    long = flops > 2e11 or bytes_moved > 5e8
    us = in_turns(rivals, 4 if long else 20, 5 if long else 11)
    ours, theirs = sets[0][3], torch_call(SDPBackend.CUDNN_ATTENTION, *sets[0][:3])
    difference = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
    names = ("case", "batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "causal")
    row = dict(zip(names, cell)) | {"us": us, "kernel": launch.__name__, "shape": shape}
    best = min(value for name, value in us.items() if name != "ours")
    row |= {"ratio": best / us["ours"], "tflops": flops / us["ours"] / 1e6}
    return row | {"gbps": bytes_moved / us["ours"] / 1e3, "difference": difference}


def copy_gbps():
    """The best bandwidth of a large copy, bytes read plus bytes written."""
    source = torch.randn(1 << 30, device="cuda", dtype=torch.float16)
    target = torch.empty_like(source)
    best = 0
    for copy in (lambda: target.copy_(source), lambda: torch.neg(source, out=target)):
        copy()
        times = []
        for _ in range(7):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            copy()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        best = max(best, 4 * source.numel() / statistics.median(times) / 1e6)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer long prefills")
    args = parser.parse_args()
    driver = cuda.Driver()
    name, cudnn = torch.cuda.get_device_name(), torch.backends.cudnn.version()
    head = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn}
    head |= {"date": datetime.date.today().isoformat(), "copy_gbps": copy_gbps(), "fa3": fa3 is not None}
    print(head)
    rows = []
    print(
        "case     B  heads   q_len kv_len   D causal |   ours  flash  cudnn    fa3 | best/ours  TFLOP/s GB/s"
    )
    for cell in cells(args.quick):
        row = measure(driver, cell)
        assert row["difference"] < 4e-3, row
        rows.append(row)
        case, batch, q_heads, kv_heads, q_len, kv_len, width, causal = cell
        us = [
            f"{row['us'][n]:8.2f}" if n in row["us"] else "       -"
            for n in ("ours", "flash", "cudnn", "fa3_bf16")
        ]
        print(
            f"{case:7} {batch:2} {q_heads:2}/{kv_heads:<2} {q_len:6} {kv_len:6} {width:4} {int(causal):2} |{''.join(us)}"
            f" | {row['ratio']:5.2f} {row['tflops']:7.0f} {row['gbps']:6.0f}",
            flush=True,
        )
    for case in ("short", "decode", "prefill"):
        ratios = sorted(row["ratio"] for row in rows if row["case"] == case)
        wins = sum(ratio >= 1 for ratio in ratios)
        print(
            f"{case}: median {statistics.median(ratios):.2f}, least {ratios[0]:.2f}, {wins} of {len(ratios)} >= 1"
        )
    folder = Path(os.environ.get("OUT", cuda.ROOT / f"bench/runs/{head['date']}-nvidia-h200"))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "h200_sdpa.jsonl", "a") as file:
        file.writelines(json.dumps(record) + "\n" for record in (head, *rows))


if __name__ == "__main__":
    main()
