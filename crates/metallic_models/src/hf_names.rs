//! Hugging Face's tensor names, and the canonical ones (GGUF's) they stand for.

/// Names outside the blocks.
const OUTER: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Names within `model.layers.N.`, without `.weight` or `.bias`.
const INNER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The canonical name: `model.layers.3.self_attn.q_proj.bias` is `blk.3.attn_q.bias`. `None` for
/// names that these model families do not have.
pub fn canonical_name(hf_name: &str) -> Option<String> {
    if let Some((_, canonical)) = OUTER.iter().find(|(hf, _)| *hf == hf_name) {
        return Some((*canonical).to_owned());
    }
    let (layer, rest) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
    if layer.is_empty() || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (module, parameter) = rest.rsplit_once('.')?;
    if !matches!(parameter, "weight" | "bias") {
        return None;
    }
    let (_, canonical) = INNER.iter().find(|(hf, _)| *hf == module)?;
    Some(format!("blk.{layer}.{canonical}.{parameter}"))
}

#[cfg(test)]
mod tests {
    use super::canonical_name;

    #[test]
    fn names_map_to_gguf_names() {
        let name = |hf| canonical_name(hf).unwrap_or_default();
        assert_eq!(name("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(name("lm_head.weight"), "output.weight");
        assert_eq!(name("model.layers.12.self_attn.k_proj.bias"), "blk.12.attn_k.bias");
        assert_eq!(name("model.layers.0.mlp.down_proj.weight"), "blk.0.ffn_down.weight");
        assert_eq!(name("model.layers.0.self_attn.rotary_emb.inv_freq"), "");
        assert_eq!(name("model.layers.x.mlp.up_proj.weight"), "");
        assert_eq!(name("model.layers"), "");
    }
}
