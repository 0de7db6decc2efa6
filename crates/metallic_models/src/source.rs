//! A model wherever it comes from: a GGUF file, a Hugging Face folder, embedded bytes, a seed.
//!
//! Not: what is computed from it. Tensors have GGUF's names in both cases.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use metallic::tensor::{DType, HostBytes};

use crate::chat_template::ChatTemplate;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Metadata};
use crate::hf_folder::{self, HfFolder, MapFile, parse_object};
use crate::random_model;
use crate::tensors::{TensorInfo, TensorTable};
use crate::tiny;
use crate::tokenizer::Tokenizer;
use crate::transformer::config::ModelConfig;

/// The parsed files of one model.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    files: Files,
    config: ModelConfig,
    name: String,
}

#[derive(Clone, Debug)]
enum Files {
    Gguf(Box<GgufFile>),
    Hf(Box<HfFolder>),
    Random(Box<TensorTable>),
}

impl ModelFiles {
    /// Opens a `.gguf` file, a Hugging Face folder (`config.json`, `tokenizer.json`, safetensors)
    /// or a folder with exactly one `.gguf` file. `map` opens the bytes of a file.
    ///
    /// # Errors
    /// Says what was looked for when there is no model; otherwise names the file and what is
    /// wrong in it.
    pub fn open(path: &Path, map: &MapFile<'_>) -> Result<Self> {
        let at =
            |path: &Path, source| Error::InFile { path: path.into(), source: Box::new(source) };
        let file = match std::fs::metadata(path) {
            Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
            Ok(metadata) if !metadata.is_dir() && hf_folder::is_part(path) => {
                let folder = path.parent().filter(|folder| *folder != Path::new(""));
                let folder = folder.unwrap_or(Path::new(".")).to_owned();
                return Err(Error::FileOfFolder { path: path.to_owned(), folder });
            }
            Ok(metadata) if !metadata.is_dir() => path.to_owned(),
            Ok(_) if HfFolder::is_at(path) => {
                let folder = HfFolder::open(path, map)?;
                return Self::from_hf(folder).map_err(|error| at(path, error));
            }
            Ok(_) => only_gguf_in(path)?,
        };
        let bytes = map(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Self::from_gguf_bytes(bytes, &name.unwrap_or_default()).map_err(|error| at(&file, error))
    }

    /// Parses a GGUF file in memory. `name` is used if the file itself has none.
    ///
    /// # Errors
    /// As [`GgufFile::parse`] and [`ModelConfig::from_gguf`].
    pub fn from_gguf_bytes(bytes: HostBytes, name: &str) -> Result<Self> {
        let file = GgufFile::parse(bytes)?;
        let config = ModelConfig::from_gguf(&file)?;
        let name = file.metadata().find_str("general.name")?.unwrap_or(name).to_owned();
        Ok(Self { files: Files::Gguf(Box::new(file)), config, name })
    }

    /// The model of a Hugging Face folder, named after the folder.
    ///
    /// # Errors
    /// As [`ModelConfig::from_hf`].
    pub fn from_hf(folder: HfFolder) -> Result<Self> {
        let config = ModelConfig::from_hf(folder.config(), folder.tensor_table())?;
        let given = folder.config().get("_name_or_path").and_then(serde_json::Value::as_str);
        let name = match (folder.path().file_name(), given) {
            (Some(name), _) => name.to_string_lossy().into_owned(),
            (None, Some(given)) => given.to_owned(),
            (None, None) => config.architecture.to_string(),
        };
        Ok(Self { files: Files::Hf(Box::new(folder)), config, name })
    }

    /// Random weights in the shape that the bytes of a `config.json` describe, the same for a seed on
    /// every machine, stored as `dtype` or as the configuration says. For speed and comparisons: its
    /// tokenizer is the embedded model's.
    ///
    /// # Errors
    /// [`Error::Json`] for bytes that are no object, [`Error::TooLarge`]; as [`ModelConfig::from_hf`].
    pub fn random(config: &[u8], seed: u64, dtype: Option<DType>) -> Result<Self> {
        let config = parse_object("config.json", config)?;
        Ok(Self::from_random(random_model::generate(&config, seed, dtype)?, seed))
    }

    /// As [`ModelFiles::random`], without the weights: to look at, not to run.
    ///
    /// # Errors
    /// As [`ModelFiles::random`], whatever the size.
    pub fn random_outline(config: &[u8], seed: u64, dtype: Option<DType>) -> Result<Self> {
        let config = parse_object("config.json", config)?;
        Ok(Self::from_random(random_model::outline(&config, dtype)?, seed))
    }

    fn from_random((config, tensors): (ModelConfig, TensorTable), seed: u64) -> Self {
        let name = format!("random {} (seed {seed})", config.architecture);
        Self { files: Files::Random(Box::new(tensors)), config, name }
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `gguf`, `safetensors` or `random weights`.
    pub fn format(&self) -> &'static str {
        match self.files {
            Files::Gguf(_) => "gguf",
            Files::Hf(_) => "safetensors",
            Files::Random(_) => "random weights",
        }
    }

    /// All tensors under canonical names, in file order.
    pub fn tensors(&self) -> &TensorTable {
        match &self.files {
            Files::Gguf(file) => file.tensor_table(),
            Files::Hf(folder) => folder.tensor_table(),
            Files::Random(tensors) => tensors,
        }
    }

    /// The tensor of this canonical name, such as `blk.0.attn_q.weight`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors().get(name)
    }

