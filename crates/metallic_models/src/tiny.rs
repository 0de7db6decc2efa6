//! The model that is embedded in the program: Metallic Tiny, 3.15 million parameters.
//!
//! It tells very short stories; `tiny/README.md` says how it was made. Not a useful assistant.

use metallic::tensor::HostBytes;

use crate::error::Result;
use crate::source::ModelFiles;

/// Bytes at an address that every element type is aligned to.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../tiny/metallic-tiny-q8_0.gguf"));

/// The GGUF file, Q8_0 weights, at an address aligned to 64 bytes.
pub static GGUF: &[u8] = &FILE.0;

/// The embedded model, parsed.
///
/// # Errors
/// None in practice: the file is the one the tests run with.
pub fn model() -> Result<ModelFiles> {
    ModelFiles::from_gguf_bytes(HostBytes::new(GGUF), "Metallic Tiny")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufFile;

    #[test]
    fn the_embedded_file_parses_and_its_tensors_are_aligned() {
        let file = GgufFile::parse(HostBytes::new(GGUF)).unwrap();
        assert_eq!(file.architecture().unwrap(), "qwen2");
        assert_eq!(file.tensors().len(), 2 + 6 * 12);
        for tensor in file.tensors() {
            assert_eq!(tensor.bytes.as_ptr() as usize % 32, 0, "{}", tensor.name);
        }
    }
}
