//! A Hugging Face model folder: JSON files, and weights in one or several safetensors files.
//!
//! Not: what the JSON means (`transformer/config`, `tokenizer`, `chat_template`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use metallic::tensor::HostBytes;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::hf_names::canonical_name;
use crate::safetensors::read_safetensors;
use crate::tensors::TensorTable;

/// Opens a file's bytes, usually by mapping it: the crate itself maps none.
pub type MapFile<'a> = dyn Fn(&Path) -> io::Result<HostBytes> + 'a;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The files of a folder, parsed.
#[derive(Clone, Debug)]
pub struct HfFolder {
    path: PathBuf,
    config: Map<String, Value>,
    tokenizer: HostBytes,
    tokenizer_config: Map<String, Value>,
    generation_config: Map<String, Value>,
    template_file: Option<String>,
    tensors: TensorTable,
    weight_bytes: u64,
}

impl HfFolder {
    /// True if the folder seems to be one: it has a `config.json`.
    pub fn is_at(path: &Path) -> bool {
        path.join("config.json").is_file()
    }

    /// Reads a folder: `config.json`, `tokenizer.json` and weights must be there;
    /// `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja` may be.
    ///
    /// # Errors
    /// Names the file that is missing, does not parse or contradicts another.
    pub fn open(path: &Path, map: &MapFile<'_>) -> Result<Self> {
        let read = |name: &str| -> Result<HostBytes> {
            let path = path.join(name);
            map(&path).map_err(|source| Error::Io { path, source })
        };
        let find = |name: &str| match read(name) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        };
        let shown = |name: &str| path.join(name).display().to_string();
        let object = |name: &str| match find(name)? {
            Some(bytes) => parse_object(&shown(name), &bytes),
            None => Ok(Map::new()),
        };
        let config = parse_object(&shown("config.json"), &read("config.json")?)?;
        check_quantization(&config)
            .map_err(|error| Error::InFile { path: path.to_owned(), source: Box::new(error) })?;
        let template_file = match find("chat_template.jinja")? {
            Some(bytes) => Some(
                std::str::from_utf8(&bytes)
                    .map_err(|_| Error::NotUtf8 { section: "chat template file", offset: 0 })?
                    .to_owned(),
            ),
            None => None,
        };
        let mut folder = Self {
            path: path.to_owned(),
            config,
            tokenizer: read("tokenizer.json")?,
            tokenizer_config: object("tokenizer_config.json")?,
            generation_config: object("generation_config.json")?,
            template_file,
            tensors: TensorTable::new(),
            weight_bytes: 0,
        };
        match find(SINGLE)? {
            Some(file) => folder.add_weights(SINGLE, &file)?,
            None => match find(INDEX)? {
                Some(index) => folder.add_shards(&index, &read)?,
                None => {
                    return Err(Error::NoModel {
                        path: path.to_owned(),
                        looked_for: "weights: model.safetensors or model.safetensors.index.json",
                    });
                }
            },
        }
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The bytes of `tokenizer.json`.
    pub fn tokenizer(&self) -> &HostBytes {
        &self.tokenizer
    }

    /// `tokenizer_config.json`; empty when the folder has none.
    pub fn tokenizer_config(&self) -> &Map<String, Value> {
        &self.tokenizer_config
    }

    /// `generation_config.json`; empty when the folder has none.
    pub fn generation_config(&self) -> &Map<String, Value> {
        &self.generation_config
    }

    /// The text of `chat_template.jinja`.
    pub fn template_file(&self) -> Option<&str> {
        self.template_file.as_deref()
    }

    /// The tensors under canonical names, shard by shard.
    pub fn tensor_table(&self) -> &TensorTable {
        &self.tensors
    }

    /// Size of all weight files in bytes.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    fn add_shards(
        &mut self,
        index: &HostBytes,
        read: &dyn Fn(&str) -> Result<HostBytes>,
    ) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let index: Index = serde_json::from_slice(index).map_err(|source| Error::Json {
            file: self.path.join(INDEX).display().to_string(),
            source,
        })?;
        let mut shards: BTreeMap<&str, &str> = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            // A name, not a path: nothing outside the folder is opened.
            if shard.contains(['/', '\\']) || shard.starts_with("..") {
                return Err(Error::BadValue {
                    key: format!("weight_map.{tensor}"),
                    got: shard.clone(),
                    expected: "the name of a file in the folder".to_owned(),
                });
            }
            shards.entry(shard).or_insert(tensor);
        }
        for (shard, tensor) in shards {
            let file = read(shard).map_err(|error| match error {
                Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    Error::MissingShard { shard: shard.to_owned(), tensor: tensor.to_owned() }
                }
                other => other,
            })?;
            self.add_weights(shard, &file)?;
        }
        for tensor in index.weight_map.keys() {
            let canonical = canonical_name(tensor).unwrap_or_else(|| tensor.clone());
            self.tensors.get(&canonical)?;
        }
        Ok(())
    }

    fn add_weights(&mut self, name: &str, file: &HostBytes) -> Result<()> {
        let path = self.path.join(name);
        let in_file = |source| Error::InFile { path: path.clone(), source: Box::new(source) };
        for mut tensor in read_safetensors(file).map_err(in_file)? {
            if let Some(canonical) = canonical_name(&tensor.name) {
                tensor.name = canonical;
            }
            self.tensors.push(tensor).map_err(in_file)?;
        }
        self.weight_bytes = self.weight_bytes.saturating_add(file.len() as u64);
        Ok(())
    }
}

/// Refuses weights that are codes of a scheme of their own, before their tensors are met.
///
/// # Errors
/// [`Error::Quantized`].
fn check_quantization(config: &Map<String, Value>) -> Result<()> {
    let find = |key: &'static str| Some((key, config.get(key)?.as_object()?));
    // Hugging Face names the method; MLX has groups and bits, under either key.
    let Some((key, found)) = find("quantization_config").or_else(|| find("quantization")) else {
        return Ok(());
    };
    let method = found.get("quant_method").and_then(Value::as_str).map(str::to_uppercase);
    let bits = found.get("bits").and_then(Value::as_u64);
    let name = method.unwrap_or_else(|| {
        let mlx = bits.is_some() && found.contains_key("group_size");
        if mlx { "MLX" } else { "an unknown scheme" }.to_owned()
    });
    let scheme = bits.map_or_else(|| name.clone(), |bits| format!("{name}, {bits} bits"));
    Err(Error::Quantized { scheme, key })
}

/// Whether a path is a file of such a folder, from its name.
pub(crate) fn is_part(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors" || extension == "json")
}

/// The JSON object in the bytes of the file `name`.
pub(crate) fn parse_object(name: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json { file: name.to_owned(), source })
}
