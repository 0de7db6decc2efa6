//! Finding and loading the model that `-m` names.

use std::path::{Path, PathBuf};

use metallic::Context;
use metallic::config::process_env;
use metallic::op::Precision;
use metallic::tensor::HostBytes;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_models::source::ModelFiles;
use metallic_models::tiny;
use metallic_models::tokenizer::Tokenizer;
use metallic_models::transformer::{Model, ModelOptions};

use crate::args::ModelArgs;
use crate::error::{Error, Result};
use crate::hub::{self, HubName};
use crate::output::{note, printable};
use crate::progress::Upload;
use crate::{inputs, memory, physical_memory};

/// A model's files, tokenizer and weights.
pub(crate) struct Loaded {
    pub(crate) files: ModelFiles,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) model: Model,
}

/// The path of the model that `name` means; `None` for the embedded one.
///
/// # Errors
/// Nothing is there, or the hub model was not pulled.
pub(crate) fn locate(args: &ModelArgs) -> Result<Option<PathBuf>> {
    let Some(name) = &args.model else { return Ok(None) };
    if name.exists() {
        return Ok(Some(name.clone()));
    }
    match name.to_str().and_then(HubName::parse) {
        Some(hub) => hub.locate(&hub::cache_folder(&process_env)?).map(Some),
        None => Err(Error::NoSuchModel { name: name.display().to_string() }),
    }
}

/// Opens the files of the model that `args` name; `map` opens the bytes of one.
///
/// # Errors
/// As [`locate`]; whatever is wrong with the files.
pub(crate) fn open_with(
    args: &ModelArgs,
    map: &dyn Fn(&Path) -> metallic::Result<HostBytes>,
) -> Result<ModelFiles> {
    if let Some(config) = &args.random_weights {
        let bytes = inputs::read(config)?;
        let (seed, dtype) = (args.weights_seed, args.weights_type);
        let outline = ModelFiles::random_outline(&bytes, seed, dtype)?;
        physical_memory::check("the random weights", outline.tensors().bytes() as f64)?;
        return Ok(ModelFiles::random(&bytes, seed, dtype)?);
    }
    let Some(path) = locate(args)? else { return Ok(tiny::model()?) };
    let map = |path: &Path| {
        // The reader asks for optional files and must learn that one is not there.
        check_regular(path)?;
        map(path).map_err(io_error)
    };
    Ok(ModelFiles::open(&path, &map)?)
}

/// Refuses what cannot be mapped, before a pipe without a writer is waited for.
///
/// # Errors
/// Nothing is there, or something other than a regular file.
pub(crate) fn check_regular(path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.is_file() {
        return Ok(());
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// A device's failure to read, as the model reader wants it: its own words, once.
fn io_error(error: metallic::Error) -> std::io::Error {
    match error {
        metallic::Error::Read { reason, .. } => std::io::Error::other(reason),
        other => std::io::Error::other(other.to_string()),
    }
}

/// As [`open_with`], for commands that run nothing: random weights are not made.
///
/// # Errors
/// As [`open_with`].
pub(crate) fn open(args: &ModelArgs) -> Result<ModelFiles> {
    if let Some(config) = &args.random_weights {
        let bytes = inputs::read(config)?;
        return Ok(ModelFiles::random_outline(&bytes, args.weights_seed, args.weights_type)?);
    }
    let reader = CpuDevice::new(CpuOptions { threads: 1, ..CpuOptions::default() });
    open_with(args, &|path| metallic::device::Device::map_file(&reader, path))
}

/// Most tensors that a warning names.
const NAMED: usize = 4;

/// Loads the model onto the device of `ctx`.
///
/// # Errors
/// As [`open_with`]; no memory on the device.
pub(crate) fn load(ctx: &Context, args: &ModelArgs, exact: bool, verbose: bool) -> Result<Loaded> {
    let files = open_with(args, &|path| ctx.device().map_file(path))?;
    let unused = files.unused_tensors();
    if !unused.is_empty() {
        let names: Vec<&str> = unused.iter().copied().take(NAMED).collect();
        let more = if unused.len() > NAMED { ", …" } else { "" };
        let names = printable(&names.join(", "));
        note!("warning: {} tensor(s) of the model are not used: {names}{more}", unused.len());
    }
    let tokenizer = files.tokenizer()?;
    memory::check_weights(ctx.device(), &files)?;
    let precision = if exact { Precision::Exact } else { Precision::default() };
    let upload = Upload::new(files.tensors().bytes(), ctx.device().id().to_string());
    let add = |bytes| upload.add(bytes);
    let model = Model::load_with(ctx, &files, ModelOptions { precision }, &add)?;
    drop(upload);
    if verbose {
        let (name, config) = (files.name(), files.config());
        let quantization = files.quantization();
        note!("model: {name}, {}, {quantization}, {}", config.architecture, files.format());
    }
    Ok(Loaded { files, tokenizer, model })
}
