#!/usr/bin/env python3
"""From the start of the process to the first piece of text, and the peak of memory.

    cargo build --release
    python3 bench/peers/start.py MODEL.gguf...

Runs `metallic run` on a prompt of some 16 tokens, with the model's file in the page cache, and takes the time
until the first byte on standard output. Memory is the peak of the resident set as the system counts it, beside
the size of the file: what is above it are the KV cache and buffers.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import runs

PROMPT = "The three largest cities of France, in order of their number of inhabitants, are"


def once(binary, model, tokens):
    """(seconds until the first byte, bytes of peak memory) of one run."""
    command = [binary, "run", "-m", model, "-p", PROMPT, "-n", tokens]
    start = time.perf_counter()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first = child.stdout.read(1)
    seconds = time.perf_counter() - start
    child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status or not first:
        sys.exit(f"`metallic run` failed on {model}")
    return seconds, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description="Time to the first text, and peak memory")
    parser.add_argument("models", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("-n", "--n-gen", type=int, default=32)
    parser.add_argument("-r", "--rounds", type=int, default=9)
    parser.add_argument("--binary", type=Path, default=runs.ROOT / "target/release/metallic")
    args = parser.parse_args()
    if not args.binary.exists():
        sys.exit(f"no program at {args.binary}; run `cargo build --release` or pass --binary")
    runs.warn_if_busy()
    rows = []
    for model in args.models:
        once(args.binary, model, args.n_gen)
        taken = [once(args.binary, model, args.n_gen) for _ in range(args.rounds)]
        milliseconds = [seconds * 1e3 for seconds, _ in taken]
        peak = max(bytes for _, bytes in taken)
        size = model.stat().st_size
        megabytes = [f"{size / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{(peak - size) / 1e6:+.0f}"]
        rows.append([model.name, f"{statistics.median(milliseconds):.0f}", f"{max(milliseconds):.0f}", *megabytes])
        record = {"model": model.name, "first_text_ms": [round(value, 1) for value in milliseconds]}
        runs.keep("start", record | {"file_bytes": size, "peak_bytes": peak})
    columns = ["model", "first text ms (median)", "(worst)", "file MB", "peak MB", "above the file"]
    print(runs.table(columns, rows))


if __name__ == "__main__":
    main()
