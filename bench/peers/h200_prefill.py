#!/usr/bin/env python3
"""Prompts on an NVIDIA GPU beside the bare products of the same model, and where the rest of the time goes.

    cargo build --release
    bench/peers/h200_prefill.py [--binary target/release/metallic] [--layers 8] [--out FOLDER]

Measures copy bandwidth and the f16 product rate, then prompts of random models of the shapes in `bench/configs`:
halves of blocks fused and op by op, f16, bf16 and quantised, each as a share of the time of its layers' bare products
in the same run. `--layers` cuts the 7B shape short, which changes no layer. With Nsight Compute (`ncu`) it ends with
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


def bench(binary, config, kind, prompts, *more):
    """Rows of `metallic bench` for prompts alone."""
    command = [binary, "bench", "--device", "cuda", "--random-weights", config, "--weights-type", kind, "-p", prompts]
    command += ["-n", "0", "-r", "5", "--limits", "-o", "jsonl", *more]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/metallic"))
    parser.add_argument("--layers", type=int, default=0, help="layers of the 7B shape; 0 for all")
    parser.add_argument("--out", type=Path, help="folder for prefill.jsonl")
    parser.add_argument("--no-profile", action="store_true", help="leave the kernels' times out")
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.binary)
    limits = subprocess.run([binary, "bench", "limits", "--device", "cuda"], capture_output=True, text=True, check=False)
    print(limits.stdout or limits.stderr, flush=True)
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        seven, half = shape(folder, "qwen2.5-7b", arguments.layers), shape(folder, "qwen2.5-0.5b", 0)
        print("| model | weights | halves | prompt | step | t/s | ms | bare products, ms | share |\n|---|---|---|---|---|---|---|---|---|")
        runs = [(seven, kind, "2048", "auto") for kind in ("f16", "bf16", "q8_0", "q4_k")]
        runs += [(seven, "f16", "2048", "off"), (half, "f16", "512,2048", "auto"), (half, "f16", "512,2048", "off")]
        for config, kind, prompts, segments in runs:
            for row in bench(binary, config, kind, prompts, "--segments", segments):
                kept.append({**row, "config": Path(config).stem, "halves": segments})
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
        (arguments.out / "prefill.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
