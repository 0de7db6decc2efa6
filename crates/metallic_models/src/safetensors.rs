//! Tensors of one safetensors file. Not: several files of one model (`hf_folder`).

use ::safetensors::{Dtype, SafeTensors};
use metallic::tensor::{DType, HostBytes};

use crate::error::{Error, Result, TensorProblem};
use crate::tensors::TensorInfo;

/// Bytes of the header's length.
const LENGTH_BYTES: usize = 8;

/// The tensors of a file in file order, under the file's own names; f32, f16 and bf16 only.
///
/// # Errors
/// [`Error::Safetensors`] for a damaged or cut file, [`Error::BadTensor`] for another element
/// type, a scalar, or an empty tensor.
pub fn read_safetensors(file: &HostBytes) -> Result<Vec<TensorInfo>> {
    check_offsets(file)?;
    let (header_bytes, metadata) =
        SafeTensors::read_metadata(file).map_err(|source| Error::Safetensors { source })?;
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let shape = || info.shape.iter().map(|&dim| dim as u64).collect::<Vec<_>>();
        let bad = |problem| Error::BadTensor { tensor: name.clone(), problem };
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => {
                let type_name = format!("{other:?}").to_lowercase();
                return Err(bad(TensorProblem::UnsupportedType { type_id: None, name: type_name }));
            }
        };
        if info.shape.is_empty() {
            return Err(bad(TensorProblem::Rank { rank: 0 }));
        }
        if info.shape.contains(&0) {
            return Err(bad(TensorProblem::EmptyAxis { shape: shape() }));
        }
        // `read_metadata` has checked offsets against shapes and the file's length.
        let place = |offset: usize| offset.checked_add(header_bytes)?.checked_add(LENGTH_BYTES);
        let (start, end) = info.data_offsets;
        let bytes = place(start).zip(place(end)).and_then(|(start, end)| file.slice(start..end));
        let Some(bytes) = bytes else {
            return Err(bad(TensorProblem::TooLarge { shape: shape() }));
        };
        tensors.push(TensorInfo { name, dtype, shape: info.shape.clone(), bytes });
    }
    Ok(tensors)
}

/// Refuses offsets past the end of the file, which the library adds up unchecked. Whatever else
/// is wrong with the header is left for the library to say.
///
/// # Errors
/// [`Error::TensorPastEnd`].
pub fn check_offsets(file: &[u8]) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Entry {
        data_offsets: Option<(u64, u64)>,
    }
    let header = file
        .split_first_chunk::<LENGTH_BYTES>()
        .and_then(|(length, rest)| rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?));
    let entries = header.and_then(|header| {
        serde_json::from_slice::<std::collections::BTreeMap<String, Entry>>(header).ok()
    });
    let length = file.len() as u64;
    for (tensor, entry) in entries.into_iter().flatten() {
        if let Some((start, end)) = entry.data_offsets
            && (start > length || end > length)
        {
            return Err(Error::TensorPastEnd { tensor, end, length });
        }
    }
    Ok(())
}
