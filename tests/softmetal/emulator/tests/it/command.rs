//! The command `msl-check`: it flattens includes, and names the file and the line of an error.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, process};

fn run(files: &[PathBuf]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_msl-check")).args(files).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn files_are_checked_with_their_includes() {
    let folder = env::temp_dir().join(format!("msl-check-test-{}", process::id()));
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let header = "#pragma once\n#include <metal_stdlib>\nusing namespace metal;\n";
    write("common.h", header);
    write("wrong.h", "#include \"common.h\"\nstatic float get(device float *p) { return p[0]; }\n");
    let good = write(
        "good.metal",
        "#include \"common.h\"\n#include \"common.h\"\nkernel void f(device float *x [[buffer(0)]]) { x[0] = 1.0; }\n",
    );
    let wrong = write(
        "wrong.metal",
        "// A comment.\n#include \"wrong.h\"\nkernel void f(device float *x [[buffer(0)]],\n\
         threadgroup float *y [[threadgroup(0)]]) {\n    x[0] = get(y);\n}\n",
    );
    let (ok, text) = run(std::slice::from_ref(&good));
    assert!(ok && text.contains("good.metal: 1 kernels"), "{text}");
    let (ok, text) = run(&["--rules".into(), good.clone()]);
    assert!(ok && text.contains("good.metal: rules hold"), "{text}");
    let place = format!("{}:5:", wrong.display());
    for mode in [None, Some("--rules".into())] {
        let files = mode.into_iter().chain([good.clone(), wrong.clone()]);
        let (ok, text) = run(&files.collect::<Vec<PathBuf>>());
        assert!(!ok && text.contains(&place), "{text}");
    }
    let (ok, text) = run(&[folder.join("absent.metal")]);
    assert!(!ok && text.contains("absent.metal"), "{text}");
    fs::remove_dir_all(folder).unwrap();
}
