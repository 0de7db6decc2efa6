#!/usr/bin/env python3
"""Prefill and decode speed of llama.cpp and of Metallic on one model, in turns.

    bench/peers/setup
    cargo build --release
    bench/peers/.venv/bin/python bench/peers/llama_cpp_speed.py models/SmolLM2-135M-Instruct.Q4_1.gguf

Every round starts each program anew, one after the other, with the same threads; each loads the model,
warms up once and measures once, as llama-bench does (random tokens, no sampling). `--depth` puts so many
tokens into the cache beforehand. `--busy` keeps one core busy with another process meanwhile. The table shows
medians over the rounds, beside the share of the machine's limit that Metallic reaches (integer products in a
prompt, memory in decoding, measured by the same run), and the record in bench/runs/ keeps every value.
Needs llama-cpp-python.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import runs

TARGET = {"pp": 2.5, "tg": 1.3}  # times llama.cpp's speed, what the project wants on a CPU


def llama_cpp(model, threads, n_prompt, n_gen, depth):
    """llama.cpp's (prefill, decode, build) in this process: tokens per second, and what it was built for."""
    import ctypes

    import llama_cpp as lib

    silent = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(silent, ctypes.c_void_p())
    lib.llama_backend_init()
    model_options = lib.llama_model_default_params()
    model_options.n_gpu_layers = 0
    loaded = lib.llama_model_load_from_file(str(model).encode(), model_options)
    options = lib.llama_context_default_params()
    options.n_ctx = depth + max(n_prompt, n_gen) + 8
    options.n_batch = 2048
    options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = threads
    context = lib.llama_init_from_model(loaded, options)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
    pick = random.Random(1)

    def step(count):
        tokens = (lib.llama_token * count)(*(pick.randrange(vocabulary) for _ in range(count)))
        if lib.llama_decode(context, lib.llama_batch_get_one(tokens, count)):
            sys.exit("llama_decode failed")
        lib.llama_synchronize(context)

    def seconds(total, at_once):
        memory = lib.llama_get_memory(context)
        if depth == 0 or lib.llama_memory_seq_pos_max(memory, 0) < depth - 1:
            lib.llama_memory_clear(memory, True)
            for start in range(0, depth, 512):
                step(min(512, depth - start))
        else:
            lib.llama_memory_seq_rm(memory, 0, depth, -1)
        start = time.perf_counter()
        for _ in range(total // at_once):
            step(at_once)
        return time.perf_counter() - start

    seconds(n_prompt, n_prompt)
    prefill = n_prompt / seconds(n_prompt, n_prompt)
    seconds(4, 1)
    build = f"llama-cpp-python {lib.__version__}: {lib.llama_print_system_info().decode()}"
    return prefill, n_gen / seconds(n_gen, 1), build


def run_llama_cpp(args):
    command = [sys.executable, __file__, str(args.model), "--one", "-t", str(args.threads)]
    command += ["-p", str(args.n_prompt), "-n", str(args.n_gen), "-d", str(args.depth)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run_metallic(args):
    """((prefill, decode), their shares of the limit) of Metallic, from `metallic bench`."""
    command = [
        str(args.binary),
        "bench",
        "-m",
        str(args.model),
        "-t",
        str(args.threads),
        "-r",
        "1",
        "-o",
        "json",
        "--limits",
    ]
    command += ["-p", str(args.n_prompt), "-n", str(args.n_gen), "-d", str(args.depth), *args.metallic]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    found = {(row["n_prompt"], row["n_gen"]): row for row in rows}
    tests = found[args.n_prompt, 0], found[0, args.n_gen]
    return [row["avg_ts"] for row in tests], [row["share_of_limit"] for row in tests]


def spin():
    """Another process that keeps one core busy."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def parse_arguments():
    parser = argparse.ArgumentParser(description="llama.cpp and Metallic on one model, in turns")
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument(
        "-t", "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both programs"
    )
    parser.add_argument("-p", "--n-prompt", type=int, default=512)
    parser.add_argument("-n", "--n-gen", type=int, default=128)
    parser.add_argument("-d", "--depth", type=int, default=0, help="tokens in the cache beforehand")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="keep one core busy meanwhile")
    parser.add_argument("--binary", type=Path, default=runs.ROOT / "target/release/metallic")
    parser.add_argument(
        "--metallic", nargs=argparse.REMAINDER, default=[], help="further flags of `metallic bench`"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_arguments()
    if args.one:
        print(json.dumps(llama_cpp(args.model, args.threads, args.n_prompt, args.n_gen, args.depth)))
        return
    if not args.binary.exists():
        sys.exit(f"no program at {args.binary}; run `cargo build --release` or pass --binary")
    runs.warn_if_busy()
    samples, shares, build = {"llama.cpp": [], "metallic": []}, [], ""
    other = spin() if args.busy else None
    try:
        for turn in range(args.rounds):
            *speeds, build = run_llama_cpp(args)
            samples["llama.cpp"].append(speeds)
            speeds, share = run_metallic(args)
            samples["metallic"].append(speeds)
            shares.append(share)
            print(f"round {turn + 1} of {args.rounds} done", file=sys.stderr, flush=True)
    finally:
        if other:
            other.kill()
    rows, record = [], {"model": args.model.name, "threads": args.threads, "depth": args.depth, "busy": args.busy}
    record |= {"peer": build, "tests": {}}
    at = f" @ d{args.depth}" if args.depth else ""
    for i, (kind, count) in enumerate((("pp", args.n_prompt), ("tg", args.n_gen))):
        test = f"{kind}{count}{at}"
        values = {name: [round(sample[i], 2) for sample in taken] for name, taken in samples.items()}
        peer, ours = (statistics.median(values[name]) for name in ("llama.cpp", "metallic"))
        share = statistics.median(taken[i] for taken in shares)
        speeds = [f"{peer:.1f}", f"{ours:.1f}", f"{ours / peer:.2f}", f"{TARGET[kind]}", f"{share:.0%}"]
        rows.append([args.model.name, args.threads, test, *speeds])
        record["tests"][test] = {**values, "ratio": round(ours / peer, 3), "share_of_limit": round(share, 3)}
    columns = ["model", "threads", "test", "llama.cpp t/s", "metallic t/s", "ratio", "wanted", "of the limit"]
    print(runs.table(columns, rows))
    print(f"medians of {args.rounds} rounds; kept in {runs.keep('llama_cpp', record)}", file=sys.stderr)


if __name__ == "__main__":
    main()
