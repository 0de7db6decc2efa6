"""The repository's own CUDA attention kernels, launched from Python on PyTorch tensors.

Compiles `crates/metallic_devices/src/cuda/kernels/sdpa_*.cu` with NVRTC, as the device does, and
launches through the driver, so that a run times the very kernels of the repository beside PyTorch's.
Compiled kernels are kept under `METALLIC_CUBINS` when that is set.
"""

import ctypes
import hashlib
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = pathlib.Path(os.environ.get("METALLIC_KERNELS", ROOT / "crates/metallic_devices/src/cuda/kernels"))
OPEN = 1 << 40
I64, I32, F32, PTR = ctypes.c_int64, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class Call(ctypes.Structure):
    """`SdpaCall` of sdpa_common.cuh."""

    _fields_ = [
        *[(n, PTR) for n in ("q", "k", "v", "out", "mask", "kv_lens", "partials", "counters")],
        *[(n, I64 * 3) for n in ("q_stride", "k_stride", "v_stride", "o_stride")],
        ("mask_stride", I64 * 4),
        *[(n, I64) for n in ("left", "right", "offset")],
        *[(n, I32) for n in ("fixed_offset", "batch", "q_heads", "kv_heads", "q_len", "kv_len")],
        *[(n, I32) for n in ("splits", "heads_per_wave")],
        *[(n, F32) for n in ("scale", "softcap")],
    ]


class TensorMap(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_uint64 * 16)]


def arch_of(file):
    return "sm_90a" if "sm90" in file else os.environ.get("METALLIC_ARCH", "sm_90")


def compile_kernel(file, defines):
    """The machine code of `file` with `defines`, from the cache or from NVRTC."""
    options = [f"-arch={arch_of(file)}", "-std=c++17", f"-I{KERNELS}"]
    options += [f"-D{name}={value}" for name, value in sorted(defines.items())]
    source = (KERNELS / file).read_bytes()
    headers = b"".join(p.read_bytes() for p in sorted(KERNELS.glob("*.cuh")))
    key = hashlib.sha256(source + headers + " ".join(o for o in options if "-I" not in o).encode())
    cache = os.environ.get("METALLIC_CUBINS")
    path = pathlib.Path(cache) / (key.hexdigest()[:24] + ".cubin") if cache else None
    if path and path.exists():
        return path.read_bytes()
    nvrtc = ctypes.CDLL(os.environ.get("METALLIC_NVRTC", "libnvrtc.so.13"))
    program, size = PTR(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, file.encode(), 0, None, None)
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
    if failed:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.value.decode())
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    if path:
        path.write_bytes(code.raw)
    return code.raw


def defines_of(dtype, head_dim, v_dim, mask=None, softcap=None, kv=None, **tuning):
    """The macros of a call: types, widths, mask tensor, softcap, and the tile sizes."""
    types = {"float32": 0, "float16": 1, "bfloat16": 2, "bool": 3}
    name = lambda t: types[str(t).removeprefix("torch.")]
    defines = {"QT": name(dtype), "KT": name(kv or dtype), "VT": name(kv or dtype)}
    defines |= {"HEAD_DIM": head_dim, "V_DIM": v_dim, "SOFTCAP": int(softcap is not None)}
    if mask is not None:
        kind = name(mask)
        defines |= {"MASK_TENSOR": 2 if kind == 3 else 1, "MASK_T": 0 if kind == 3 else kind}
    return defines | tuning


class Driver:
    """The CUDA driver, on PyTorch's context and current stream."""

    def __init__(self):
        import torch

        self.torch = torch
        torch.zeros(1, device="cuda")
        self.lib = ctypes.CDLL("libcuda.so.1")
        self.loaded = {}
        self.scratch = {}
        self.multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count

    def check(self, code, what):
        if code:
            raise RuntimeError(f"{what}: CUDA error {code}")

    def function(self, file, defines, name, shared, wide_cluster=False):
        key = (file, tuple(sorted(defines.items())))
        if key not in self.loaded:
            module, function = PTR(), PTR()
            code = compile_kernel(file, defines)
            self.check(self.lib.cuModuleLoadData(ctypes.byref(module), code), "load")
            self.check(self.lib.cuModuleGetFunction(ctypes.byref(function), module, name.encode()), "get")
            self.check(self.lib.cuFuncSetAttribute(function, 8, shared), f"shared {shared}")
            if wide_cluster:
                self.check(self.lib.cuFuncSetAttribute(function, 14, 1), "wide cluster")
            self.loaded[key] = function
        return self.loaded[key]

    def launch(self, function, grid, threads, shared, *arguments):
        pointers = (PTR * len(arguments))(*[ctypes.addressof(a) for a in arguments])
        stream = PTR(self.torch.cuda.current_stream().cuda_stream)
        code = self.lib.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, pointers, None)
        self.check(code, f"launch {grid} x {threads}")

    def zeroed(self, name, count):
        """A buffer that starts as zeros and is kept, for counters."""
        if name not in self.scratch or self.scratch[name].numel() < count:
            self.scratch[name] = self.torch.zeros(count, device="cuda", dtype=self.torch.int32)
        return self.scratch[name]

    def tensor_map(self, tensor, rows):
        """A map over `[batch, heads, rows, width]` with boxes of `rows` by 64 elements."""
        result = TensorMap()
        batch, heads, length, width = tensor.shape
        size = tensor.element_size()
        kind = {"torch.float16": 6, "torch.bfloat16": 9}[str(tensor.dtype)]
        dims = (ctypes.c_uint64 * 4)(width, length, heads, batch)
        strides = [tensor.stride(axis) * size for axis in (2, 1, 0)]
        strides = (ctypes.c_uint64 * 3)(*[max(s, 16) for s in strides])
        box = (ctypes.c_uint32 * 4)(64, rows, 1, 1)
        ones = (ctypes.c_uint32 * 4)(1, 1, 1, 1)
        code = self.lib.cuTensorMapEncodeTiled(
            ctypes.byref(result),
            kind,
            4,
            PTR(tensor.data_ptr()),
            dims,
            strides,
            box,
            ones,
            0,
            3,
            2,
            0,
        )  # no interleave, 128-byte swizzle, 128-byte L2 promotion, zeros outside
        self.check(code, "tensor map")
        return result


