"""Tests the CUDA device with a program built elsewhere: every op against the CPU, attention against the oracle,
the embedded model's probabilities and greedy text against the CPU's, and the kernels under compute-sanitizer.

Every step runs even if one before it failed. The closing line counts the steps; what could not run is named with
its reason.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

TEXT = (
    "Once upon a time, there was a kind boy named Boris. He lived in a little hut near the sea. One day he found "
    "a small boat on the sand. He wanted to know who had lost it, so he asked the old man, the baker and the cat."
)
PROMPT = "Once upon a time"

# A small run of each fused kernel of attention, by the shapes that choose it.
FUSED = {
    "decode, few keys": "--graph-engine fused --q-len 1 --kv-len 300 --head-dim 64,128",
    "decode, split in clusters and beyond": "--graph-engine fused --q-len 1,3 --kv-len 5000,9000",
    "prefill": "--graph-engine fused --q-len 70 --kv-len 100 --head-dim 80 --causal",
    "prefill of Hopper": "--graph-engine fused --q-len 300 --kv-len 300 --head-dim 64,128 --causal",
    "prefill of Hopper, two groups": "--graph-engine fused --q-len 600 --kv-len 700 --q-heads 2 --head-dim 128",
    "keys of any type": "--graph-engine fused --dtype f32 --q-len 1,70 --kv-len 300",
    "plans of cuDNN": "--graph-engine cudnn --q-len 1,70 --kv-len 300 --causal",
}

# Likewise of the composed kernels: a whole matrix of cases takes minutes under the thread sanitizer.
LEGACY = "--sdpa-backend legacy --q-len 1,17,70 --kv-len 100 --q-heads 4 --head-dim 64 --causal"

# Rows of whole blocks of every type, some longer than what a warp takes at once.
SHAPE = {
    "model_type": "qwen2",
    "torch_dtype": "float16",
    "hidden_act": "silu",
    "hidden_size": 1280,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "intermediate_size": 2816,
    "num_hidden_layers": 3,
    "vocab_size": 8192,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}

# How the names of NVIDIA's own kernels begin.
NVIDIAS = ("nvjet", "cudnn_generated")


class Bench:
    """Runs steps and counts them."""

    def __init__(self, args):
        self.args, self.seen, self.passed, self.failed, self.not_run = args, 0, 0, 0, 0

    def metallic(self, *words, timeout=600, prefix=(), check=True):
        command = [*prefix, self.args.binary, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n" + "\n".join(lines[-25:]))
        return done

    def json(self, *words):
        return json.loads(self.metallic(*words, "--json").stdout)

    def step(self, name, function):
        if self.args.only and not any(word in name for word in self.args.only):
            return
        part, parts = self.args.part
        self.seen += 1
        if (self.seen - 1) % parts != part - 1:
            return
        start = time.monotonic()
        try:
            detail = function()
            verdict = "ok"
            self.passed += 1
        except Skip as reason:
            verdict, detail = "NOT RUN", str(reason)
            self.not_run += 1
        except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            verdict, detail = "FAILED", str(error)
            self.failed += 1
        print(f"{verdict:<8} {name} ({time.monotonic() - start:.1f} s): {detail}", flush=True)


class Skip(Exception):
    """A step that cannot run here, with the reason."""


def part_of(text):
    """`2/3` as (2, 3)."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text} is not N/M with N from 1 to M")
    return int(part), int(parts)


def last_line(done):
    return (done.stdout.strip().splitlines() or [""])[-1]


