//! Structs that the host fills and shaders read (or the other way round): defined by one macro, so
//! that both sides can be compared field by field. The comparison runs in `tests/softmetal`, where
//! shaders are compiled; nothing here looks at one.

use metallic::Result;

use super::copy::CopyParams;
use super::fault::Fault;
use super::library::{Source, flatten};
use super::mask::MaskParams;

/// Defines a plain struct of a shader's layout, after the sources that define the same struct:
/// `shader_struct! { [SOURCE] struct Params { width: u32 } }`. Its `LAYOUT` belongs into the list
/// of its folder, which [`shader_structs`] joins.
macro_rules! shader_struct {
    (
        [$source:expr]
        $(#[$meta:meta])*
        $visible:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_visible:vis $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        $visible struct $name {
            $( $(#[$field_meta])* $field_visible $field: $type, )*
        }

        impl $name {
            /// How it lies in memory here.
            pub(in crate::metal) const LAYOUT: $crate::metal::layout::HostStruct =
                $crate::metal::layout::HostStruct {
                    source: $source,
                    name: stringify!($name),
                    bytes: size_of::<$name>(),
                    fields: &[$( $crate::metal::layout::HostField {
                        name: stringify!($field),
                        offset: std::mem::offset_of!($name, $field),
                        bytes: size_of::<$type>(),
                    }, )*],
                };
        }
    };
}
pub(super) use shader_struct;

/// A struct on the host's side.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostStruct {
    /// A file that defines the same struct, itself or in a header.
    pub(super) source: Source,
    /// Its name, on both sides.
    pub(super) name: &'static str,
    /// Its size.
    pub(super) bytes: usize,
    /// In the order of their definition.
    pub(super) fields: &'static [HostField],
}

/// A field of a struct that shaders know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostField {
    /// Its name.
    pub name: &'static str,
    /// Bytes before it.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
}

/// A struct as the host lays it out, with the shader's text that defines it too.
#[derive(Clone, Debug)]
pub struct ShaderStruct {
    /// The name of the `.metal` file.
    pub file: &'static str,
    /// The file with its headers.
    pub text: String,
    /// The struct's name, on both sides.
    pub name: &'static str,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its fields, in order.
    pub fields: &'static [HostField],
}

/// Every struct that host and shaders share.
///
/// # Errors
/// [`metallic::Error::Compile`] when a file includes what is not embedded.
pub fn shader_structs() -> Result<Vec<ShaderStruct>> {
    let own = [CopyParams::LAYOUT, Fault::LAYOUT, MaskParams::LAYOUT];
    let all = own.iter().chain(&super::legacy::LAYOUTS).chain(&super::graph::LAYOUTS);
    all.map(|host| {
        let HostStruct { source, name, bytes, fields } = *host;
        Ok(ShaderStruct { file: source.name, text: flatten(&source)?, name, bytes, fields })
    })
    .collect()
}
