"""Runs CUDA kernels on this machine's CPU, thread by thread.

First the kernels between the products of many rows, against f64 loops; then the kernel of a whole decode step, what
draws tokens in it (against the draws of the host's sampler) and the kernels of attention for few rows and for Hopper, a
fiber for each thread and a system thread for each block (`tests/softcuda/device.hpp`), whose instructions have
stand-ins; then, with a program that is built already, a prompt and texts on `--device cuda` over stand-ins for NVIDIA's
libraries (`tests/softcuda/nvidia.cpp`), against the CPU: every launch is the program's own. It says nothing of speed, of
the machine's own arithmetic or of other kernels built on PTX. Needs a C++20 compiler. Run through scripts/test-softcuda.
"""

import argparse
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "crates/metallic_devices/src/cuda/kernels"
TESTS = ROOT / "tests/softcuda"
TEXT = "Once upon a time, there was a kind boy named Boris. He lived in a little hut near the sea."

# Functions of PTX, as C++: result, parameters and body.
FROM_F16 = ("float", "u16 bits", "return (float)bits_as<_Float16>(bits);")
TO_F16 = ("u16", "float value", "return bits_as<u16>((_Float16)value);")
TO_BF16 = (
    "u16",
    "float value",
    "const u32 bits = __float_as_uint(value);\n"
    "    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;",
)
PACK = "const auto to = TYPE == 2 ? float_to_bf16 : float_to_half;\n    return to(low) | (u32)to(high) << 16;"
PTX = {
    "f16_to_f32": FROM_F16,
    "half_to_float": FROM_F16,
    "f32_to_f16": TO_F16,
    "float_to_half": TO_F16,
    "f32_to_bf16": TO_BF16,
    "float_to_bf16": TO_BF16,
    "exp2_fast": ("float", "float x", "return std::exp2(x);"),
    "pack2": ("u32", "float low, float high", PACK),
}
# Where the part of sdpa_common.cuh begins that plain kernels do without.
MATRIX_UNITS = "// --- matrix units"


def compiler():
    found = next(filter(None, map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])), None)
    if found is None:
        sys.exit("test-softcuda: no C++ compiler")
    return [found, "-std=c++20", "-O1", "-ffp-contract=off", "-w", "-Wno-psabi", f"-I{TESTS}"]


