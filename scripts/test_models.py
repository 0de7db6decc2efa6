"""Run the `metallic` program on real models and compare with stored float32 reference values.

Each check is one test per model, most of them once per attention backend. The reference values lie in
crates/metallic_cli/tests/golden/ and come from bench/peers/reference_nll.py; nothing but Python's
standard library is needed here. A model that cannot be had is said aloud, and its tests count as skipped.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import fetch_models

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "crates/metallic_cli/tests/golden"
GOLDEN_TEXT = GOLDEN / "text.txt"
BACKENDS = ("legacy", "graph")
SCHEMA = 1
MODELS = ("tiny", "smollm2", "qwen05")  # tiny is embedded in the program

EXACT_NLL = 1e-3  # nats for each token, float32 activations and KV cache
EXACT_LOGIT = 0.02  # the same for the first generated token's logits, seen through their NLL
MEAN_NLL = 0.02  # nats for the mean, activations and KV cache as they are by default
MEMORY_MARGIN = 150e6  # bytes beyond the file and the KV cache
KV_STEP = 256  # positions by which the KV cache grows
SECONDS = 600  # of one run of the program

EXACT_FLAGS = ("--exact", "--cache-type-k", "f32", "--cache-type-v", "f32")


class CheckFailed(Exception):
    """What differs."""


def require(condition, message):
    if not condition:
        raise CheckFailed(message)


@dataclass
class Outcome:
    """Of one run of the program."""

    stdout: str
    stderr: str
    peak_bytes: int


@dataclass
class Subject:
    """A model under test, its reference values, and runs that several checks share."""

    key: str
    binary: Path
    golden: dict
    path: Path | None = None
    kept: dict = field(default_factory=dict)

    def run(self, command, *arguments):
        model = ["--model", str(self.path)] if self.path else []
        return execute([str(self.binary), command, *model, *arguments])

    def nlls(self, file, backend, *flags):
        """The NLLs of a text file under one backend."""
        outcome = self.run("perplexity", "--file", str(file), "--json", *forced(backend), *flags)
        return json.loads(outcome.stdout)["nll"]

    def golden_nlls(self, backend, *flags):
        """Those of the golden text, computed once."""
        key = (backend, flags)
        if key not in self.kept:
            self.kept[key] = self.nlls(GOLDEN_TEXT, backend, *flags)
        return self.kept[key]


def forced(backend):
    """Flags that run attention on one backend or fail."""
    return ["--sdpa-backend", backend, "--require-backend", backend]


def execute(command):
    """Run a command to its end; its peak memory is the kernel's account, not its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("METALLIC_")}
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment
        )
        status, usage = wait(process, time.monotonic() + SECONDS)
        stdout.seek(0)
        stderr.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024
        outcome = Outcome(stdout.read(), stderr.read(), usage.ru_maxrss * unit)
    said = outcome.stderr.strip().splitlines()
    require(
        status == 0, f"`{' '.join(command[1:])}` ended with {status}: {said[-1] if said else 'no message'}"
    )
    return outcome


def wait(process, deadline):
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.01)


def largest_difference(found, expected):
    require(len(found) == len(expected), f"{len(found)} values, expected {len(expected)}")
    return max(abs(a - b) for a, b in zip(found, expected))


def mean(values):
    return sum(values) / len(values)


# Checks: each takes a subject (and a backend), raises CheckFailed, and may return a remark.


def prompt_ids(subject):
    """The prompt's token ids."""
    prompt = subject.golden["prompt"]
    found = json.loads(subject.run("tokenize", "--prompt", prompt["text"], "--ids").stdout)
    require(found == prompt["ids"], f"{found}, expected {prompt['ids']}")


def text_ids(subject):
    """The token ids of the golden text."""
    found = json.loads(subject.run("tokenize", "--file", str(GOLDEN_TEXT), "--ids").stdout)
    expected = subject.golden["ids"]
    same = next(
        (i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected))
    )
    require(found == expected, f"{len(found)} ids, expected {len(expected)}; they part at {same}")


def first_logits(subject, backend):
    """The likeliest first tokens' logits, through the NLL of the prompt continued with each."""
    prompt, worst = subject.golden["prompt"], 0.0
    for token in prompt["next"][:2]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(prompt["text"] + token["text"])
            file.flush()
            found = subject.nlls(Path(file.name), backend, *EXACT_FLAGS)
        require(len(found) == len(prompt["ids"]), f"{len(found)} values, expected {len(prompt['ids'])}")
        worst = max(worst, abs(found[-1] - token["nll"]))
    require(worst <= EXACT_LOGIT, f"off by {worst:.5f}, at most {EXACT_LOGIT}")
    return f"off by {worst:.1e}"


def greedy_text(subject, backend):
    """Greedy text begins with the reference's likeliest token."""
    prompt = subject.golden["prompt"]
    outcome = subject.run(
        "run", "--prompt", prompt["text"], "--n-predict", "8", "--temp", "0", *forced(backend)
    )
    expected = prompt["next"][0]["text"]
    require(outcome.stdout.startswith(expected), f"{outcome.stdout!r}, expected {expected!r} first")
    summary = outcome.stderr.strip().splitlines()[-1:]
    require(
        summary and re.search(r"tok/s.*peak memory.*sdpa", summary[0]), f"no summary on stderr: {summary}"
    )
    return repr(outcome.stdout.rstrip("\n"))


