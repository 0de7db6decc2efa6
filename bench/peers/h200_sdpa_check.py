#!/usr/bin/env python3
"""Correctness of the CUDA attention kernels on a GPU, against float64, on fresh random data.

Outputs are poisoned before each run. The bound is the repository's (`metallic_testkit::tolerance`), per
element. Each kernel sees bands, live lengths with NaN past them, NaN behind masks, mask tensors, strided
views, odd widths. Prints one line per failure and a count.
"""

import itertools
import os
import sys

import sdpa_cuda as cuda
import torch

U32 = 2.0**-24
TERMS = {
    torch.float32: (U32, 2.0**-126, 0.0),
    torch.float16: (2.0**-11, 2.0**-25, 2.0**-11),
    torch.bfloat16: (2.0**-8, 2.0**-133, 2.0**-8),
}


def reference(q, k, v, mask=None, kv_lens=None, left=None, right=None, offset=None, scale=None, softcap=None):
    """The result in float64 and the bound of each element; hidden keys take no part."""
    dtype = q.dtype
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    batch, heads, q_len, kv_len = *q.shape[:3], k.shape[2]
    live = torch.full((batch,), kv_len, device=q.device)
    if kv_lens is not None:
        live = kv_lens.clamp(0, kv_len).long()
    row = torch.arange(q_len, device=q.device).view(1, -1, 1)
    key = torch.arange(kv_len, device=q.device).view(1, 1, -1)
    diagonal = row + (live.view(-1, 1, 1) - q_len if offset is None else offset)
    seen = (key < live.view(-1, 1, 1)).expand(batch, q_len, kv_len)
    if left is not None:
        seen = seen & (key >= diagonal - left)
    if right is not None:
        seen = seen & (key <= diagonal + right)
    seen = seen.unsqueeze(1).expand(batch, heads, q_len, kv_len)
    score = q @ k.nan_to_num().transpose(2, 3) * scale
    score = torch.where(k.isnan().any(3).unsqueeze(2), torch.nan, score)
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    additive = torch.zeros((), device=q.device, dtype=torch.float64)
    if mask is not None and mask.dtype == torch.bool:
        seen = seen & mask
    elif mask is not None:
        additive = mask.double()
        seen = seen & (additive != -torch.inf)
        score = score + additive
        # A number that swallows every score rounds nothing.
        additive = torch.where(additive.abs() > 1e30, 0.0, additive).abs().amax()
    score = torch.where(seen, score, -torch.inf)
    weight = torch.softmax(score, 3)
    weight = torch.where(seen.any(3, keepdim=True), weight, 0.0)
    clean = v.nan_to_num(0.0, 0.0, 0.0)
    out, spread = weight @ clean, weight @ clean.abs()
    # A value that is not finite reaches the rows that see it.
    odd = ~v.isfinite()
    if odd.any():
        out = torch.where((seen.double() @ odd.double()) > 0, torch.nan, out)
    norms = q.norm(dim=3).amax() * k.nan_to_num().norm(dim=3).amax()
    dot = float(abs(scale) * norms)
    output, tiny, weights = TERMS[dtype]
    logit = U32 * 4 * (dot + float(additive))
    bound = output * out.abs() + tiny + spread * (weights + 2 * logit + U32 * (8 + 2 * kv_len**0.5))
    return out, bound


def worst(got, want, bound):
    """Largest error over its bound; infinite where NaN stands on one side only."""
    got = got.double()
    if (got.isnan() != want.isnan()).any():
        return float("inf")
    return float(torch.where(want.isnan(), 0.0, (got - want).abs() / bound).nan_to_num(posinf=1e9).amax())


def tensors(batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_dim, types, strided):
    """q, k, v, out; strided ones are views of [batch, length, heads, width], as models make them."""

    def make(heads, length, width, dtype):
        if strided:
            wide = torch.randn(batch, length, heads, width, device="cuda").to(dtype)
            return wide.transpose(1, 2)
        return torch.randn(batch, heads, length, width, device="cuda").to(dtype)

    q, out = make(q_heads, q_len, head_dim, types[0]), make(q_heads, q_len, v_dim, types[0])
    return q, make(kv_heads, kv_len, head_dim, types[1]), make(kv_heads, kv_len, v_dim, types[1]), out


