"""Compiles every CUDA kernel with NVRTC and reads the assembler's report. Run through scripts/check-cuda.

Fails when a kernel does not compile, spills a register, or brings a warning that is not listed in WARNINGS
below. Variants and architectures are the `// variant:` and `// arch:` lines of the files, which the program
reads too.
"""

import argparse
import ctypes
import glob
import multiprocessing
import os
import re
import site
import sys

KERNELS = os.path.join(os.path.dirname(__file__), "../crates/metallic_devices/src/cuda/kernels")
ARCHITECTURES = ["sm_80", "sm_89", "sm_90a"]
# Parts of warnings that are known and right.
WARNINGS: list[str] = []


def nvrtc():
    paths = [p for s in site.getsitepackages() for p in glob.glob(f"{s}/nvidia/*/lib/libnvrtc.so.*")]
    if not paths:
        sys.exit("check-cuda: no libnvrtc among the installed packages")
    path = sorted(paths)[-1]
    # The compiler asks for this one by name, and no loader searches here.
    for builtins in glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins.so.*")):
        ctypes.CDLL(builtins)
    return ctypes.CDLL(path)


def compile_one(job):
    """Gives (name, registers and spills by function, complaints)."""
    path, variant, arch = job
    library = nvrtc()
    headers = sorted(glob.glob(f"{KERNELS}/*.cuh"))
    texts = [open(h, "rb").read() for h in headers]
    strings = ctypes.c_char_p * len(headers)
    program = ctypes.c_void_p()
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--ptxas-options=-v", *variant.split()]
    name = os.path.basename(path)
    complaints = []
    library.nvrtcCreateProgram(
        ctypes.byref(program),
        open(path, "rb").read(),
        name.encode(),
        len(headers),
        strings(*texts),
        strings(*[os.path.basename(h).encode() for h in headers]),
    )
    given = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    code = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(max(size.value, 1))
    library.nvrtcGetProgramLog(program, text)
    log = text.value.decode()
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if code != 0:
        complaints.append(f"does not compile ({code}):\n{log}")
    functions, function = {}, "?"
    for line in log.splitlines():
        if found := re.search(r"Function properties for (\S+)|Compiling entry function '(\S+)'", line):
            function = found[1] or found[2]
        if found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", line):
            stack, stores, loads = map(int, found.groups())
            functions.setdefault(function, {}).update(stack=stack, spill=stores + loads)
            if stores + loads > 0:
                complaints.append(f"{function} spills {stores} + {loads} bytes")
        if found := re.search(r"Used (\d+) registers", line):
            functions.setdefault(function, {})["registers"] = int(found[1])
        if "warning" in line.lower() and not any(known in line for known in WARNINGS):
            complaints.append(line.strip())
    return f"{name} {variant} {arch}".replace("  ", " "), functions, complaints


def lines_of(path, mark):
    with open(path, encoding="utf-8") as file:
        return [line[len(mark) :].strip() for line in file if line.startswith(mark)]


def main():
    parser = argparse.ArgumentParser(prog="check-cuda", description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="names without .cu; all without any")
    parser.add_argument("--arch", action="append", help="only this architecture; may be repeated")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="compilations at once (2)")
    parser.add_argument("-v", "--verbose", action="store_true", help="registers and stack of every function")
    args = parser.parse_args()
    jobs = []
    for path in sorted(glob.glob(f"{KERNELS}/*.cu")):
        if args.kernels and os.path.basename(path)[:-3] not in args.kernels:
            continue
        made_for = " ".join(lines_of(path, "// arch:")).split()
        for arch in args.arch or ARCHITECTURES:
            if made_for and arch not in made_for:
                continue
            # A file with "any" is made to order; its other lines are the variants of common models.
            variants = [v for v in lines_of(path, "// variant:") if v != "any"] or [""]
            jobs.extend((path, variant, arch) for variant in variants)
    if not jobs:
        sys.exit("check-cuda: no such kernel")
    bad = 0
    with multiprocessing.Pool(args.jobs) as pool:
        for name, functions, complaints in pool.imap(compile_one, jobs):
            if args.verbose:
                for function, use in functions.items():
                    facts = ", ".join(f"{key} {value}" for key, value in sorted(use.items()))
                    print(f"{name} {function}: {facts}")
            bad += bool(complaints)
            for complaint in complaints:
                print(f"check-cuda: {name}: {complaint}")
    print(f"check-cuda: {len(jobs) - bad} compiled, {bad} failed")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
