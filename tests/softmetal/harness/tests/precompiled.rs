//! Kernels that are compiled with the program: the build script, with a stand-in for Apple's compiler, and
//! the device of a build that asked for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use metallic::dispatch::Policies;
use metallic::op::{Add, AddArgs};
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::Recorder;
use softmetal_objc::control;
use tempfile::TempDir;

const ASKED: &str = "METALLIC_METALLIB";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().unwrap()
}

/// The build script as a program, and an empty folder for what it writes.
struct Script {
    folder: TempDir,
}

/// What a run of it did.
struct Ran {
    good: bool,
    said: String,
    /// Names of the files it wrote.
    wrote: Vec<String>,
}

impl Script {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "-o"]).arg(folder.path().join("build"));
        rustc.arg(repository().join("crates/metallic_devices/build.rs"));
        assert!(rustc.status().unwrap().success());
        Self { folder }
    }

    /// Runs it for macOS with the stand-in for the compiler, and these variables.
    fn run(&self, variables: &[(&str, &str)]) -> Ran {
        let out = self.folder.path().join("out");
        drop(std::fs::remove_dir_all(&out));
        std::fs::create_dir(&out).unwrap();
        let tools = repository().join("tests/softmetal/fake-tools");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        let mut script = Command::new(self.folder.path().join("build"));
        script.env_remove(ASKED).env_remove("CARGO_CFG_OBJC_STANDIN");
        script.env("CARGO_CFG_TARGET_OS", "macos").env("PATH", path).env("OUT_DIR", &out);
        script.env("CARGO_MANIFEST_DIR", repository().join("crates/metallic_devices"));
        let output = script.envs(variables.iter().copied()).output().unwrap();
        let names = out.read_dir().unwrap();
        let mut wrote: Vec<_> =
            names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        wrote.sort();
        let said = String::from_utf8(output.stdout).unwrap();
        Ran { good: output.status.success(), said, wrote }
    }
}

#[test]
fn every_kernel_file_becomes_a_library() {
    let script = Script::new();
    let Ran { good, said, wrote } = script.run(&[(ASKED, "1")]);
    assert!(good && said.contains("cargo::rustc-cfg=metallic_metallib"), "{said}");
    let kernels = repository().join("crates/metallic_devices/src/metal/kernels");
    let mut want: Vec<String> = kernels
        .read_dir()
        .unwrap()
        .filter_map(|file| {
            file.unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .strip_suffix(".metal")
                .map(str::to_owned)
        })
        .collect();
    want.sort();
    assert!(want.len() > 10);
    let table = std::fs::read_to_string(script.folder.path().join("out/metallibs.rs")).unwrap();
    for name in &want {
        assert!(table.contains(&format!("({name:?}, include_bytes!(")), "{table}");
    }
    let mut files: Vec<String> = want.iter().map(|name| format!("{name}.metallib")).collect();
    files.push("metallibs.rs".to_owned());
    files.sort();
    assert_eq!(wrote, files);
}

#[test]
fn nothing_is_compiled_unless_asked_for() {
    let script = Script::new();
    for variables in [&[][..], &[(ASKED, "0")], &[(ASKED, "")]] {
        let Ran { good, said, wrote } = script.run(variables);
        assert!(good && wrote.is_empty() && !said.contains("rustc-cfg"), "{variables:?}: {said}");
    }
    let Ran { good, said, wrote } = script.run(&[(ASKED, "1"), ("CARGO_CFG_TARGET_OS", "linux")]);
    assert!(good && wrote.is_empty() && said.contains("cargo::warning="), "{said}");
}

#[test]
fn a_build_that_cannot_compile_them_fails_and_says_why() {
    let script = Script::new();
    for (variables, why) in [
        (&[(ASKED, "yes")][..], "it is 0 or 1, not yes"),
        (&[(ASKED, "1"), ("FAKE_XCRUN", "missing")], "it needs Apple's developer tools"),
        (&[(ASKED, "1"), ("FAKE_XCRUN", "broken")], "a fault was ordered"),
    ] {
        let Ran { good, said, .. } = script.run(variables);
        let error = said.lines().find(|line| line.starts_with("cargo::error=")).unwrap();
        assert!(!good && error.contains(why), "{error}");
        assert!(!said.contains("rustc-cfg"), "{said}");
    }
}

/// The full lane builds with the variable, and with the stand-in for the compiler.
#[test]
fn kernels_come_from_where_the_device_says() {
    let device = MetalOptions::default();
    let ctx = MetalDevice::context(device, Policies::default(), Recorder::disabled()).unwrap();
    let [x, y] = [1.0, 2.0].map(|x| ctx.upload_f32([1, 4], &[x; 4]).unwrap());
    let loads = control().counter("library_loads");
    ctx.run::<Add>(&AddArgs { x: x.clone(), y }).unwrap();
    assert_eq!(ctx.download_f32(&x).unwrap(), [3.0; 4]);
    let [compiles, loads] =
        [control().counter("library_compiles"), control().counter("library_loads") - loads];
    let (said, made) = if std::env::var(ASKED).is_ok_and(|asked| asked == "1") {
        ("kernels: precompiled", (0, 1))
    } else {
        ("kernels: compiled at run time", (1, 0))
    };
    assert_eq!((compiles, loads), made);
    let description = ctx.device().description();
    assert!(description.ends_with(said), "{description}");
}
