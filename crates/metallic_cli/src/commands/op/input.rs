//! The input file of `metallic op`: named tensors, checked as far as the op itself does not.

use std::path::{Path, PathBuf};

use metallic::Context;
use metallic::op::{MaskTensor, SdpaArgs};
use metallic::tensor::{DType, HostBytes, Shape, Tensor};
use metallic_models::safetensors::check_offsets;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::model::check_regular;

/// The tensors that are read.
const KNOWN: [&str; 5] = ["q", "k", "v", "mask", "kv_lens"];
/// One that may lie beside them: a result to compare with.
const RESULT: &str = "out";

/// An open input file.
pub(super) struct Inputs<'a> {
    ctx: &'a Context,
    path: PathBuf,
    bytes: HostBytes,
}

/// A tensor as the file has it.
struct Raw<'a> {
    name: &'static str,
    dtype: Dtype,
    dims: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> Inputs<'a> {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Safetensors`]; [`Error::UnknownTensors`], since what is not read, as a
    /// misspelt `mask` or `sinks`, would be missing from the result.
    pub(super) fn open(ctx: &'a Context, path: &Path) -> Result<Self> {
        check_regular(path).map_err(Error::read(path))?;
        std::fs::File::open(path).map_err(Error::read(path))?;
        let bytes = ctx.device().map_file(path)?;
        let inputs = Self { ctx, path: path.to_owned(), bytes };
        check_offsets(&inputs.bytes).map_err(|error| inputs.broken(&error))?;
        let file = inputs.parse()?;
        let known = |name: &&str| KNOWN.contains(name) || *name == RESULT;
        let mut unknown: Vec<_> = file.names().into_iter().filter(|name| !known(name)).collect();
        if !unknown.is_empty() {
            unknown.sort_unstable();
            let (path, known) = (inputs.path.clone(), KNOWN.join(", "));
            return Err(Error::UnknownTensors { path, names: unknown.join(", "), known });
        }
        drop(file);
        Ok(inputs)
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Safetensors { path: self.path.clone(), reason: reason.to_string() }
    }

    fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| self.broken(&error))
    }

    fn find(&self, name: &'static str) -> Result<Option<Raw<'_>>> {
        let file = self.parse()?;
        let Ok(view) = file.tensor(name) else { return Ok(None) };
        let (dtype, dims, bytes) = (view.dtype(), view.shape().to_vec(), view.data());
        Ok(Some(Raw { name, dtype, dims, bytes }))
    }

    /// A query, key or value tensor, which must be there and have four axes.
    ///
    /// # Errors
    /// [`Error::NoTensor`], [`Error::BadTensor`].
    pub(super) fn qkv(&self, name: &'static str) -> Result<Tensor> {
        let Some(raw) = self.find(name)? else {
            let file = self.parse()?;
            let mut names = file.names();
            names.sort_unstable();
            let present = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            return Err(Error::NoTensor { path: self.path.clone(), name, present });
        };
        let expected = "f32, f16 or bf16 with 4 axes [batch, heads, len, dim]";
        match float_type(raw.dtype) {
            Some(dtype) if raw.dims.len() == 4 => self.upload(&raw, dtype, expected),
            _ => Err(raw.refuse(expected)),
        }
    }

    /// The mask, if there is one.
    ///
    /// # Errors
    /// [`Error::BadTensor`].
    pub(super) fn mask(&self) -> Result<Option<MaskTensor>> {
        let Some(raw) = self.find("mask")? else { return Ok(None) };
        let expected = "bool, f32, f16 or bf16 with 1 to 4 axes";
        if raw.dims.is_empty() {
            return Err(raw.refuse(expected));
        }
        match (raw.dtype, float_type(raw.dtype)) {
            (Dtype::BOOL, _) => {
                self.upload(&raw, DType::Bool, expected).map(MaskTensor::Bool).map(Some)
            }
            (_, Some(dtype)) => {
                self.upload(&raw, dtype, expected).map(MaskTensor::Additive).map(Some)
            }
            _ => Err(raw.refuse(expected)),
        }
    }

    /// The live lengths, if there are any: one of `0 ..= kv_len` for each of `batch` sequences.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::BadLength`].
    pub(super) fn kv_lens(&self, batch: usize, kv_len: usize) -> Result<Option<Tensor>> {
        let Some(raw) = self.find("kv_lens")? else { return Ok(None) };
        let expected = "i32 or i64 with 1 axis [batch]";
        let lens: Vec<i64> = match raw.dtype {
            Dtype::I32 => {
                let (values, _) = raw.bytes.as_chunks();
                values.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect()
            }
            Dtype::I64 => {
                let (values, _) = raw.bytes.as_chunks();
                values.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
            }
            _ => return Err(raw.refuse(expected)),
        };
        if raw.dims.len() != 1 {
            return Err(raw.refuse(expected));
        }
        if lens.len() != batch {
            return Err(metallic::Error::Shape {
                op: "sdpa",
                what: "kv_lens axis 0 (batch)".to_owned(),
                expected: format!("q's batch = {batch}"),
                got: lens.len().to_string(),
            }
            .into());
        }
        let checked: Vec<i32> = lens
            .iter()
            .enumerate()
            .map(|(sequence, &got)| {
                let fits = usize::try_from(got).is_ok_and(|len| len <= kv_len);
                i32::try_from(got).ok().filter(|_| fits).ok_or(Error::BadLength {
                    sequence,
                    got,
                    kv_len,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Some(self.ctx.upload_i32([checked.len()], &checked)?))
    }

    fn upload(&self, raw: &Raw<'_>, dtype: DType, expected: &'static str) -> Result<Tensor> {
        let shape = Shape::checked(&raw.dims).ok_or_else(|| raw.refuse(expected))?;
        Ok(self.ctx.upload(dtype, shape, raw.bytes)?)
    }
}

impl Raw<'_> {
    fn refuse(&self, expected: &'static str) -> Error {
        let dtype = format!("{:?}", self.dtype).to_lowercase();
        Error::BadTensor { name: self.name, got: format!("{dtype} {:?}", self.dims), expected }
    }
}

fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The tensors of a call, by name.
pub(super) fn named(call: &SdpaArgs) -> Vec<(&'static str, &Tensor)> {
    let mut named = Vec::new();
    metallic::op::OpArgs::each_tensor(call, &mut |name, tensor| named.push((name, tensor)));
    named
}