    /// The tensor of this canonical name and shape (outermost axis first).
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::BadTensor`] with both shapes.
    pub fn tensor_shaped(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        self.tensors().get_shaped(name, shape)
    }

    /// Names of tensors that nothing is computed from: what the file has beyond its configuration.
    /// Factors of rotary embeddings, which old converters stored, are not counted.
    pub fn unused_tensors(&self) -> Vec<&str> {
        let used: HashSet<String> =
            random_model::tensors(&self.config).into_iter().map(|(name, _)| name).collect();
        let known = |name: &str| {
            let factors = name == "rope_freqs.weight" || name.ends_with(".rotary_emb.inv_freq");
            factors || (name == "output.weight" && self.config.tied_output)
        };
        let names = self.tensors().iter().map(|tensor| tensor.name.as_str());
        names.filter(|name| !used.contains(*name) && !known(name)).collect()
    }

    /// Builds the tokenizer: some tenths of a second for a large vocabulary.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`] and [`Tokenizer::from_hf`]; [`Error::BadValue`] when the
    /// tokenizer has more tokens than the model's embedding has rows.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = match &self.files {
            Files::Gguf(file) => Tokenizer::from_gguf(file.metadata())?,
            Files::Hf(folder) => Tokenizer::from_hf(folder)?,
            Files::Random(_) => tiny::model()?.tokenizer()?,
        };
        if tokenizer.vocab_size() > self.config.vocab {
            return Err(Error::BadValue {
                key: "number of tokens".to_owned(),
                got: tokenizer.vocab_size().to_string(),
                expected: format!("at most the {} rows of the embedding", self.config.vocab),
            });
        }
        Ok(tokenizer)
    }

    /// The chat template; `tokenizer` is this model's.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_gguf`] and [`ChatTemplate::from_hf`].
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        match &self.files {
            Files::Gguf(file) => ChatTemplate::from_gguf(file.metadata(), tokenizer),
            Files::Hf(folder) => ChatTemplate::from_hf(folder, tokenizer),
            Files::Random(_) => tiny::model()?.chat_template(tokenizer),
        }
    }

    /// The metadata of a GGUF file.
    pub fn gguf_metadata(&self) -> Option<&Metadata> {
        match &self.files {
            Files::Gguf(file) => Some(file.metadata()),
            Files::Hf(_) | Files::Random(_) => None,
        }
    }

    /// Size of the GGUF file, or of all weight files of a folder, in bytes.
    pub fn file_bytes(&self) -> u64 {
        match &self.files {
            Files::Gguf(file) => file.file_bytes(),
            Files::Hf(folder) => folder.weight_bytes(),
            Files::Random(tensors) => tensors.bytes(),
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let weights = self.tensors().iter().filter(|tensor| tensor.name != "rope_freqs.weight");
        weights.fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
    }

    /// How the weights are stored: `Q4_K - Medium` where the file says, otherwise the element
    /// type that holds most weights.
    pub fn quantization(&self) -> String {
        let file_type =
            self.gguf_metadata().and_then(|metadata| metadata.find_u32(FILE_TYPE).ok()?);
        let named = file_type.and_then(|id| FILE_TYPES.iter().find(|&&(known, _)| known == id));
        match (named, self.tensors().commonest_dtype()) {
            (Some((_, name)), _) => (*name).to_owned(),
            (None, Some(dtype)) => dtype.name().to_uppercase(),
            (None, None) => "none".to_owned(),
        }
    }
}

const FILE_TYPE: &str = "general.file_type";

/// `general.file_type`, as `llama.cpp` numbers and names it.
const FILE_TYPES: [(u32, &str); 20] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K - Medium"),
    (11, "Q3_K - Small"),
    (12, "Q3_K - Medium"),
    (13, "Q3_K - Large"),
    (14, "Q4_K - Small"),
    (15, "Q4_K - Medium"),
    (16, "Q5_K - Small"),
    (17, "Q5_K - Medium"),
    (18, "Q6_K"),
    (21, "Q2_K - Small"),
    (25, "IQ4_NL"),
    (30, "IQ4_XS"),
    (32, "BF16"),
];

/// The one GGUF file of a folder.
fn only_gguf_in(path: &Path) -> Result<PathBuf> {
    let unreadable = |source| Error::Io { path: path.to_owned(), source };
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut files: Vec<PathBuf> = entries
        .map_err(unreadable)?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf")))
        .collect();
    files.sort_unstable();
    match files.pop() {
        Some(file) if files.is_empty() => Ok(file),
        Some(file) => {
            files.push(file);
            let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
            let files = files.iter().filter_map(name).collect();
            Err(Error::SeveralModels { path: path.to_owned(), files })
        }
        None => Err(Error::NoModel {
            path: path.to_owned(),
            looked_for: "a .gguf file, or config.json with tokenizer.json and model.safetensors \
                         (or model.safetensors.index.json and its shards)",
        }),
    }
}
