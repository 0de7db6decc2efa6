//! A parsed GGUF file. Nothing is copied but the metadata: tensors are slices of the file.

use metallic::tensor::HostBytes;

use super::DEFAULT_ALIGNMENT;
use super::metadata::Metadata;
use super::reader::Reader;
use super::tensor_type::{dtype_of_type_id, name_of_type_id};
use super::value::read_value;
use crate::error::{Error, Result, TensorProblem};
use crate::tensors::{TensorInfo, TensorTable};

/// The fewest bytes of a metadata entry: key length, value type, a one-byte value.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// The fewest bytes of a tensor description: name length, rank, one axis, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;
/// ggml's limit of axes.
const MAX_RANK: u32 = 4;

/// A GGUF file: metadata, and tensors that share the file's bytes.
#[derive(Clone, Debug)]
pub struct GgufFile {
    version: u32,
    alignment: u64,
    file_bytes: u64,
    metadata: Metadata,
    tensors: TensorTable,
}

impl GgufFile {
    /// Parses a file and checks all of its header.
    ///
    /// Time and memory are bounded by the size of the file, whatever it claims.
    ///
    /// # Errors
    /// Names the section, the key or the tensor that is wrong; see [`Error`].
    pub fn parse(bytes: HostBytes) -> Result<Self> {
        let mut reader = Reader::new(&bytes);
        let version = read_magic_and_version(&mut reader)?;
        let tensor_count = reader.u64()?;
        let entry_count = reader.u64()?;

        reader.section = "metadata";
        reader.expect_items(entry_count, MIN_ENTRY_BYTES)?;
        let mut metadata = Metadata::default();
        for _ in 0..entry_count {
            let key = reader.string()?.to_owned();
            let value = read_value(&mut reader, &key)?;
            metadata.insert(key, value)?;
        }
        if let Some(parts @ 2..) = metadata.find_u32("split.count")? {
            return Err(Error::SplitGguf { parts });
        }
        let alignment = read_alignment(&metadata)?;

        reader.section = "tensor list";
        reader.expect_items(tensor_count, MIN_TENSOR_BYTES)?;
        let descriptions = (0..tensor_count)
            .map(|_| Description::read(&mut reader))
            .collect::<Result<Vec<_>>>()?;

        let data_start = reader.offset().checked_next_multiple_of(alignment);
        let mut tensors = TensorTable::new();
        let mut expected = Some(0);
        for description in descriptions {
            let offset = description.offset;
            let tensor = description.locate(&bytes, data_start, alignment)?;
            // As ggml has it: one tensor after the other, with nothing but padding between.
            if expected != Some(offset) {
                let problem = TensorProblem::Misplaced { offset, expected };
                return Err(Error::BadTensor { tensor: tensor.name, problem });
            }
            expected = offset
                .checked_add(tensor.bytes.len() as u64)
                .and_then(|end| end.checked_next_multiple_of(alignment));
            tensors.push(tensor)?;
        }
        Ok(Self { version, alignment, file_bytes: bytes.len() as u64, metadata, tensors })
    }

    /// The file's GGUF version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// `general.architecture`, such as `qwen2`.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn architecture(&self) -> Result<&str> {
        self.metadata.str("general.architecture")
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensors.as_slice()
    }

    /// The tensors with their lookup.
    pub fn tensor_table(&self) -> &TensorTable {
        &self.tensors
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name)
    }
}

fn read_magic_and_version(reader: &mut Reader<'_>) -> Result<u32> {
    let magic = reader.bytes(reader.left().min(4))?;
    match magic {
        b"GGUF" => {}
        b"FUGG" => return Err(Error::GgufBigEndian),
        // Shorter than the magic itself, yet begins like it.
        _ if b"GGUF".starts_with(magic) => {
            return Err(Error::Truncated {
                section: "header",
                offset: 0,
                needed: 24,
                left: magic.len() as u64,
            });
        }
        _ => return Err(Error::NotGguf { magic: magic.to_vec(), hint: hint(magic) }),
    }
    match reader.u32()? {
        version @ 2..=3 => Ok(version),
        // Versions are small: only a big-endian one has its low half empty.
        version if version & 0xffff == 0 && version != 0 => Err(Error::GgufBigEndian),
        version => Err(Error::GgufVersion { version }),
    }
}