def call_of(
    q, k, v, out, mask=None, kv_lens=None, left=None, right=None, offset=None, scale=None, softcap=None
):
    """The parameters every kernel takes."""
    call = Call()
    for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out)):
        setattr(call, name, tensor.data_ptr())
        setattr(call, ("o" if name == "out" else name) + "_stride", (I64 * 3)(*tensor.stride()[:3]))
    call.mask = mask.data_ptr() if mask is not None else None
    if mask is not None:
        wide = mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        call.mask_stride = (I64 * 4)(*wide.stride())
    call.kv_lens = kv_lens.data_ptr() if kv_lens is not None else None
    call.left = OPEN if left is None else left
    call.right = OPEN if right is None else right
    call.fixed_offset, call.offset = int(offset is not None), offset or 0
    call.batch, call.q_heads, call.q_len, width = q.shape
    call.kv_heads, call.kv_len = k.shape[1], k.shape[2]
    call.splits, call.heads_per_wave = 1, 1
    call.scale = width**-0.5 if scale is None else scale
    call.softcap = softcap or 0.0
    return call


def options_of(kw):
    return {"mask": kw["mask"].dtype if kw.get("mask") is not None else None, "softcap": kw.get("softcap")}


def pitch(width):
    """Bytes from a row of a tile in shared memory to the next: `PITCH` of sdpa_common.cuh."""
    return width * 2 + (16 if width % 64 else 0)


def decode(driver, q, k, v, out, splits, warps, stages, cluster=1, **kw):
    """A launcher of sdpa_decode.cu for these tensors."""
    head_dim, v_dim = q.shape[3], v.shape[3]
    tuning = {"WARPS": warps, "STAGES": stages, "CLUSTER": cluster}
    defines = defines_of(q.dtype, head_dim, v_dim, kv=k.dtype, **options_of(kw), **tuning)
    ring = warps * stages * 16 * (pitch(head_dim) + pitch(v_dim))
    shared = max(ring, (warps + 1) * 16 * (v_dim + 4) * 4)
    function = driver.function("sdpa_decode.cu", defines, "sdpa_decode", shared, cluster > 8)
    call = call_of(q, k, v, out, **kw)
    call.splits = splits
    tiles = -(-(call.q_heads // call.kv_heads * call.q_len) // 16)
    heads = call.batch * call.kv_heads * tiles
    partials = driver.torch.empty(
        heads * splits // cluster * 16 * v_dim * 6 // 4, device="cuda", dtype=driver.torch.float32
    )
    call.partials = partials.data_ptr()
    call.counters = driver.zeroed("decode", heads * cluster).data_ptr()
    grid = (splits, call.kv_heads * tiles, call.batch)
    keep = (q, k, v, out, partials, kw)
    return lambda: (driver.launch(function, grid, warps * 32, shared, call), keep)


def prefill(driver, q, k, v, out, warps, keys, **kw):
    """A launcher of sdpa_prefill.cu."""
    head_dim, v_dim = q.shape[3], v.shape[3]
    defines = defines_of(q.dtype, head_dim, v_dim, WARPS=warps, KEYS=keys, kv=k.dtype, **options_of(kw))
    parts = 1 if q.dtype == k.dtype else 2 + (k.dtype == driver.torch.bfloat16)
    shared = (parts * warps * 16 + 2 * keys) * pitch(head_dim) + 2 * keys * pitch(v_dim)
    function = driver.function("sdpa_prefill.cu", defines, "sdpa_prefill", shared)
    call = call_of(q, k, v, out, **kw)
    grid = (call.q_heads, -(-call.q_len // (warps * 16)), call.batch)
    keep = (q, k, v, out, kw)
    return lambda: (driver.launch(function, grid, warps * 32, shared, call), keep)


def prefill_sm90(driver, q, k, v, out, groups, keys, stages, waves=None, tuning=None, **kw):
    """A launcher of sdpa_prefill_sm90.cu."""
    width = q.shape[3]
    defines = defines_of(q.dtype, width, width, GROUPS=groups, KEYS=keys, STAGES=stages)
    defines |= tuning or {}
    shared = 2 * groups * 64 * width * 2 + 2 * stages * keys * width * 2
    function = driver.function("sdpa_prefill_sm90.cu", defines, "sdpa_prefill_sm90", shared)
    call = call_of(q, k, v, out, **kw)
    heads = call.batch * call.q_heads
    if waves is None:
        # Heads whose keys and values fit the cache together.
        group = call.q_heads // call.kv_heads
        fit = (32 << 20) // (2 * call.kv_len * width * 2) * group
        waves = max(1, min(heads, fit))
    call.heads_per_wave = waves
    call.counters = driver.zeroed("sm90", 2).data_ptr()
    maps = [driver.tensor_map(q, groups * 64), driver.tensor_map(k, keys), driver.tensor_map(v, keys)]
    pieces = heads * -(-call.q_len // (groups * 64))
    grid = (min(driver.multiprocessors * (2 if groups == 1 else 1), pieces), 1, 1)
    keep = (q, k, v, out, kw)
    threads = (groups + 1) * 128
    return lambda: (driver.launch(function, grid, threads, shared, call, *maps), keep)
