#!/usr/bin/env python3
"""How well a text is predicted, token by token: llama.cpp, Metallic, and Metallic with --exact.

    bench/peers/setup
    cargo build --release
    bench/peers/.venv/bin/python bench/peers/llama_cpp_nll.py MODEL.gguf [TEXT]

Both programs tokenise the text themselves; the tokens must agree in number. The table shows the mean negative
log-likelihood of the first 2,000 tokens (each from the second on, given all before it), how far Metallic's mean
is from llama.cpp's, and the mean distance of single tokens. Not a race: it may run on a busy machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import runs

CHUNK = 256  # tokens whose logits are kept at a time


def llama_cpp(model, text, count, threads):
    """(NLL of each token but the first, the tokens, the peer's name)."""
    import ctypes

    import llama_cpp as lib
    import numpy as np

    silent = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(silent, ctypes.c_void_p())
    loaded = lib.Llama(str(model), n_ctx=count + 8, n_batch=CHUNK, n_threads=threads, logits_all=True, verbose=False)
    tokens = loaded.tokenize(text.encode(), add_bos=True, special=False)[:count]
    values = []
    for start in range(0, len(tokens), CHUNK):
        chunk = tokens[start : start + CHUNK]
        loaded.eval(chunk)
        logits = np.array(loaded.scores[start : start + len(chunk)], dtype=np.float64)
        top = logits.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        following = tokens[start + 1 : start + 1 + len(chunk)]
        values += [float(log_sum[i] - logits[i, token]) for i, token in enumerate(following)]
    return values, tokens, f"llama-cpp-python {lib.__version__}"


def metallic(args, text_of_tokens, flags):
    """NLL of each token but the first, by `metallic perplexity`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text_of_tokens)
        file.flush()
        command = [args.binary, "perplexity", "-m", args.model, "-f", file.name, "-t", args.threads, "--json", *flags]
        return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Mean NLL of a text under llama.cpp and Metallic")
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("text", type=Path, nargs="?", default=Path(__file__).with_name("text.txt"))
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-n", "--tokens", type=int, default=2000, help="at most so many")
    parser.add_argument("--binary", type=Path, default=runs.ROOT / "target/release/metallic")
    return parser.parse_args()


def main():
    args = parse_arguments()
    if not args.binary.exists():
        sys.exit(f"no program at {args.binary}; run `cargo build --release` or pass --binary")
    text = args.text.read_text(encoding="utf-8")
    peer, tokens, name = llama_cpp(args.model, text, args.tokens, args.threads)
    rows, record = [], {"model": args.model.name, "text": args.text.name, "tokens": len(tokens), "peer": name}
    peer_mean = sum(peer) / len(peer)
    record["mean_nll"] = {"llama.cpp": peer_mean}
    rows.append(["llama.cpp", f"{peer_mean:.5f}", "", ""])
    for label, flags in (("metallic", []), ("metallic --exact", ["--exact"])):
        ours = metallic(args, text, flags)["nll"][: len(peer)]
        if len(ours) != len(peer):
            sys.exit(f"{label} found {len(ours) + 1} tokens where llama.cpp found {len(peer) + 1}")
        mean = sum(ours) / len(ours)
        apart = sum(abs(a - b) for a, b in zip(ours, peer)) / len(peer)
        record["mean_nll"][label] = mean
        rows.append([label, f"{mean:.5f}", f"{(mean / peer_mean - 1) * 100:+.3f} %", f"{apart:.4f}"])
    print(runs.table(["program", "mean NLL", "from llama.cpp", "mean distance a token"], rows))
    print(f"{args.model.name}, {len(tokens)} tokens; kept in {runs.keep('llama_cpp_nll', record)}", file=sys.stderr)


if __name__ == "__main__":
    main()
