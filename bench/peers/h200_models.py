#!/usr/bin/env python3
"""Whole models on an NVIDIA GPU beside their limits: tokens beside the bytes they read, prompts beside the bare
products of the same layers.

    cargo build --release
    bench/peers/h200_models.py [--binary target/release/metallic] [--layers 8] [--out FOLDER]

Measures copy bandwidth and the f16 product rate, then random models of the shapes in `bench/configs`: 64 tokens after
512, as one kernel, as halves of blocks and op by op; and prompts. Each is a share of its limit in the same run:
weights and live keys over the bandwidth, or the time of its layers' bare products. `--layers` cuts the 7B shape short, which changes no layer. With Nsight Compute (`ncu`) it ends with
the time of each kernel of one prompt of four layers.
"""

import argparse
import collections
import csv
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bench/configs"


def shape(folder, name, layers):
    """The configuration `name` with fewer layers, as a path."""
    config = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = min(layers or config["num_hidden_layers"], config["num_hidden_layers"])
    path = Path(folder) / f"{name}-{config['num_hidden_layers']}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def bench(binary, config, kind, *more):
    """Rows of `metallic bench`."""
    command = [binary, "bench", "--device", "cuda", "--random-weights", config, "--weights-type", kind]
    command += ["-r", "5", "--limits", "-o", "jsonl", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"FAILED {' '.join(command[2:])}: {done.stderr.strip()[-400:]}", flush=True)
        return []
    return [json.loads(line) for line in done.stdout.splitlines()]


def profile(binary, config):
    """Prints the time of each kernel of one prompt, the largest first."""
    ncu = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if not os.path.exists(ncu):
        print("not run: the profile, ncu is not installed")
        return
    command = [ncu, "--clock-control", "none", "--metrics", "gpu__time_duration.sum", "--csv", binary, "bench"]
    command += ["--device", "cuda", "--random-weights", config, "-p", "2048", "-n", "0", "-r", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = list(csv.DictReader(line for line in done.stdout.splitlines() if line.startswith('"')))
    if done.returncode != 0 or not rows:
        print(f"FAILED the profile: {done.stderr.strip()[-400:]}")
        return
    times = collections.defaultdict(list)
    # The first of two prompts compiles and builds plans.
    for row in rows[len(rows) // 2 :]:
        factor = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3}[row["Metric Unit"]]
        key = row["Kernel Name"].split("(")[0][:70], row["Grid Size"]
        times[key].append(float(row["Metric Value"].replace(",", "")) * factor)
    total = sum(sum(each) for each in times.values())
    print(f"| kernel | grid | launches | each, µs | share |\n|---|---|---:|---:|---:|\n| all | | | {total:.0f} | 100 % |")
    for (name, grid), each in sorted(times.items(), key=lambda item: -sum(item[1])):
        share = 100 * sum(each) / total
        print(f"| `{name}` | {grid} | {len(each)} | {sum(each) / len(each):.1f} | {share:.1f} % |")


def decode(binary, folder, kept):
    """Prints and keeps tokens of one sequence after 512 others."""
    print("| model | weights | segments | t/s | µs | bytes' time, µs | share |\n|---|---|---|---:|---:|---:|---:|")
    ways = [("0.5b", kind) for kind in ("f16", "bf16", "q8_0", "q4_k")]
    ways += [(size, kind) for size in ("1.5b", "7b") for kind in ("f16", "q8_0", "q4_k")]
    for size, kind in ways:
        config = shape(folder, f"qwen2.5-{size}", 0)
        for segments in ("auto", "on", "off") if size == "0.5b" else ("auto", "on"):
            for row in bench(binary, config, kind, "-p", "0", "-n", "64", "-d", "512", "--segments", segments):
                kept.append({**row, "config": Path(config).stem, "weights": kind, "asked": segments})
                us, floor = row["avg_ns"] / 64e3, row["floor_ns"] / 64e3
                print(
                    f"| {size} | {kind} | {segments} | {row['avg_ts']:.0f} | {us:.0f} | {floor:.0f} "
                    f"| {100 * row['share_of_limit']:.0f} % |",
                    flush=True,
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/metallic"))
    parser.add_argument("--layers", type=int, default=0, help="layers of the 7B shape; 0 for all")
    parser.add_argument("--out", type=Path, help="folder for models.jsonl")
    parser.add_argument("--no-profile", action="store_true", help="leave the kernels' times out")
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.binary)
    limits = subprocess.run([binary, "bench", "limits", "--device", "cuda"], capture_output=True, text=True, check=False)
    print(limits.stdout or limits.stderr, flush=True)
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        seven, half = shape(folder, "qwen2.5-7b", arguments.layers), shape(folder, "qwen2.5-0.5b", 0)
        decode(binary, folder, kept)
        print("| model | weights | segments | prompt | step | t/s | ms | bare products, ms | share |\n|---|---|---|---|---|---|---|---|---|")
        runs = [(seven, kind, "2048", "auto") for kind in ("f16", "bf16", "q8_0", "q4_k")]
        runs += [(seven, "f16", "2048", "off"), (half, "f16", "512,2048", "auto"), (half, "f16", "512,2048", "off")]
        for config, kind, prompts, segments in runs:
            for row in bench(binary, config, kind, "-p", prompts, "-n", "0", "--segments", segments):
                kept.append({**row, "config": Path(config).stem, "asked": segments})
                name, ms = Path(config).stem, row["avg_ns"] / 1e6
                print(
                    f"| {name} | {kind} | {segments} | {row['n_prompt']} | {row['n_ubatch']} | {row['avg_ts']:.0f} "
                    f"| {ms:.2f} | {row['floor_ns'] / 1e6:.2f} | {100 * row['share_of_limit']:.0f} % |",
                    flush=True,
                )
        if not arguments.no_profile:
            profile(binary, shape(folder, "qwen2.5-7b", 4))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) + "\n" for row in kept]
        (arguments.out / "models.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
