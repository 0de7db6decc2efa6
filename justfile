# `just` lists these.

peers := env("METALLIC_PEERS_VENV", "bench/peers/.venv") / "bin/python"
golden := "crates/metallic_cli/tests/golden"

[private]
default:
    @just --list

# Format, lints, dependency rules
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny --log-level error check bans licenses sources

# All tests that need no download
test:
    cargo test --workspace

# Criterion benches, or those that a filter names
bench *filter:
    cargo bench --workspace -- {{ filter }}

# Every backend against the f64 oracle
parity *flags:
    cargo run --release -- parity {{ flags }}

# Fetch real models and test on them
models *flags:
    scripts/test-models {{ flags }}

# The Metal device on Linux, under stand-ins (--quick or --full)
softmetal *flags:
    scripts/test-softmetal {{ flags }}

# Make the reference values again (bench/peers/setup and scripts/fetch-models first)
golden:
    {{ peers }} bench/peers/reference_nll.py crates/metallic_models/tiny/metallic-tiny-q8_0.gguf --check crates/metallic_models/tiny/golden.json
    {{ peers }} bench/peers/reference_nll.py crates/metallic_models/tiny/metallic-tiny-q8_0.gguf --text {{ golden }}/text.txt --golden {{ golden }}/nll_tiny.json --prompt "Once upon a time"
    {{ peers }} bench/peers/reference_nll.py models/SmolLM2-135M-Instruct.Q4_1.gguf --text {{ golden }}/text.txt --golden {{ golden }}/nll_smollm2.json
    {{ peers }} bench/peers/reference_nll.py models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --text {{ golden }}/text.txt --golden {{ golden }}/nll_qwen05.json