def main():
    parser = argparse.ArgumentParser(prog="test-cuda", description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/metallic", help="the program")
    parser.add_argument("--device", default="cuda", help="the device (cuda)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only steps whose name has this word")
    parser.add_argument("--part", type=part_of, default=(1, 1), metavar="N/M", help="every M-th step, from the N-th on")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a small part of the attention matrix, in a few minutes")
    size.add_argument("--full", action="store_true", help="all of it (the default)")
    parser.add_argument("--model", action="append", default=[], help="a model file more; may be repeated")
    args = parser.parse_args()
    args.binary = os.path.abspath(args.binary)
    bench = Bench(args)
    folder = tempfile.mkdtemp(prefix="metallic-test-cuda-")
    text = os.path.join(folder, "text.txt")
    with open(text, "w", encoding="utf-8") as file:
        file.write(TEXT)
    on = ["--device", args.device]

    shape = os.path.join(folder, "shape.json")
    with open(shape, "w", encoding="utf-8") as file:
        json.dump(SHAPE, file)

    listed = bench.json("devices")
    for library in listed["cuda_libraries"]:
        print("        ", library["name"], library.get("version") or library["missing"], library.get("place", ""))
    gpus = [d for d in listed["devices"] if d["device"].startswith("cuda")]
    if not gpus:
        print(f"NOT RUN  everything: there is no GPU; {listed['unusable']}")
        sys.exit(1)
    print("        ", gpus[0]["device"], gpus[0]["description"])
    engines = gpus[0]["kernels"].get("sdpa", {}).get("graph", [])
    with_graph = bool(engines)
    whole_steps = "sm_90" in gpus[0]["description"]
    missing = {library["name"]: library["missing"] for library in listed["cuda_libraries"] if "missing" in library}

    def prewarm():
        return bench.metallic("prewarm", *on).stderr.strip()

    def ops():
        return last_line(bench.metallic("parity", "--ops", *on))

    def attention(*words):
        def run():
            if "cudnn" in words and missing.get("cuDNN"):
                raise Skip(f"cuDNN {missing['cuDNN']}")
            size = ["--quick"] if args.quick else []
            return last_line(bench.metallic("parity", *size, *on, *words))

        return run

    def tuning():
        shapes = ["--q-len", "1,128", "--kv-len", "512", "-r", "2"]
        chosen = [f"{row['case']}: {row['engine']}" for row in bench.json("tune", *on, *shapes)["shapes"]]
        assert chosen, "nothing was measured"
        return "; ".join(chosen)

    def unknown_engine():
        done = bench.metallic("parity", "--quick", *on, "--graph-engine", "nobody", check=False)
        assert done.returncode == 2, f"ended with {done.returncode}"
        assert all(engine in done.stderr for engine in engines), done.stderr
        return last_line(argparse.Namespace(stdout=done.stderr))

    def probabilities(model, extra, bound):
        def run():
            given = ["-m", model] if model else []
            words = ["perplexity", *given, "-f", text, *extra]
            want = bench.json("perplexity", *given, "-f", text, "--exact")["nll"]
            got = bench.json(*words, *on)["nll"]
            assert len(want) == len(got) and all(math.isfinite(x) for x in got), "other tokens, or no numbers"
            worst = max(abs(a - b) for a, b in zip(want, got))
            assert worst <= bound, f"a token's log probability differs by {worst:.2e}, allowed {bound:.0e}"
            return f"{len(want)} tokens, largest difference {worst:.1e}"

        return run

    def greedy(backend, *extra):
        def run():
            if backend == "graph" and not with_graph:
                raise Skip("no graph kernel is registered for attention")
            words = ["run", "-p", PROMPT, "-n", "200", "--temp", "0", "--ignore-eos", "--exact"]
            if backend == "graph":
                # Its kernels take no f32 keys, which --exact keeps otherwise.
                words += ["--cache-type-k", "f16", "--cache-type-v", "f16"]
            want = bench.json(*words)["ids"]
            got = bench.json(*words, *on, "--sdpa-backend", backend, *extra)["ids"]
            same = sum(1 for _ in iter_equal(want, got))
            assert len(want) == 200 and want == got, f"the first {same} of {len(want)} tokens are equal"
            return "200 tokens equal"

        return run

    def drawn(*rule):
        def run():
            words = ["run", "-p", PROMPT, "-n", "200", "--ignore-eos", "--seed", "3", *rule, *on]
            # A bias of nothing leaves the choice to the host, from the same logits.
            want = bench.json(*words, "--logit-bias", "0-0")["ids"]
            got = bench.json(*words)["ids"]
            same = sum(1 for _ in iter_equal(want, got))
            assert len(want) == 200 and want == got, f"the first {same} of {len(want)} tokens are equal"
            return "200 tokens equal"

        return run

    def growing(backend):
        def run():
            # Without a number of tokens the cache starts small and grows in the middle; f32 rows of keys are
            # those that the CPU keeps with --exact.
            words = ["run", "-p", PROMPT, "-n", "-1", "--temp", "0", "--ignore-eos", "--exact"]
            want = bench.json(*words)["ids"]
            got = bench.json(*words, *on, "--backend", backend)["ids"]
            same = sum(1 for _ in iter_equal(want, got))
            assert len(want) > 256 and want == got, f"the first {same} of {len(want)} tokens are equal"
            return f"{len(want)} tokens equal"

        return run

    def replayed():
        events = os.path.join(folder, "events.jsonl")
        words = ["run", "-p", PROMPT, "-n", "200", "--temp", "0", "--ignore-eos", "--metrics", events]
        bench.json(*words, *on)
        with open(events, encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        access = [r for r in records if r["event"] == "ResourceCacheAccess" and ": step " in r["cache_key"]]
        hits = sum(r["hit"] for r in access)
        plain = [r["reason"] for r in records if r["event"] == "KernelBackendSelected" and r["op"] == "step"]
        assert len(access) - hits == 1, f"{hits} replays, {len(access) - hits} recordings; {plain}"
        # One kernel makes several steps in a call: at most 16, and fewer at first.
        fewest, most = (13, 60) if whole_steps else (196, 200)
        assert fewest <= hits <= most, f"{hits} replays for 200 tokens, expected {fewest} to {most}; {plain}"
        return f"{hits} replays of one recording"

    def timed():
        events = os.path.join(folder, "timed.jsonl")
        words = ["run", "-p", PROMPT * 8, "-n", "24", "--temp", "0", "--ignore-eos", *on]
        want = bench.json(*words)["ids"]
        start = time.monotonic()
        got = bench.json(*words, "--profile", "latency", "--metrics", events)["ids"]
        wall = time.monotonic() - start
        with open(events, encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        times = [r["duration_ns"] / 1e9 for r in records if r["event"] == "KernelTimed"]
        kernels = {(r["op"], r["kernel"]) for r in records if r["event"] == "KernelTimed"}
        assert got == want, "another text than without the profile"
        assert len(kernels) >= 8 and len(times) > 24, f"{len(times)} launches of {sorted(kernels)}"
        # No launch is free, and all of them are part of the run.
        seen = f"{min(times):.1e} to {max(times):.1e} s, {sum(times):.2f} s of {wall:.2f} s"
        assert min(times) > 2e-7 and sum(times) < wall, seen
        times.sort()
        return f"{len(times)} launches of {len(kernels)} kernels, median {times[len(times) // 2] * 1e6:.1f} µs"

    def halves(kind, rows, bound):
        def run():
            events = os.path.join(folder, "halves.jsonl")
            words = ["perplexity", "-f", text, "--random-weights", shape, "--weights-type", kind, *on]
            words += ["--batch-size", str(rows), "--ubatch-size", str(rows)]
            want = bench.json(*words, "--segments", "off")["nll"]
            got = bench.json(*words, "--segments", "on", "--metrics", events)["nll"]
            with open(events, encoding="utf-8") as file:
                records = [json.loads(line) for line in file]
            ran = {
                (r["op"], r["backend"], r["reason"])
                for r in records
                if r["event"] == "KernelBackendSelected" and r["op"].endswith("_block")
            }
            assert {backend for _, backend, _ in ran} == {"graph"}, f"not fused: {ran}"
            worst = max(abs(a - b) for a, b in zip(want, got))
            assert len(want) == len(got) and worst <= bound, f"{worst:.2e}, allowed {bound:.0e}"
            return f"{len(want)} tokens, largest difference {worst:.1e}"

        return run

    def whole_step(kind, bound, source=text):
        def run():
            events = os.path.join(folder, "steps.jsonl")
            words = ["perplexity", "-f", source, "-c", "2048", "--random-weights", shape, "--weights-type", kind, *on]
            words += ["--batch-size", "1", "--ubatch-size", "1"]
            want = bench.json(*words, "--segments", "off")["nll"]
            got = bench.json(*words, "--segments", "step", "--metrics", events)["nll"]
            with open(events, encoding="utf-8") as file:
                records = [json.loads(line) for line in file]
            ran = {
                (r["backend"], r["variant"])
                for r in records
                if r["event"] == "KernelBackendSelected" and r["op"] == "decoder_step"
            }
            assert ran == {("graph", "persistent")}, f"not one kernel: {ran}"
            worst = max(abs(a - b) for a, b in zip(want, got))
            assert len(want) == len(got) and worst <= bound, f"{worst:.2e}, allowed {bound:.0e}"
            return f"{len(want)} tokens, largest difference {worst:.1e}"

        return run

    def sanitizer(tool, words):
        def run():
            path = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
            if not os.path.exists(path):
                raise Skip("compute-sanitizer is not installed")
            prefix = [path, "--tool", tool, "--error-exitcode", "7", "--print-limit", "1000"]
            done = bench.metallic(*words, *on, prefix=prefix, check=False)
            summary = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
            # NVIDIA's own kernels order shared memory in ways that the tool does not follow.
            hazards = re.findall(r"access at (\w+)", done.stdout + done.stderr) if tool == "racecheck" else []
            if done.returncode == 7 and hazards and all(name.startswith(NVIDIAS) for name in hazards):
                return f"hazards in kernels of cuBLASLt and cuDNN alone: {', '.join(sorted(set(hazards)))[:200]}"
            assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-40:])
            return summary[-1].strip("= ") if summary else "clean"

        return run

    def not_here(reason):
        def run():
            raise Skip(reason)

        return run

    bench.step("prewarm", prewarm)
    bench.step("every op against the CPU", ops)
    bench.step("attention against the oracle, legacy", attention("--sdpa-backend", "legacy"))
    for engine in engines:
        words = ["--sdpa-backend", "graph", "--graph-engine", engine]
        bench.step(f"attention against the oracle, graph {engine}", attention(*words))
    bench.step("an unknown engine is refused", unknown_engine)
    bench.step("tune", tuning)
    bench.step("embedded model, exact", probabilities(None, ["--exact"], 1e-3))
    bench.step("embedded model, as usual (against exact)", probabilities(None, [], 5e-2))
    for model in args.model:
        name = os.path.basename(model)
        bench.step(f"model {name}, exact", probabilities(model, ["--exact"], 5e-3))
    for backend in ["legacy", "graph"]:
        bench.step(f"greedy text, {backend}", greedy(backend))
    bench.step("greedy text, legacy, in segments", greedy("legacy", "--segments", "on"))
    for name, rule in [("usual", []), ("from 64", ["--temp", "1.5", "--top-k", "64", "--top-p", "1", "--min-p", "0"])]:
        bench.step(f"drawn text, {name}, by the device or by the host", drawn(*rule))
    for backend in ["auto", "legacy"]:
        bench.step(f"greedy text over a growing cache, {backend}", growing(backend))
    # Halves over quantised weights are among the cases of parity, with the oracle's own bounds.
    for rows in [1, 3, 8]:
        bench.step(f"fused halves against op by op, f16, {rows} rows", halves("f16", rows, 1e-3))
    if whole_steps:
        # Rounding inputs to 8 bits moves a token's log probability by up to 4e-2 on the CPU; a weight read wrongly moves
        # it by more than 1. The kernel waits with an end, so that a mistake is an error and no hang.
        for kind, bound in [("f32", 1e-3), ("f16", 1e-3), ("bf16", 1e-3), ("q8_0", 0.1), ("q4_0", 0.1)] + [
            (kind, 0.1) for kind in ("q5_0", "q4_k", "q6_k")
        ]:
            bench.step(f"a step as one kernel against op by op, {kind}", whole_step(kind, bound))
        # Views of keys are 1024 positions, then 2048.
        long = os.path.join(folder, "long.txt")
        with open(long, "w", encoding="utf-8") as file:
            file.write(TEXT * 60)
        bench.step("a step as one kernel past 1024 positions", whole_step("f16", 1e-3, long))
        step_run = ["run", "-p", PROMPT, "-n", "24", "--ignore-eos", "--segments", "step"]
        for tool in ["memcheck", "racecheck"]:
            for name, rule in [("greedy", ["--temp", "0"]), ("drawn", ["--seed", "3"])]:
                bench.step(f"{tool}, one kernel a step, {name}", sanitizer(tool, [*step_run, *rule]))
    bench.step("steps are replayed", replayed)
    bench.step("each kernel is timed", timed)
    text_run = ["run", "-p", PROMPT, "-n", "24", "--temp", "0", "--ignore-eos"]
    bench.step("memcheck, replayed steps", sanitizer("memcheck", text_run))
    prompt = ["bench", "--random-weights", shape, "-p", "70", "-n", "0", "-r", "1"]
    for kind in ["f16", "bf16", "q4_k"]:
        for tool in ["memcheck", "racecheck"]:
            bench.step(f"{tool}, prompt, {kind}", sanitizer(tool, [*prompt, "--weights-type", kind]))
    for tool in ["memcheck", "racecheck"]:
        bench.step(f"{tool}, every op", sanitizer(tool, ["parity", "--ops", "--quick"]))
        legacy = ["parity", "--quick", "--sdpa-backend", "legacy"]
        if args.quick and tool == "racecheck":
            legacy = ["bench", "sdpa", "-r", "1", *LEGACY.split()]
        bench.step(f"{tool}, attention, legacy", sanitizer(tool, legacy))
        for name, shapes in FUSED.items():
            words = ["bench", "sdpa", "-r", "1", "--sdpa-backend", "graph", *shapes.split()]
            if "cudnn" in words and missing.get("cuDNN"):
                bench.step(f"{tool}, {name}", not_here(f"cuDNN {missing['cuDNN']}"))
            else:
                bench.step(f"{tool}, {name}", sanitizer(tool, words))
    shutil.rmtree(folder)
    print(f"test-cuda: {bench.passed} passed, {bench.failed} failed, {bench.not_run} not run")
    sys.exit(bench.failed > 0)


def iter_equal(a, b):
    for x, y in zip(a, b):
        if x != y:
            return
        yield x


if __name__ == "__main__":
    main()
