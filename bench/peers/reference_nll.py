#!/usr/bin/env python3
"""A float32 reference for the models Metallic runs: the transformer in plain numpy, nothing quantised.

Weights are dequantised to float32 by the `gguf` package, every product is float32, and a negative
log likelihood is taken in float64. It is slow, small, and shares no code with the runtime, so a
difference between the two is a finding. It is not a runner: there is no cache and no sampling.

    reference_nll.py MODEL.gguf --text FILE              one natural-log NLL per predicted token, as JSON
    reference_nll.py MODEL.gguf --ids 504,3575,282       the same for token ids
    reference_nll.py MODEL.gguf --text FILE --golden OUT --prompt TEXT
                                                         the golden file that `scripts/test-models` reads
    reference_nll.py MODEL.gguf --check GOLDEN.json      compare with stored top logits (the tiny model's form)

Needs numpy and gguf, and tokenizers for --text and --prompt (bench/peers/setup installs them).
"""

import argparse
import functools
import hashlib
import json
import sys
from pathlib import Path

import gguf
import numpy as np

SCHEMA = 1
ARCHITECTURES = ("llama", "qwen2", "qwen3")
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OUTPUT_ROWS = 16384  # rows of the output matrix dequantised at a time, to bound memory


class Gguf:
    """Metadata and tensors of a GGUF file."""

    def __init__(self, path, round_to_f16=False):
        self.path = Path(path)
        self.round_to_f16 = round_to_f16
        reader = gguf.GGUFReader(str(path))
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.arch = self.value("general.architecture")

    def value(self, key, default=None):
        field = self.fields.get(key)
        return default if field is None else field.contents()

    def of_arch(self, key, default=None):
        return self.value(f"{self.arch}.{key}", default)

    def weight(self, name, rows=slice(None)):
        """A tensor in float32, [rows, columns] as numpy has it; None where the file has none."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        values = gguf.quants.dequantize(tensor.data[rows], tensor.tensor_type)
        if self.round_to_f16:
            values = values.astype(np.float16)
        return np.asarray(values, np.float32)


class Config:
    """The hyperparameters, under GGUF's names."""

    def __init__(self, file):
        if file.arch not in ARCHITECTURES:
            sys.exit(
                f"{file.path}: architecture {file.arch!r}; this reference knows {', '.join(ARCHITECTURES)}"
            )
        scaling = file.of_arch("rope.scaling.type", "none")
        if scaling not in ("none", "linear"):
            sys.exit(f"{file.path}: rope scaling {scaling!r}; this reference knows none and linear")
        self.layers = file.of_arch("block_count")
        self.heads = file.of_arch("attention.head_count")
        self.kv_heads = file.of_arch("attention.head_count_kv", self.heads)
        self.hidden = file.of_arch("embedding_length")
        self.head_dim = file.of_arch("attention.key_length", self.hidden // self.heads)
        self.rope_dims = file.of_arch("rope.dimension_count", self.head_dim)
        self.rope_base = file.of_arch("rope.freq_base", 10000.0)
        self.rope_factor = file.of_arch("rope.scaling.factor", 1.0) if scaling == "linear" else 1.0
        self.eps = file.of_arch("attention.layer_norm_rms_epsilon")
        # llama.cpp's converter stores the rotary pairs of `llama` files side by side, the others in halves.
        self.interleaved = file.arch == "llama"


def rms_norm(x, weight, eps):
    """x / rms(x) * weight over the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight


def rope_tables(config, positions, factors):
    """cos and sin, [positions, rope_dims / 2]; angles in float64."""
    exponents = np.arange(0, config.rope_dims, 2) / config.rope_dims
    frequencies = config.rope_base**-exponents / config.rope_factor
    if factors is not None:
        frequencies = frequencies / factors
    angles = np.arange(positions)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rope(x, tables, interleaved):
    """Rotate x: [tokens, heads, head_dim]."""
    cos, sin = (table[:, None, :] for table in tables)
    half = cos.shape[-1]
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        first, second = slice(0, half), slice(half, 2 * half)
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


def attention(q, k, v):
    """Causal softmax(q kT / sqrt(head_dim)) v; q: [tokens, heads, head_dim], k and v: [tokens, kv_heads, head_dim]."""
    tokens, heads, head_dim = q.shape
    group = heads // k.shape[1]
    hidden = np.triu(np.ones((tokens, tokens), bool), 1)
    out = np.empty((tokens, heads, v.shape[-1]), np.float32)
    for head in range(heads):
        scores = q[:, head] @ k[:, head // group].T / np.float32(np.sqrt(head_dim))
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ v[:, head // group]
    return out


def block(file, config, layer, x, tables):
    """One transformer block; x: [tokens, hidden]."""

    def weight(name):
        return file.weight(f"blk.{layer}.{name}")

    def linear(name, value):
        bias = weight(f"{name}.bias")
        product = value @ weight(f"{name}.weight").T
        return product if bias is None else product + bias

    def heads(name, value):
        product = linear(f"attn_{name}", value).reshape(len(value), -1, config.head_dim)
        norm = weight(f"attn_{name}_norm.weight")
        return product if norm is None else rms_norm(product, norm, config.eps)

    normed = rms_norm(x, weight("attn_norm.weight"), config.eps)
    q, k = (rope(heads(name, normed), tables, config.interleaved) for name in "qk")
    attended = attention(q, k, heads("v", normed))
    x = x + linear("attn_output", attended.reshape(len(x), -1))
    normed = rms_norm(x, weight("ffn_norm.weight"), config.eps)
    gate = linear("ffn_gate", normed)
    return x + linear("ffn_down", gate / (1 + np.exp(-gate)) * linear("ffn_up", normed))


def logits(file, ids):
    """[tokens, vocabulary]: the logits after each of `ids`."""
    config = Config(file)
    x = np.stack([file.weight("token_embd.weight", slice(i, i + 1))[0] for i in ids])
    tables = rope_tables(config, len(ids), file.weight("rope_freqs.weight"))
    for layer in range(config.layers):
        x = block(file, config, layer, x, tables)
    x = rms_norm(x, file.weight("output_norm.weight"), config.eps)
    output = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
    vocabulary = len(file.tensors[output].data)
    starts = range(0, vocabulary, OUTPUT_ROWS)
    return np.concatenate([x @ file.weight(output, slice(s, s + OUTPUT_ROWS)).T for s in starts], axis=1)


def nll(all_logits, ids):
    """-ln p of each token given those before it, len(ids) - 1 values."""
    values = all_logits[:-1].astype(np.float64)
    top = values.max(axis=1)
    log_sum = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    return log_sum - values[np.arange(len(ids) - 1), ids[1:]]


def top(row, count):
    return [[int(i), round(float(row[i]), 5)] for i in np.argsort(-row, kind="stable")[:count]]


@functools.cache
def tokenizer(file):
    """The Hugging Face pipeline of the file's byte-level BPE."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    model, pre = file.value("tokenizer.ggml.model"), file.value("tokenizer.ggml.pre")
    if model != "gpt2" or pre not in ("qwen2", "smollm"):
        sys.exit(f"{file.path}: tokenizer {model}/{pre}; pass --ids")
    vocab = {text: i for i, text in enumerate(file.value("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ", 1)) for merge in file.value("tokenizer.ggml.merges")]
    pipeline = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    if pre == "qwen2":
        pipeline.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(steps)
    kinds = file.value("tokenizer.ggml.token_type")
    special = [text for text, kind in zip(vocab, kinds) if kind in (3, 4)]  # control and user defined
    pipeline.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    pipeline.decoder = decoders.ByteLevel()
    return pipeline


def encode(file, text):
    if file.value("tokenizer.ggml.add_bos_token", False):
        sys.exit(f"{file.path}: it wants a first token before the text; pass --ids")
    return tokenizer(file).encode(text, add_special_tokens=False).ids


def report(file, ids, count):
    values = logits(file, ids)
    each = nll(values, ids)
    mean = float(each.mean()) if len(each) else 0.0
    return {
        "tokens": len(ids),
        "ids": [int(i) for i in ids],
        "nll": [round(float(value), 6) for value in each],
        "mean_nll": round(mean, 6),
        "perplexity": round(float(np.exp(mean)), 6),
        "next_logits": top(values[-1], count),
    }


def next_tokens(file, prompt, ids, count):
    """The likeliest tokens after a prompt: id, text, logit, and NLL."""
    row = logits(file, ids)[-1]
    tokens = []
    for token, logit in top(row, count):
        text = tokenizer(file).decode([token])
        if encode(file, prompt + text) == [*ids, token]:  # so that a test can ask for it by its text
            value = nll(np.stack([row, row]), [0, token])[0]
            tokens.append({"id": token, "text": text, "logit": logit, "nll": round(float(value), 6)})
    return tokens


def golden(file, args, ids):
    """What a test compares with: the prompt's ids and first-step logits, and the text's NLLs."""
    config = Config(file)
    prompt_ids = encode(file, args.prompt)
    result = report(file, ids, args.top)
    del result["next_logits"]
    command = (
        f"bench/peers/reference_nll.py {file.path.name} --text {args.text.name} --golden {args.golden.name}"
    )
    return {
        "schema": SCHEMA,
        "command": f"{command} --prompt {json.dumps(args.prompt)}",
        "model": {"file": file.path.name, "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest()},
        "text": {"file": args.text.name, "sha256": hashlib.sha256(args.text.read_bytes()).hexdigest()},
        "kv_values_per_token": 2 * config.layers * config.kv_heads * config.head_dim,
        "prompt": {
            "text": args.prompt,
            "ids": prompt_ids,
            "next": next_tokens(file, args.prompt, prompt_ids, args.top),
        },
        **result,
    }


def write_golden(path, value):
    lines = [f" {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def check(file, stored):
    """The largest difference from the stored top logits of every position of every prompt."""
    worst = 0.0
    for case in stored:
        values = logits(file, case["ids"])
        for row, expected in zip(values, case["top5"]):
            worst = max(worst, max(abs(float(row[i]) - value) for i, value in expected))
    return worst


def parse_arguments():
    parser = argparse.ArgumentParser(description="float32 reference NLL and logits of a GGUF model")
    parser.add_argument("model", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, help="a text file")
    source.add_argument("--ids", help="token ids, separated by commas")
    source.add_argument("--check", type=Path, help="golden.json of the tiny model")
    parser.add_argument(
        "--prompt",
        default="The capital of France is",
        help="with --golden: the prompt of the first-step logits",
    )
    parser.add_argument("--golden", type=Path, help="with --text: write a golden file here")
    parser.add_argument(
        "--f16-weights", action="store_true", help="round weights to f16 first, as loaders that keep f16 do"
    )
    parser.add_argument("--top", type=int, default=5, help="how many logits to keep")
    return parser.parse_args()


def main():
    args = parse_arguments()
    file = Gguf(args.model, args.f16_weights)
    if args.check:
        worst = check(file, json.loads(args.check.read_text())["q8_0"])
        print(json.dumps({"largest_logit_difference": worst}))
        sys.exit(worst > 1e-3)
    ids = encode(file, args.text.read_text()) if args.text else [int(i) for i in args.ids.split(",")]
    if args.golden:
        write_golden(args.golden, golden(file, args, ids))
    else:
        print(json.dumps(report(file, ids, args.top)))


if __name__ == "__main__":
    main()
