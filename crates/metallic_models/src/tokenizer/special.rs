//! Which tokens frame and end a text, gathered from all that a model file says.

use super::vocabulary::{TokenKind, Vocabulary};

/// Special tokens by their role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Put before a text when special tokens are added: BOS or nothing.
    pub prefix: Vec<u32>,
    /// Put after a text when special tokens are added: usually nothing.
    pub suffix: Vec<u32>,
    /// Every token that ends a reply, ascending.
    pub eog: Vec<u32>,
}

/// Control tokens that end a reply in every model that has them, even where the file forgets to
/// say so: Qwen and SmolLM, Llama 3, Llama 2 and Mistral.
const ENDS: [&str; 6] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>"];

impl SpecialTokens {
    /// Fills `eog` from `eos`, the file's own list and the well-known control tokens.
    pub(super) fn collect_eog(
        &mut self,
        vocabulary: &Vocabulary,
        listed: impl IntoIterator<Item = u32>,
    ) {
        self.eog = listed.into_iter().chain(self.eos).collect();
        let controls = vocabulary.of_kind(TokenKind::Control);
        self.eog.extend(controls.filter(|&id| {
            vocabulary.bytes(id).is_some_and(|bytes| ENDS.iter().any(|e| e.as_bytes() == bytes))
        }));
        self.eog.sort_unstable();
        self.eog.dedup();
    }
}
