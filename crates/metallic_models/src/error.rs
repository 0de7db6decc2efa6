//! Everything that can go wrong between a model file and a prompt. Not: device errors.

use std::path::PathBuf;

use metallic::tensor::DType;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A boxed error of another library, kept as the source.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, with the numbers, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // --- files -----------------------------------------------------------------------------
    /// A file could not be read or mapped.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// An error inside one file, with the file's path.
    #[error("`{}`: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// A path holds no model.
    #[error("no model in `{}`; looked for {looked_for}", path.display())]
    NoModel {
        /// The path as given.
        path: PathBuf,
        /// What would have been accepted.
        looked_for: &'static str,
    },
    /// A directory holds several GGUF files and no Hugging Face model.
    #[error("`{}` holds {} GGUF files ({}); name one of them", path.display(), files.len(), files.join(", "))]
    SeveralModels {
        /// The directory.
        path: PathBuf,
        /// File names, sorted.
        files: Vec<String>,
    },
    /// One file of a model folder, where the folder is wanted.
    #[error("`{}` is one file of a model in a folder; give the folder: {}", path.display(), folder.display())]
    FileOfFolder {
        /// The path as given.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// A JSON file does not parse, or lacks a field.
    #[error("`{file}` is not the JSON that was expected: {source}")]
    Json {
        /// The file: its path, or its name where there is no folder.
        file: String,
        /// The parser's answer, with line and column.
        source: serde_json::Error,
    },

    // --- GGUF ------------------------------------------------------------------------------
    /// The file does not begin with the GGUF magic.
    #[error("not a GGUF file: it begins with {}{hint}", magic.escape_ascii())]
    NotGguf {
        /// Its first bytes (at most four).
        magic: Vec<u8>,
        /// What it looks like instead, with advice; empty when unknown.
        hint: &'static str,
    },
    /// A GGUF file for big-endian machines.
    #[error("this GGUF file is big-endian; download or convert the little-endian one")]
    GgufBigEndian,
    /// A GGUF version other than 2 and 3.
    #[error("GGUF version {version} is not supported (2 and 3 are); convert the model again")]
    GgufVersion {
        /// The version in the header.
        version: u32,
    },
    /// The file ends before its header says it does.
    #[error(
        "the file ends inside the {section}: at byte {offset} at least {needed} bytes are needed \
         and {left} are left; the download is probably incomplete, fetch the file again"
    )]
    Truncated {
        /// The part of the file: `header`, `metadata`, `tensor list`, `tensor data`.
        section: &'static str,
        /// Byte offset in the file.
        offset: u64,
        /// Bytes needed from there (saturating).
        needed: u64,
        /// Bytes there are.
        left: u64,
    },
    /// Text that is not UTF-8.
    #[error("the {section} holds text that is not UTF-8 at byte {offset}; the file is damaged")]
    NotUtf8 {
        /// The part of the file.
        section: &'static str,
        /// Byte offset in the file.
        offset: u64,
    },
    /// A metadata value type that GGUF does not define.
    #[error("metadata key `{key}` has the unknown value type {type_id}; the file is damaged")]
    UnknownValueType {
        /// The key.
        key: String,
        /// The type id found.
        type_id: u32,
    },
    /// An array of arrays, which no model uses.
    #[error("metadata key `{key}` is an array of arrays, which is not supported")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A key or a tensor name that occurs twice.
    #[error("the {what} `{name}` occurs twice; the file is damaged")]
    Duplicate {
        /// `metadata key` or `tensor`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A model in several GGUF files.
    #[error("this is part of a model split into {parts} GGUF files; merge them into one first")]
    SplitGguf {
        /// Number of parts.
        parts: u32,
    },

    // --- metadata and configuration --------------------------------------------------------
    /// A key that the model needs and the file lacks.
    #[error("the model lacks `{key}`; convert it again with a current converter")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value of another type than the key has.
    #[error("`{key}` should be {expected} and is {got}")]
    WrongType {
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
        /// The type it has.
        got: String,
    },
    /// A value that makes no sense.
    #[error("`{key}` is {got}, expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The value found.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// An architecture this runtime does not know.
    #[error("the architecture `{name}` is not supported; known: {known}")]
    UnknownArchitecture {
        /// As the file spells it.
        name: String,
        /// The known ones.
        known: &'static str,
    },
    /// Something a known architecture may have and this runtime does not do.
    #[error("this model uses {feature} (`{key}`), which is not supported")]
    Unsupported {
        /// In words.
        feature: &'static str,
        /// The key or tensor that shows it.
        key: String,
    },

    /// Weights in a scheme that safetensors itself does not know.
    #[error(
        "this model is quantised with {scheme} (`{key}` in config.json), which is not supported; use \
         the original model (bf16, f16 or f32), or a GGUF of it"
    )]
    Quantized {
        /// The scheme, as `AWQ` or `MLX, 4 bits`.
        scheme: String,
        /// The key that says so.
        key: &'static str,
    },
    /// Weights that do not fit the memory.
    #[error(
        "the weights need {:.1} GB, more memory than there is; take a smaller configuration or fewer \
         bits", *bytes as f64 / 1e9
    )]
    TooLarge {
        /// Bytes of all weights.
        bytes: u64,
    },

    // --- tensors ---------------------------------------------------------------------------
    /// A tensor whose description is impossible.
    #[error("tensor `{tensor}`: {problem}")]
    BadTensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        problem: TensorProblem,
    },
    /// A tensor that the model needs and the file lacks.
    #[error("the model lacks the tensor `{name}`; the file is incomplete or of another model kind")]
    MissingTensor {
        /// The canonical name.
        name: String,
    },
    /// A safetensors header that does not parse or does not fit the file.
    #[error(
        "the safetensors header does not fit the file: {source}; the download is probably \
         incomplete, fetch the file again"
    )]
    Safetensors {
        /// The parser's answer.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that a safetensors header places outside the file.
    #[error(
        "tensor `{tensor}` ends at byte {end} of the data and the file has {length} bytes; the \
         download is probably incomplete, fetch the file again"
    )]
    TensorPastEnd {
        /// Its name.
        tensor: String,
        /// Its end in bytes, from the start of the data.
        end: u64,
        /// Size of the file in bytes.
        length: u64,
    },
    /// A file of weights that the index names and the folder lacks.
    #[error("the index names `{shard}`, which the folder lacks; fetch it (it holds `{tensor}`)")]
    MissingShard {
        /// File name of the shard.
        shard: String,
        /// A tensor that the index places there.
        tensor: String,
    },

    // --- tokenizer -------------------------------------------------------------------------
    /// A tokenizer kind this runtime does not know.
    #[error("`{key}` = `{got}` is not supported; known: {known}")]
    UnsupportedTokenizer {
        /// The key that says which kind.
        key: &'static str,
        /// Its value.
        got: String,
        /// The known ones.
        known: &'static str,
    },
    /// Steps of the tokenizer could lengthen a text without a bound.
    #[error(
        "the normalizer of tokenizer.json may make {grown} bytes of a text of {bytes} bytes, at most \
         {most} are made; take the file of the original model, or a shorter text"
    )]
    TextGrows {
        /// Bytes of the text.
        bytes: usize,
        /// What they may become.
        grown: usize,
        /// The largest that is allowed.
        most: usize,
    },
    /// The tokenizer data contradicts itself.
    #[error("{what} {index} of the tokenizer, `{text}`, {problem}; the file is damaged")]
    BadVocabulary {
        /// `merge`, `token` or `added token`.
        what: &'static str,
        /// Its place.
        index: usize,
        /// Its text, shortened.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The tokenizer library refused.
    #[error("the tokenizer cannot {action}: {source}")]
    Tokenizer {
        /// `be built` or `encode this text`.
        action: &'static str,
        /// The library's answer.
        source: BoxedError,
    },

    // --- chat template ---------------------------------------------------------------------
    /// The model has no chat template and none can be assumed.
    #[error(
        "the model has no chat template and no <|im_start|> token, so it is probably no chat \
         model; use it with plain text, or give a template"
    )]
    NoChatTemplate,
    /// The template does not parse.
    #[error("the chat template has a syntax error: {source}")]
    TemplateSyntax {
        /// The template engine's answer, with the line.
        source: minijinja::Error,
    },
    /// The template called `raise_exception`.
    #[error("the chat template refuses these messages: {message}")]
    TemplateRaised {
        /// Its words.
        message: String,
    },
    /// The template failed while rendering.
    #[error("the chat template failed: {source}")]
    TemplateRender {
        /// The template engine's answer, with the line.
        source: minijinja::Error,
    },

    // --- sampling --------------------------------------------------------------------------
    /// A sampling setting outside its range.
    #[error("the {setting} is {got}, expected {expected}")]
    BadSampling {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        got: f32,
        /// Its range.
        expected: &'static str,
    },
    /// The model's output is no distribution.
    #[error(
        "the model's logits are not finite ({value} at token {index}): its weights probably hold \
         NaN or infinity; fetch the model again, or try --exact"
    )]
    LogitsNotFinite {
        /// The first such token.
        index: usize,
        /// Its logit.
        value: f32,
    },
    /// The logit biases ban every token.
    #[error("no token is left to choose: the logit biases ban them all")]
    NothingToSample,

    // --- running ---------------------------------------------------------------------------
    /// A kernel or a device failed, or refused a call.
    #[error(transparent)]
    Run(#[from] metallic::Error),
    /// A prompt, and what is to be generated, exceed the context.
    #[error(
        "the prompt has {prompt} tokens{}, but the context holds {context}; shorten the prompt, lower -n or raise -c",
        if *generate > 0 { format!(" and {generate} more were asked for (-n)") } else { String::new() }
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        generate: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// There is nothing to begin with.
    #[error("the prompt is empty and the model has no token to begin with; give a prompt (-p)")]
    EmptyPrompt,
    /// A sequence cannot grow further.
    #[error("{needed} positions do not fit a context of {context}; raise -c")]
    ContextFull {
        /// Positions wanted.
        needed: usize,
        /// Positions possible.
        context: usize,
    },
    /// The logits hold NaN or infinity.
    #[error(
        "the model's logits are not finite after {position} tokens; its weights hold NaN or infinity, or the file is damaged"
    )]
    NotFinite {
        /// Tokens before the failure.
        position: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the model's vocabulary of {vocab}")]
    BadToken {
        /// The id.
        id: u32,
        /// Tokens the model knows.
        vocab: usize,
    },
    /// A batch that is not the cache's.
    #[error("{tokens} tokens cannot be shared by the {sequences} sequences of the cache")]
    BadBatch {
        /// Tokens in the batch.
        tokens: usize,
        /// Sequences in the cache.
        sequences: usize,
    },
    /// A cache type that rows do not fit.
    #[error(
        "the KV cache cannot be {dtype} with heads of {head_dim}; use f16, bf16, f32, or q8_0 for multiples of 32"
    )]
    KvType {
        /// The wanted type.
        dtype: DType,
        /// Width of a head.
        head_dim: usize,
    },
}