def features(kind, batch, q_heads, q_len, kv_len, k, v, dtype):
    """The options of one feature, and NaN where it must not be seen."""
    ints = lambda *x: torch.tensor((x * batch)[:batch], device="cuda", dtype=torch.int32)
    if kind == "none":
        return {}
    if kind == "causal":
        return {"right": 0}
    if kind == "window":
        return {"left": 37, "right": 0}
    if kind == "band":
        return {"left": 5, "right": 9, "offset": 3}
    if kind == "hidden_nan":  # the last key is seen by the last query alone
        v[:, :, -1] = torch.nan
        k[:, :, -1, 0] = torch.nan
        return {"right": 0}
    if kind == "seen_nan":
        v[:, 0, kv_len // 2, 1] = torch.nan
        return {}
    if kind in ("lens", "lens_causal"):
        lens = ints(kv_len // 2 + 3, kv_len - 1, 0, 1)
        for b, live in enumerate(lens.tolist()):
            k[b, :, live:], v[b, :, live:] = torch.nan, torch.nan
        return {"kv_lens": lens} | ({"right": 0} if kind == "lens_causal" else {})
    if kind == "softcap":
        return {"softcap": 5.0, "right": 0}
    if kind == "additive":
        mask = torch.randn(1, q_heads, q_len, kv_len, device="cuda").to(dtype)
        mask[torch.rand_like(mask, dtype=torch.float32) < 0.3] = -torch.inf
        mask[:, :, q_len // 2] = -torch.inf
        return {"mask": mask}
    if kind == "lowest":
        mask = torch.zeros(batch, 1, q_len, kv_len, device="cuda")
        mask[:, :, ::2] = torch.finfo(torch.float32).min
        mask[..., 1::3] = torch.finfo(torch.float32).min
        return {"mask": mask, "right": 0}
    if kind == "additive_f32":
        mask = torch.randn(batch, 1, 1, kv_len, device="cuda")
        mask[..., kv_len // 3] = -torch.inf
        v[:, :, kv_len // 3] = torch.nan
        return {"mask": mask}
    assert kind == "bool"
    mask = torch.rand(batch, 1, q_len, kv_len, device="cuda") < 0.7
    mask[:, :, 0] = False
    return {"mask": mask, "right": 0}


ALL = (
    "none",
    "causal",
    "window",
    "band",
    "hidden_nan",
    "seen_nan",
    "lens",
    "lens_causal",
    "softcap",
    "additive",
    "additive_f32",
    "lowest",
    "bool",
)
PLAIN = ALL[:8]


def cases(engine):
    half, bf16, full = torch.float16, torch.bfloat16, torch.float32
    types = [(half, half), (bf16, bf16)]
    if engine != "sm90":
        types += [(full, half), (full, bf16)]
    if engine == "decode":
        shapes = [
            (1, 14, 2, 1, 512, 64),
            (3, 28, 4, 1, 777, 128),
            (2, 4, 4, 1, 33, 96),
            (2, 6, 2, 5, 300, 64),
            (1, 28, 4, 8, 1000, 128),
            (1, 2, 1, 1, 1, 64),
        ]
    elif engine == "prefill":
        shapes = [
            (1, 14, 2, 128, 128, 64),
            (2, 8, 2, 130, 257, 128),
            (1, 4, 4, 64, 64, 80),
            (1, 2, 1, 100, 40, 256),
            (2, 2, 2, 17, 333, 64),
        ]
    else:
        shapes = [
            (1, 14, 2, 128, 128, 64),
            (2, 8, 2, 300, 557, 128),
            (2, 6, 3, 1000, 1000, 64),
            (3, 28, 4, 512, 512, 128),
            (1, 2, 1, 100, 40, 64),
            (1, 3, 3, 2048, 2048, 128),
        ]
    yield from itertools.product(shapes, PLAIN if engine == "sm90" else ALL, types)


def variants(engine, width):
    if engine == "decode":
        each = ((1, 4, 3, 1), (13, 4, 3, 1), (8, 4, 2, 8), (16, 4, 2, 4), (32, 4, 2, 16))
        return [{"splits": s, "warps": w, "stages": st, "cluster": c} for s, w, st, c in each]
    if engine == "prefill":
        keys = 64 if width <= 128 else 32
        return [{"warps": 4, "keys": keys}, {"warps": 2, "keys": 32}]
    shapes = [(2, 192), (2, 128), (1, 128)] if width == 64 else [(2, 128), (1, 64)]
    return [{"groups": groups, "keys": keys, "stages": 2} for groups, keys in shapes]


def main():
    engine = sys.argv[1]
    driver = cuda.Driver() if os.environ.get("ONLY_COMPILE") is None else None
    launch = {"decode": cuda.decode, "prefill": cuda.prefill, "sm90": cuda.prefill_sm90}[engine]
    run = failed = 0
    highest = {}
    for index, (shape, kind, dtype) in enumerate(cases(engine)):
        batch, q_heads, _kv_heads, q_len, kv_len, width = shape
        q, k, v, out = tensors(*shape, width, dtype, strided=index % 3 == 1)
        kw = features(kind, batch, q_heads, q_len, kv_len, k, v, dtype[0])
        want, bound = reference(q, k, v, **kw)
        for variant in variants(engine, width):
            ratios = []
            for _ in range(2):
                out.fill_(torch.nan if kind not in ("seen_nan", "hidden_nan") else 6e4)
                launch(driver, q, k, v, out, **variant, **kw)()
                torch.cuda.synchronize()
                ratios.append(worst(out, want, bound))
            ratio = max(ratios)
            run += 1
            if not ratio <= 1.0:
                failed += 1
                if failed <= 40:
                    print(
                        "FAIL",
                        engine,
                        shape,
                        kind,
                        [str(t)[6:] for t in dtype],
                        variant,
                        f"{ratio:.3g}",
                        flush=True,
                    )
            else:
                name = "/".join(str(t)[6:] for t in dtype)
                highest[name] = max(highest.get(name, 0), ratio)
    print(f"{engine}: {run} checked, {failed} failed, worst ratio of the others {highest}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
