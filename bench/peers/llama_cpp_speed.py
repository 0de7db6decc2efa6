#!/usr/bin/env python3
"""Prefill and decode speed of llama.cpp and of Metallic on one model, in turns.

    bench/peers/setup
    cargo build --release
    bench/peers/.venv/bin/python bench/peers/llama_cpp_speed.py models/SmolLM2-135M-Instruct.Q4_1.gguf

Every round starts each program anew, one after the other, with the same threads; each loads the model,
warms up once and measures once, as llama-bench does (random tokens, no sampling). The table shows medians
over the rounds, and the record in bench/runs/ keeps every value. Needs llama-cpp-python.
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

TARGET = 0.7  # of llama.cpp's speed, the least that the project wants on a CPU


def llama_cpp(model, threads, n_prompt, n_gen):
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
    options.n_ctx = max(n_prompt, n_gen) + 8
    options.n_batch = 2048
    options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = threads
    context = lib.llama_init_from_model(loaded, options)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
    pick = random.Random(1)

    def seconds(total, at_once):
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        start = time.perf_counter()
        for _ in range(total // at_once):
            tokens = (lib.llama_token * at_once)(*(pick.randrange(vocabulary) for _ in range(at_once)))
            if lib.llama_decode(context, lib.llama_batch_get_one(tokens, at_once)):
                sys.exit("llama_decode failed")
            lib.llama_synchronize(context)
        return time.perf_counter() - start

    seconds(n_prompt, n_prompt)
    prefill = n_prompt / seconds(n_prompt, n_prompt)
    seconds(4, 1)
    build = f"llama-cpp-python {lib.__version__}: {lib.llama_print_system_info().decode()}"
    return prefill, n_gen / seconds(n_gen, 1), build


def run_llama_cpp(args):
    command = [sys.executable, __file__, str(args.model), "--one", "-t", str(args.threads)]
    command += ["-p", str(args.n_prompt), "-n", str(args.n_gen)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run_metallic(args):
    """(prefill, decode) of Metallic, from `metallic bench`, whose rows carry llama-bench's names."""
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
    ]
    command += ["-p", str(args.n_prompt), "-n", str(args.n_gen), *args.metallic]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    speed = {(row["n_prompt"], row["n_gen"]): row["avg_ts"] for row in rows}
    return speed[args.n_prompt, 0], speed[0, args.n_gen]


def parse_arguments():
    parser = argparse.ArgumentParser(description="llama.cpp and Metallic on one model, in turns")
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument(
        "-t", "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both programs"
    )
    parser.add_argument("-p", "--n-prompt", type=int, default=512)
    parser.add_argument("-n", "--n-gen", type=int, default=128)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--binary", type=Path, default=runs.ROOT / "target/release/metallic")
    parser.add_argument(
        "--metallic", nargs=argparse.REMAINDER, default=[], help="further flags of `metallic bench`"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_arguments()
    if args.one:
        print(json.dumps(llama_cpp(args.model, args.threads, args.n_prompt, args.n_gen)))
        return
    if not args.binary.exists():
        sys.exit(f"no program at {args.binary}; run `cargo build --release` or pass --binary")
    runs.warn_if_busy()
    samples, build = {"llama.cpp": [], "metallic": []}, ""
    for turn in range(args.rounds):
        *speeds, build = run_llama_cpp(args)
        samples["llama.cpp"].append(speeds)
        samples["metallic"].append(run_metallic(args))
        print(f"round {turn + 1} of {args.rounds} done", file=sys.stderr, flush=True)
    rows, record = [], {"model": args.model.name, "threads": args.threads, "peer": build, "tests": {}}
    for i, test in enumerate((f"pp{args.n_prompt}", f"tg{args.n_gen}")):
        values = {name: [round(sample[i], 2) for sample in taken] for name, taken in samples.items()}
        peer, ours = (statistics.median(values[name]) for name in ("llama.cpp", "metallic"))
        rows.append([args.model.name, args.threads, test, f"{peer:.1f}", f"{ours:.1f}", f"{ours / peer:.2f}"])
        record["tests"][test] = {**values, "ratio": round(ours / peer, 3), "target": TARGET}
    print(runs.table(["model", "threads", "test", "llama.cpp t/s", "metallic t/s", "ratio"], rows))
    print(f"medians of {args.rounds} rounds; kept in {runs.keep('llama_cpp', record)}", file=sys.stderr)


if __name__ == "__main__":
    main()