def translated(source, folder):
    """The kernels of `source`, with the headers in `folder`, in C++; and what runs each over a grid."""
    included = set()

    def include(match):
        name = match.group(1)
        if name in included:
            return ""
        included.add(name)
        text = (folder / name).read_text(encoding="utf-8").replace("#pragma once", "")
        return expand(text.split(MATRIX_UNITS)[0])

    def expand(text):
        return re.sub(r'#include "([^"]+)"', include, text)

    text = expand(source)
    for name, (result, parameters, body) in PTX.items():
        pattern = rf"__device__ __forceinline__ {result} {name}\([^)]*\) \{{.*?\n\}}\n"
        text = re.sub(pattern, f"inline {result} {name}({parameters}) {{\n    {body}\n}}\n", text, flags=re.DOTALL)
    if "asm" in text:
        raise ValueError("it holds PTX")
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1 *\2 = (\1 *)dynamic_shared;", text)
    runs = []
    pattern = r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(const __grid_constant__ (\w+)'
    for name, parameter in re.findall(pattern, text):
        body = f"[](void *with) {{ {name}(*({parameter} *)((void **)with)[0]); }}"
        head = f'extern "C" void run_{name}(Index grid, Index block, void **params, size_t)'
        runs.append(f"{head} {{\n    soft::run_grid(grid, block, {body}, params);\n}}\n")
        runs.append(f'extern "C" const size_t bytes_of_{name} = sizeof({parameter});\n')
    return text, "".join(runs)


# The kernel of a whole step, over a fiber for each thread, as the stand-in for the driver launches it.
STEP_RUN = """#include "device.hpp"
#include "kernel.inc"
static const Step *given;
extern "C" const size_t bytes_of_decode_step = sizeof(Step);
extern "C" void run_decode_step(Index grid, Index block, void **params, size_t shared) {
    static unsigned launches;
    given = (const Step *)params[0];
    soft::shared_bytes = shared, soft::threads = block.x, soft::entry = [] { decode_step(*given); };
    soft::launch(grid.x, launches++);
}
"""


def flatten(folder, kernel):
    """The file `kernel` with its headers in place, as kernel.inc in `folder`."""
    command = [sys.executable, TESTS / "flatten.py", kernel, folder / "kernel.inc"]
    subprocess.run(command, check=True)


def translate(folder):
    """What the stand-in for NVRTC asks for: kernel.so of main.cu and the definitions in `options`."""
    source = (folder / "main.cu").read_text(encoding="utf-8")
    if " decode_step(" in source:
        flatten(folder, "persistent.cu")
        program = STEP_RUN
    else:
        try:
            text, runs = translated(source, folder)
        except ValueError as error:
            sys.exit(f"softcuda cannot compile this kernel: {error}")
        program = f'#include "block.hpp"\n{text}\n{runs}'
    (folder / "kernel.cpp").write_text(program, encoding="utf-8")
    options = (folder / "options").read_text(encoding="utf-8").split()
    defined = [option for option in options if option.startswith("-D")]
    command = [*compiler(), *defined, "-pthread", "-shared", "-fPIC", f"-I{folder}", str(folder / "kernel.cpp")]
    sys.exit(subprocess.run([*command, "-o", str(folder / "kernel.so")], check=False).returncode)


def kernels(folder):
    """The kernels of many_rows.cu against f64 loops."""
    source = (KERNELS / "many_rows.cu").read_text(encoding="utf-8")
    (folder / "kernels.inc").write_text(translated(source, KERNELS)[0], encoding="utf-8")
    program = folder / "many_rows"
    command = [*compiler(), f"-I{folder}", str(TESTS / "many_rows.cpp"), "-o", str(program)]
    subprocess.run(command, check=True)
    return subprocess.run([program], check=False).returncode == 0


# Of step.cpp: WEIGHTS, TABLE, KV, HEAD_DIM; then its words, types of weights as the kernels number them.
STEPS = [
    ("0x2 1 1 64", "f16", "192 1096 3 1 1100 4 1 37 2 0 1 1 1 1 1 1 1 1"),
    ("0x2 1 1 64", "f16, first position, interleaved", "256 2056 4 2 400 8 2 0 3 1 1 1 1 1 1 1 1 1"),
    ("0x2 1 1 64", "f16, four parts of the keys", "1280 520 6 2 300 24 4 300 3 0 1 1 1 1 1 1 1 1"),
    ("0x4 2 2 64", "bf16", "192 1096 3 1 1100 4 1 37 2 0 2 2 2 2 2 2 2 2"),
    ("0x1 0 0 128", "f32, heads of 128", "256 1096 2 1 500 4 2 70 2 0 0 0 0 0 0 0 0 0"),
    ("0x22 1 1 64", "q8_0 under an f16 head", "224 1120 3 1 500 4 1 37 3 0 5 5 5 5 5 5 5 1"),
    ("0x40 6 1 64", "q4_0", "224 1120 3 1 500 4 1 38 3 0 6 6 6 6 6 6 6 6"),
    ("0x5120 5 1 64", "q4_k, q6_k, q5_0 and q8_0", "1280 1280 4 2 500 8 2 37 3 0 12 12 14 8 12 12 14 5"),
    ("0x5000 14 1 128", "q4_k and q6_k, heads of 128", "512 2304 4 2 500 8 2 200 3 0 12 12 14 12 12 12 14 14"),
]


DRAWS = ROOT / "crates/metallic_models/tests/draws.txt"

# Of attention.cpp: QT, HEAD_DIM, V_DIM, GROUPS, KEYS, STAGES, as `// variant:` lines of the kernel have them; then
# its words.
ATTENTION = [
    ("1 64 64 1 128 2", "f16, 64 x 128 keys", "none 1 4 2 130 261 3 1"),
    ("1 64 64 1 128 2", "f16, 64 x 128 keys", "lens_causal 4 2 1 70 301 3 2"),
    ("1 64 64 2 192 2", "f16, 128 x 192 keys", "causal 1 2 2 300 300 2 3"),
    ("1 64 64 2 192 2", "f16, 128 x 192 keys", "lens 4 2 1 130 410 3 4"),
    ("1 64 64 2 192 2", "f16, 128 x 192 keys", "hidden_nan 1 1 1 140 290 2 5"),
    ("1 128 128 1 64 2", "f16, heads of 128, 64 x 64 keys", "window 1 2 1 150 200 2 6"),
    ("1 128 128 1 64 2", "f16, heads of 128, 64 x 64 keys", "seen_nan 1 1 1 80 90 2 7"),
    ("2 128 128 2 128 2", "bf16, heads of 128, 128 x 128 keys", "none 1 4 2 150 300 3 8"),
    ("2 128 128 2 128 2", "bf16, heads of 128, 128 x 128 keys", "band 1 2 1 200 210 2 9"),
    ("2 128 128 2 128 2", "bf16, heads of 128, 128 x 128 keys", "lens_causal 3 2 1 130 300 3 10"),
    ("2 128 128 2 128 2", "bf16, heads of 128, 128 x 128 keys", "seen_nan 1 1 1 130 90 2 11"),
]

# Of few_rows.cpp: QT, HEAD_DIM, V_DIM, WARPS, STAGES; then its words.
FEW_ROWS = [
    ("1 64 64 2 2", "f16, 2 warps", "none 1 14 2 1 70 1 1"),
    ("1 64 64 2 2", "f16, 2 warps", "lens 4 4 2 1 200 2 2"),
    ("1 64 64 2 2", "f16, 2 warps", "hidden_nan 1 2 1 9 130 3 3"),
    ("2 96 96 2 3", "bf16, heads of 96", "causal 1 6 2 5 150 3 4"),
    ("2 96 96 2 3", "bf16, heads of 96", "window 2 2 2 3 90 2 5"),
    ("1 128 128 4 2", "f16, heads of 128, 4 warps", "none 1 28 4 1 300 2 6"),
    ("1 128 128 4 2", "f16, heads of 128, 4 warps", "lens_causal 3 4 1 8 190 1 7"),
    ("1 128 128 4 2", "f16, heads of 128, 4 warps", "seen_nan 1 4 2 1 90 4 8"),
    ("1 192 192 1 2", "f16, heads of 192", "band 1 4 1 5 80 1 9"),
]


def fibers(folder, kernel, source, macros, cases):
    """A kernel against f64, built with each of `cases`' macros. One that waits for ever is a failure too."""
    flatten(folder, kernel)
    program, built, passed = folder / Path(source).stem, None, True
    for build, name, words in cases:
        if build != built:
            defines = [f"-D{key}={value}" for key, value in zip(macros, build.split(), strict=True)]
            command = [*compiler(), "-pthread", f"-I{folder}", *defines, TESTS / source, "-o", program]
            subprocess.run(command, check=True)
            built = build
        try:
            words = [f"{program.name}, {name}", *words.split()]
            right = subprocess.run([program, *words], timeout=1200, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            right = False
        if not right:
            print(f"FAILED   {' '.join(words)}")
        passed &= right
    return passed


def stand_ins(folder):
    """The stand-ins for NVIDIA's libraries in `folder`, and the environment in which a program finds them."""
    library = folder / "libcuda.so.1"
    subprocess.run([*compiler(), "-shared", "-fPIC", str(TESTS / "nvidia.cpp"), "-o", str(library), "-ldl"], check=True)
    for name in ["libcuda.so", "libnvrtc.so.13", "libnvrtc.so", "libcublasLt.so.13", "libcublasLt.so"]:
        (folder / name).symlink_to(library)
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "METALLIC_CACHE_DIR": str(folder / "cache"),
        "SOFTCUDA_COMPILE": f"{shlex.quote(sys.executable)} {shlex.quote(os.path.abspath(__file__))} --translate",
        "SOFTCUDA_FOLDER": str(folder),
    }


# Small, with weights that the kernel of a whole step multiplies exactly.
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
TOKENS = 40


def text(binary, folder, environment, name, kind, *rule):
    """A text of a random model of `kind` through recorded steps of one kernel each, several in one call that choose
    tokens by `rule`, against the CPU's. The prompt is one token: longer ones run through kernels that hold PTX."""
    shape, events = folder / "shape.json", folder / "steps.jsonl"
    shape.write_text(json.dumps(SHAPE), encoding="utf-8")
    words = [binary, "run", "--random-weights", str(shape), "--weights-type", kind, "-p", "", "-n", str(TOKENS), *rule]
    words += ["--steps-at-once", "5", "--ignore-eos", "--exact", "--cache-type-k", kind, "--cache-type-v", kind, "--json"]
    hopper = {**environment, "SOFTCUDA_HOPPER": "1", "METALLIC_CACHE_DIR": str(folder / "hopper")}
    on = ["--device", "cuda", "--segments", "step", "--metrics", str(events)]
    ids = []
    for more, env in [([], None), (on, hopper)]:
        done = subprocess.run([*words, *more], capture_output=True, text=True, env=env, check=False)
        if done.returncode != 0:
            print(f"FAILED   {name} text: {done.stderr.strip()[-1500:]}")
            return False
        ids.append(json.loads(done.stdout)["ids"])
    records = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    replays = [r["hit"] for r in records if r["event"] == "ResourceCacheAccess" and ": step " in r["cache_key"]]
    same = sum(a == b for a, b in zip(*ids, strict=False))
    # The prompt makes one step, plainly; the call after it is recorded.
    right = same == TOKENS and len(replays) == -(-(TOKENS - 1) // 5) and replays.count(False) == 1
    verdict = "ok      " if right else "FAILED  "
    print(f"{verdict} {name} text: {same} of {TOKENS} tokens equal, {len(set(ids[0]))} different, {len(replays)} recorded calls")
    return right


def prompt(binary, folder, environment):
    """A prompt of the embedded model through the fused halves, against exact arithmetic on the CPU."""
    text, events = folder / "text.txt", folder / "events.jsonl"
    text.write_text(TEXT, encoding="utf-8")

    def values(*words, env=None):
        command = [binary, "perplexity", "-f", str(text), "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        if done.returncode != 0:
            sys.exit(f"FAILED   {' '.join(words)}: {done.stderr.strip()[-1500:]}")
        return json.loads(done.stdout)["nll"]

    want = values("--exact")
    passed = True
    # f16 activations and keys move a log probability by about 1e-2 here; a wrong launch by more than 1.
    for words, bound in [([], 5e-2), (["--cache-type-k", "bf16", "--cache-type-v", "bf16"], 0.3)]:
        got = values(*words, "--device", "cuda", "--metrics", str(events), env=environment)
        records = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
        ran = {
            (r["op"], r.get("backend"), r.get("variant"))
            for r in records
            if r["event"] in ("KernelBackendSelected", "SegmentDeclined") and r["op"].endswith("_block")
        }
        worst = max(abs(a - b) for a, b in zip(want, got, strict=True))
        fused = {("attention_block", "graph", "fused"), ("mlp_block", "graph", "fused")}
        if words:
            # Products in f16 do not take what a bf16 cache may give, so that half runs op by op.
            fused = {("attention_block", None, None), ("mlp_block", "graph", "fused")}
        right = ran == fused and math.isfinite(worst) and worst <= bound
        passed &= right
        verdict = "ok      " if right else "FAILED  "
        print(f"{verdict} prompt {' '.join(words)}: {len(got)} tokens, largest difference {worst:.1e}; {sorted(ran)}")
    # Kernel by kernel: the same numbers, and a time for each launch.
    plain, words = values("--device", "cuda", env=environment), ["--device", "cuda", "--profile", "latency"]
    right = values(*words, "--metrics", str(events), env=environment) == plain
    records = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    timed = [r for r in records if r["event"] == "KernelTimed"]
    kernels = {(r["op"], r["kernel"]) for r in timed}
    right &= {("linear", "cublasLtMatmul"), ("many_rows", "norm_halves")} <= kernels and len(timed) > len(kernels)
    print(f"{'ok      ' if right else 'FAILED  '} prompt, kernel by kernel: {len(timed)} launches of {len(kernels)} kernels")
    return passed and right


def main():
    parser = argparse.ArgumentParser(prog="test-softcuda", description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/metallic"), help="the program")
    parser.add_argument("--translate", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.translate:
        translate(arguments.translate)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        passed = kernels(folder)
        passed &= fibers(folder, "persistent.cu", "step.cpp", ["WEIGHTS", "TABLE", "KV", "HEAD_DIM"], STEPS)
        macros = ["WEIGHTS", "TABLE", "KV", "HEAD_DIM"]
        passed &= fibers(folder, "persistent.cu", "draw.cpp", macros, [("0x2 1 1 64", "all lines", str(DRAWS))])
        macros = ["QT", "HEAD_DIM", "V_DIM", "GROUPS", "KEYS", "STAGES"]
        passed &= fibers(folder, "sdpa_prefill_sm90.cu", "attention.cpp", macros, ATTENTION)
        macros = ["QT", "HEAD_DIM", "V_DIM", "WARPS", "STAGES"]
        passed &= fibers(folder, "sdpa_decode.cu", "few_rows.cpp", macros, FEW_ROWS)
        if os.path.exists(arguments.binary):
            binary, environment = os.path.abspath(arguments.binary), stand_ins(folder)
            passed &= prompt(binary, folder, environment)
            passed &= text(binary, folder, environment, "greedy", "f16", "--temp", "0")
            # Probabilities of random weights are flat, and a key that rounds otherwise can move a draw: so in f32.
            passed &= text(binary, folder, environment, "drawn", "f32", "--seed", "5")
            hot = ["--temp", "1.7", "--top-k", "64", "--top-p", "1", "--min-p", "0", "--seed", "6"]
            passed &= text(binary, folder, environment, "drawn from 64", "f32", *hot)
        else:
            print(f"NOT RUN  prompt: there is no {arguments.binary}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