/// What is wrong with a tensor's description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// No axis, or more than four.
    #[error("it has {rank} axes; 1 to 4 are possible")]
    Rank {
        /// Number of axes.
        rank: u64,
    },
    /// An axis of length 0.
    #[error("its shape {shape:?} has an axis of length 0")]
    EmptyAxis {
        /// As stored.
        shape: Vec<u64>,
    },
    /// The number of elements or bytes overflows.
    #[error("its shape {shape:?} is impossibly large; the file is damaged")]
    TooLarge {
        /// As stored.
        shape: Vec<u64>,
    },
    /// Rows that are no whole number of blocks.
    #[error("its rows of {row} elements are not whole blocks of {dtype} ({})", dtype.block_len())]
    Blocks {
        /// Elements in a row.
        row: u64,
        /// The block type.
        dtype: DType,
    },
    /// Data that does not begin at the file's alignment.
    #[error("its data offset {offset} is not a multiple of {alignment}; the file is damaged")]
    Misaligned {
        /// Bytes from the start of the data section.
        offset: u64,
        /// The file's alignment in bytes.
        alignment: u64,
    },
    /// Data that does not begin where the tensor before it ends.
    #[error(
        "its data begins at byte {offset}{}; the file is damaged",
        expected.map_or_else(String::new, |expected| format!(", and the tensor before it ends at {expected}"))
    )]
    Misplaced {
        /// Bytes from the start of the data section.
        offset: u64,
        /// Where it should begin: the padded end of the tensor before; `None` past u64.
        expected: Option<u64>,
    },
    /// An element type that cannot be computed with.
    #[error(
        "its type is {name}{}, which is not supported; use another quantisation",
        type_id.map_or_else(String::new, |id| format!(" (id {id})"))
    )]
    UnsupportedType {
        /// ggml's number of the type; `None` for safetensors, which has none.
        type_id: Option<u32>,
        /// The type's name, or `unknown`.
        name: String,
    },
    /// A shape other than the configuration calls for.
    #[error("its shape is {got:?}, the configuration calls for {expected:?}")]
    Shape {
        /// The shape in the file, outermost axis first.
        got: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// An element type other than the one this tensor must have.
    #[error("its type is {got}, expected {expected}")]
    DType {
        /// The type in the file.
        got: DType,
        /// The type it should have.
        expected: &'static str,
    },
    /// A norm or bias of another type than f32, f16 or bf16.
    #[error("it is {dtype}, expected f32, f16 or bf16 for a norm or bias")]
    VectorType {
        /// The type it has.
        dtype: DType,
    },
}
