"""Runs `metallic op sdpa` on the test vectors that ONNX publishes for its operator Attention.

Each vector is one test for each backend: grouped heads, values of another width, boolean and additive masks of every rank,
causal with and without stored keys, live lengths, windows, softcap, f32, f16 and bf16. What ONNX says otherwise is
brought into our terms first: [batch, len, heads * width] becomes [batch, heads, len, width], stored keys are put before
the new ones, causal is counted from the first stored key unless lengths are given, and a mask that ends before the keys
hides the rest.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx.helper
from onnx.backend.test.case.node import collect_testcases
from safetensors.numpy import load_file, save_file

SLOTS = ("q", "k", "v", "mask", "past_k", "past_v", "kv_lens")
# Largest difference: one unit in the last place of numbers from 0.5 to 1, where the largest results lie; ONNX's own
# reference rounds between its steps. For f32, sums in another order.
BOUND = {"float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def split_heads(tensor, heads):
    batch, length, _ = tensor.shape
    return tensor.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)


def translate(case):
    """(tensors for `op sdpa`, its flags, the result wanted) of one vector."""
    node = case.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given, results = case.data_sets[0]
    values = iter(given)
    inputs = {slot: np.asarray(next(values)) for slot, name in zip(SLOTS, node.input) if name}
    want = np.asarray(results[0])
    tensors = {name: inputs[name] for name in ("q", "k", "v")}
    if want.ndim == 3:
        heads = {"q": attributes["q_num_heads"], "k": attributes["kv_num_heads"], "v": attributes["kv_num_heads"]}
        tensors = {name: split_heads(tensor, heads[name]) for name, tensor in tensors.items()}
        want = split_heads(want, heads["q"])
    past = 0
    if "past_k" in inputs:
        past = inputs["past_k"].shape[2]
        tensors["k"] = np.concatenate([inputs["past_k"], tensors["k"]], axis=2)
        tensors["v"] = np.concatenate([inputs["past_v"], tensors["v"]], axis=2)
    if "mask" in inputs:
        mask = inputs["mask"]
        missing = tensors["k"].shape[2] - mask.shape[-1]
        if missing and mask.shape[-1] != 1:
            hidden = False if mask.dtype == bool else -np.inf
            mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=hidden)
        tensors["mask"] = mask
    if "kv_lens" in inputs:
        tensors["kv_lens"] = inputs["kv_lens"].astype(np.int32)
    flags = []
    if attributes.get("is_causal"):
        flags.append("--causal")
    windows = {side: attributes.get(f"{side}_window_size", -1) for side in ("left", "right")}
    for side, keys in windows.items():
        if keys >= 0:
            flags += [f"--window-{side}", str(keys)]
    if flags and "kv_lens" not in inputs:
        flags += ["--causal-offset", str(past)]
    for name in ("scale", "softcap"):
        if attributes.get(name):
            flags += [f"--{name}", repr(float(attributes[name]))]
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, flags, want


def complaint(binary, device, backend, folder, case):
    """What is wrong with one backend's result; None if nothing is."""
    tensors, flags, want = translate(case)
    given, taken = os.path.join(folder, "in.safetensors"), os.path.join(folder, "out.safetensors")
    save_file(tensors, given)
    command = [binary, "op", "sdpa", "--inputs", given, "--output", taken, "--device", device]
    command += ["--sdpa-backend", backend, *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if result.returncode:
        return result.stderr.strip().splitlines()[-1]
    got = load_file(taken)["out"]
    os.remove(taken)
    if got.shape != want.shape:
        return f"shape {got.shape}, wanted {want.shape}"
    if got.dtype != want.dtype:
        return f"type {got.dtype}, wanted {want.dtype}"
    off = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
    # A NaN is not within the bound either.
    return None if off <= BOUND[want.dtype.name] else f"off by {off:.3e}, allowed {BOUND[want.dtype.name]:.1e}"


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    parser = argparse.ArgumentParser(prog="test-vectors", description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(root, "target/release/metallic"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if not os.path.exists(arguments.binary):
        parser.error(f"there is no {arguments.binary}: build it with `cargo build --release`, or give --binary")
    cases = [case for case in collect_testcases("Attention") if "expanded" not in case.name]
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            for backend in ("legacy", "graph"):
                wrong = complaint(arguments.binary, arguments.device, backend, folder, case)
                if wrong is None:
                    passed += 1
                else:
                    failed += 1
                    print(f"{case.name}, {backend}: {wrong}")
    print(f"test-vectors: {passed} passed, {failed} failed, 0 skipped")
    # A suite without cases has proven nothing.
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