def exact_nll(subject, backend):
    """Every token's NLL with float32 activations."""
    found = subject.golden_nlls(backend, *EXACT_FLAGS)
    worst = largest_difference(found, subject.golden["nll"])
    require(worst <= EXACT_NLL, f"off by {worst:.5f} nats at worst, at most {EXACT_NLL}")
    return f"off by {worst:.1e} nats at worst"


def default_nll(subject, backend):
    """The mean NLL as the program runs by default."""
    found = subject.golden_nlls(backend)
    require(
        len(found) == len(subject.golden["nll"]),
        f"{len(found)} values, expected {len(subject.golden['nll'])}",
    )
    off = mean(found) - subject.golden["mean_nll"]
    require(abs(off) <= MEAN_NLL, f"mean off by {off:+.4f} nats, at most {MEAN_NLL}")
    return f"mean off by {off:+.4f} nats"


def backends_agree(subject):
    """Legacy and graph give the same NLLs with float32 activations."""
    legacy, graph = (subject.golden_nlls(backend, *EXACT_FLAGS) for backend in BACKENDS)
    worst = largest_difference(legacy, graph)
    require(worst <= EXACT_NLL, f"apart by {worst:.5f} nats at worst, at most {EXACT_NLL}")
    return f"apart by {worst:.1e} nats at worst"


def peak_memory(subject, backend):
    """A run takes its file, its KV cache and a fixed margin."""
    flags = ["--n-predict", "16", "--temp", "0", "--ignore-eos", *forced(backend)]
    outcome = subject.run("run", "--file", str(GOLDEN_TEXT), *flags)
    file = subject.path or subject.binary
    positions = -(-(subject.golden["tokens"] + 16) // KV_STEP) * KV_STEP
    kv_bytes = 2 * subject.golden["kv_values_per_token"] * positions  # f16
    limit = file.stat().st_size + kv_bytes + MEMORY_MARGIN
    remark = f"{outcome.peak_bytes / 1e6:.0f} MB of at most {limit / 1e6:.0f} MB"
    require(outcome.peak_bytes <= limit, remark)
    return remark


ONCE = (prompt_ids, text_ids)
PER_BACKEND = (first_logits, greedy_text, exact_nll, default_nll, peak_memory)
LAST = (backends_agree,)


def load_golden(key):
    golden = json.loads((GOLDEN / f"nll_{key}.json").read_text(encoding="utf-8"))
    if golden["schema"] != SCHEMA:
        sys.exit(
            f"nll_{key}.json has schema {golden['schema']}, expected {SCHEMA}; regenerate it: {golden['command']}"
        )
    return golden


def tests():
    """(name, check, arguments after the subject) of every test of a model."""
    for check in ONCE:
        yield check.__name__, check, ()
    for backend in BACKENDS:
        for check in PER_BACKEND:
            yield f"{check.__name__}[{backend}]", check, (backend,)
    for check in LAST:
        yield check.__name__, check, ()


def run_tests(subject):
    """(passed, failed) of one model, a printed line each."""
    counts = {True: 0, False: 0}
    for name, check, arguments in tests():
        try:
            remark, passed = check(subject, *arguments), True
        except (CheckFailed, KeyError, ValueError) as error:
            remark, passed = f"{type(error).__name__}: {error}", False
        counts[passed] += 1
        verdict = "ok" if passed else "FAILED"
        print(f"{subject.key:8} {name:24} {verdict}{f' ({remark})' if remark else ''}", flush=True)
    return counts[True], counts[False]


def locate(key, args):
    """The model's file, None for the embedded one; fetched if it may be."""
    if key == "tiny":
        return None
    if not args.no_fetch:
        return fetch_models.fetch(key, args.models)[0]
    path = args.models / fetch_models.MODELS[key][0].file
    if not path.exists():
        raise fetch_models.Unavailable(f"{path} is not there, and --no-fetch was given")
    return path


def build():
    """The release binary, built if it is out of date."""
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/metallic"


def parse_arguments():
    parser = argparse.ArgumentParser(prog="test-models", description="Tests on real models, fetched first.")
    parser.add_argument("keys", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; default: all")
    parser.add_argument(
        "--models", type=Path, default=ROOT / "models", help="folder of the models (default: models)"
    )
    parser.add_argument(
        "--binary", type=Path, help="test this program instead of building target/release/metallic"
    )
    parser.add_argument("--no-fetch", action="store_true", help="use only what is in the folder")
    args = parser.parse_args()
    unknown = [key for key in args.keys if key not in MODELS]
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; known: {', '.join(MODELS)}")
    return args


def main():
    args = parse_arguments()
    binary = args.binary or build()
    if not binary.exists():
        sys.exit(f"no program at {binary}")
    passed = failed = skipped = 0
    for key in args.keys or MODELS:
        try:
            path = locate(key, args)
        except fetch_models.Unavailable as error:
            count = sum(1 for _ in tests())
            skipped += count
            print(f"!!! {key}: {count} tests NOT RUN, the model cannot be had: {error}", flush=True)
            continue
        good, bad = run_tests(Subject(key, binary.resolve(), load_golden(key), path))
        passed, failed = passed + good, failed + bad
    print(f"test-models: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
