//! Structs that host and shaders share, compared field by field: a field that moved on one side
//! alone would be read as another one, silently.

use std::fs;
use std::path::{Path, PathBuf};

use metallic_devices::metal::{ShaderStruct, shader_structs};
use softmetal_emulator::{CompileOptions, Library};

/// Why the two sides of `host` differ; `None` when they agree.
fn difference(host: &ShaderStruct, library: &Library) -> Option<String> {
    let Some(shader) = library.struct_layout(host.name) else {
        return Some("the shader has none".to_owned());
    };
    if shader.size != host.bytes {
        return Some(format!("{} bytes, {} in the shader", host.bytes, shader.size));
    }
    let mut left = shader.fields.iter().peekable();
    for field in host.fields {
        let (mut at, end) = (field.offset, field.offset + field.bytes);
        // An array of strides may be several fields, as `q_strides` is `q_batch`, `q_head`, `q_row`.
        let prefix = field.name.strip_suffix("strides");
        while at < end {
            let Some(part) = left.next() else {
                return Some(format!("{} is not in the shader", field.name));
            };
            let same = part.name == field.name && part.size == field.bytes;
            let part_of = prefix.is_some_and(|prefix| part.name.starts_with(prefix));
            if part.offset != at || !(same || part_of) {
                let (name, offset) = (&part.name, part.offset);
                return Some(format!("{} at {at} is {name} at {offset} in the shader", field.name));
            }
            at += part.size;
        }
        if at != end {
            return Some(format!("{} ends at {end}, in the shader at {at}", field.name));
        }
    }
    left.next().map(|field| format!("{} is in the shader alone", field.name))
}

#[test]
fn host_and_shaders_agree_on_every_field() {
    let folder = tempfile::tempdir().unwrap();
    let options = CompileOptions::new(folder.path().to_owned());
    let structs = shader_structs().unwrap();
    for host in &structs {
        let library = Library::compile(&host.text, &options).unwrap();
        let difference = difference(host, &library);
        assert_eq!(difference, None, "{} of {}.metal", host.name, host.file);
    }
    // None is left out of the list.
    let metal =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../crates/metallic_devices/src/metal");
    let files = rust_files(&metal);
    let count = |text: &str| -> usize {
        files.iter().map(|file| fs::read_to_string(file).unwrap().matches(text).count()).sum()
    };
    assert_eq!(count("\nshader_struct! {"), structs.len());
    // The macro, and `Lengths`, which is fed to MPSGraph as four integers.
    assert_eq!(count("#[repr(C)]\n"), 2);
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