/// What a file that is no GGUF seems to be.
fn hint(magic: &[u8]) -> &'static str {
    match magic {
        b"vers" => " (a Git LFS pointer: fetch the file itself with `git lfs pull`)",
        b"<!DO" | b"<htm" | b"<HTM" => " (a web page: the download link was wrong)",
        b"PK\x03\x04" => " (a zip archive or a PyTorch checkpoint: convert it to GGUF)",
        b"lmgg" | b"fmgg" | b"tjgg" => " (an old ggml model: convert it to GGUF)",
        _ => "",
    }
}

fn read_alignment(metadata: &Metadata) -> Result<u64> {
    let key = "general.alignment";
    match metadata.find_u32(key)? {
        None => Ok(DEFAULT_ALIGNMENT),
        // The format asks for a multiple of 8, ggml for a power of two.
        Some(alignment) if alignment >= 8 && alignment.is_power_of_two() => Ok(alignment.into()),
        Some(alignment) => Err(Error::BadValue {
            key: key.to_owned(),
            got: alignment.to_string(),
            expected: "a power of two of at least 8".to_owned(),
        }),
    }
}

/// A tensor as the header describes it.
struct Description {
    name: String,
    /// Innermost axis first, as ggml stores it.
    dims: Vec<u64>,
    type_id: u32,
    /// Bytes from the start of the data section.
    offset: u64,
}

impl Description {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let name = reader.string()?.to_owned();
        let rank = reader.u32()?;
        if !(1..=MAX_RANK).contains(&rank) {
            let problem = TensorProblem::Rank { rank: rank.into() };
            return Err(Error::BadTensor { tensor: name, problem });
        }
        let dims = (0..rank).map(|_| reader.u64()).collect::<Result<Vec<_>>>()?;
        Ok(Self { name, dims, type_id: reader.u32()?, offset: reader.u64()? })
    }

    /// Checks the description and finds its bytes. `data_start` is `None` past u64.
    fn locate(
        self,
        file: &HostBytes,
        data_start: Option<u64>,
        alignment: u64,
    ) -> Result<TensorInfo> {
        let Self { name, dims, type_id, offset } = self;
        let bad = |problem| Error::BadTensor { tensor: name.clone(), problem };
        let Some(dtype) = dtype_of_type_id(type_id) else {
            let type_name = name_of_type_id(type_id).to_owned();
            return Err(bad(TensorProblem::UnsupportedType {
                type_id: Some(type_id),
                name: type_name,
            }));
        };
        if dims.contains(&0) {
            return Err(bad(TensorProblem::EmptyAxis { shape: dims }));
        }
        let row = dims.first().copied().unwrap_or(1);
        if !row.is_multiple_of(dtype.block_len() as u64) {
            return Err(bad(TensorProblem::Blocks { row, dtype }));
        }
        let shape = dims.iter().rev().map(|&dim| usize::try_from(dim).ok());
        let shape = shape.collect::<Option<Vec<usize>>>();
        let byte_len = shape.as_ref().and_then(|shape| {
            let elements = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
            dtype.row_bytes(elements)
        });
        let (Some(shape), Some(byte_len)) = (shape, byte_len) else {
            return Err(bad(TensorProblem::TooLarge { shape: dims }));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(bad(TensorProblem::Misaligned { offset, alignment }));
        }
        let start = data_start.and_then(|start| start.checked_add(offset)).unwrap_or(u64::MAX);
        let bytes = usize::try_from(start).ok().and_then(|start| {
            let end = start.checked_add(byte_len)?;
            file.slice(start..end)
        });
        let bytes = bytes.ok_or_else(|| Error::Truncated {
            section: "tensor data",
            offset: start,
            needed: byte_len as u64,
            left: (file.len() as u64).saturating_sub(start),
        })?;
        Ok(TensorInfo { name, dtype, shape, bytes })
    }
}
