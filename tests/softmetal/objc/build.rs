//! Makes the two empty archives that the linker asks for: objc2 names libobjc and libgnustep-base, whose
//! symbols this crate defines itself.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in ["libobjc.a", "libgnustep-base.a"] {
        std::fs::write(out.join(name), "!<arch>\n").expect("OUT_DIR can be written");
    }
    println!("cargo:rustc-link-search=native={}", out.display());
}
