//! NVIDIA's libraries: which are here, in which version, and where they were found.
//!
//! Nothing is linked. The driver's library is where the system puts it; NVRTC, cuBLASLt and cuDNN
//! may also lie in a CUDA toolkit or in the folders of Python packages, which no loader searches.
//! What is found there is opened by its path first: later requests by name then find it, since the
//! loader knows loaded libraries by their names. What is missing is data, never a panic.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;
use metallic::config::process_env;

/// Folders to search first, separated by `:`.
pub const LIBRARY_PATH: &str = "METALLIC_CUDA_LIBRARIES";

/// A library of NVIDIA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// `libcuda`, which comes with the driver: without it there is no device.
    Driver,
    /// `libnvrtc`, which compiles kernels; not needed where all are in the disk cache.
    Nvrtc,
    /// `libcublasLt`, which multiplies matrices.
    CublasLt,
    /// `libcudnn`, which the graph backend may use.
    Cudnn,
}

impl Component {
    /// All of them.
    pub const ALL: [Component; 4] =
        [Component::Driver, Component::Nvrtc, Component::CublasLt, Component::Cudnn];

    /// The name people use.
    pub const fn name(self) -> &'static str {
        match self {
            Component::Driver => "driver",
            Component::Nvrtc => "NVRTC",
            Component::CublasLt => "cuBLASLt",
            Component::Cudnn => "cuDNN",
        }
    }

    /// File names, the preferred one first.
    const fn files(self) -> &'static [&'static str] {
        match self {
            Component::Driver => &["libcuda.so.1"],
            Component::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            Component::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
            Component::Cudnn => &["libcudnn.so.9"],
        }
    }

    /// What to do about its absence.
    const fn advice(self) -> &'static str {
        match self {
            Component::Driver => "install NVIDIA's driver",
            Component::Nvrtc => "pip install nvidia-cuda-nvrtc, or install the CUDA toolkit",
            Component::CublasLt => "pip install nvidia-cublas, or install the CUDA toolkit",
            Component::Cudnn => "pip install nvidia-cudnn-cu13",
        }
    }
}

/// What was found of one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub component: Component,
    /// Its version and where it lies; `Err` with what is wrong and what to do.
    pub state: Result<Presence, String>,
}

/// A library that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// As `13.0`.
    pub version: String,
    /// Its path where it was opened by path, else its name.
    pub place: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.component.name();
        match &self.state {
            Ok(Presence { version, place }) => write!(f, "{name} {version} ({place})"),
            Err(reason) => write!(f, "{name} missing: {reason}"),
        }
    }
}

/// Every component, looked for once in a process.
pub fn libraries() -> &'static [Found; 4] {
    static FOUND: OnceLock<[Found; 4]> = OnceLock::new();
    FOUND.get_or_init(|| {
        let folders = folders();
        Component::ALL.map(|component| Found { component, state: open(component, &folders) })
    })
}

/// What was found of `component`.
pub fn library(component: Component) -> &'static Found {
    let at = Component::ALL.iter().position(|other| *other == component).unwrap_or_default();
    &libraries()[at]
}

/// Opens a component and keeps it open for the rest of the process.
fn open(component: Component, folders: &[PathBuf]) -> Result<Presence, String> {
    let named = component.files().iter().map(PathBuf::from);
    let placed =
        component.files().iter().flat_map(|file| folders.iter().map(move |f| f.join(file)));
    let mut trouble = None;
    for path in named.chain(placed.filter(|path| path.exists())) {
        // SAFETY: these are NVIDIA's libraries by their own names; their initialisers are made to
        // run at any time.
        match unsafe { Library::new(&path) } {
            Ok(library) => {
                let version = version(component, &library)?;
                if component == Component::Nvrtc {
                    open_builtins(&path, &version);
                }
                // Closing and opening again would lose what was found by path.
                std::mem::forget(library);
                return Ok(Presence { version, place: path.display().to_string() });
            }
            Err(error) if path.is_absolute() => trouble = Some(error.to_string()),
            Err(_) => {}
        }
    }
    let files = component.files().join(" or ");
    Err(match trouble {
        Some(trouble) => format!("{files} cannot be opened ({trouble})"),
        None => format!("{files} not found; {}", component.advice()),
    })
}

/// Opens NVRTC's second library, which NVRTC asks for by name, where it lies beside the first.
fn open_builtins(nvrtc: &Path, version: &str) {
    let file = nvrtc.with_file_name(format!("libnvrtc-builtins.so.{version}"));
    if nvrtc.is_absolute() && file.exists() {
        // SAFETY: NVIDIA's library by its own name, without an initialiser of note.
        if let Ok(library) = unsafe { Library::new(&file) } {
            std::mem::forget(library);
        }
    }
}

/// The version a library reports.
fn version(component: Component, library: &Library) -> Result<String, String> {
    let no_symbol = |error: libloading::Error| error.to_string();
    // SAFETY (all calls below): the documented signatures of these functions, which may be called
    // before anything else in their libraries.
    match component {
        Component::Driver => {
            type Version = unsafe extern "C" fn(*mut i32) -> i32;
            // SAFETY: see above.
            let get =
                unsafe { library.get::<Version>(b"cuDriverGetVersion") }.map_err(no_symbol)?;
            let mut number = 0;
            // SAFETY: see above; the pointer is to an i32.
            match unsafe { get(&mut number) } {
                0 => Ok(format!("for CUDA {}.{}", number / 1000, number % 1000 / 10)),
                code => Err(format!("cuDriverGetVersion failed with {code}")),
            }
        }
        Component::Nvrtc => {
            type Version = unsafe extern "C" fn(*mut i32, *mut i32) -> i32;
            // SAFETY: see above.
            let get = unsafe { library.get::<Version>(b"nvrtcVersion") }.map_err(no_symbol)?;
            let (mut major, mut minor) = (0, 0);
            // SAFETY: see above; the pointers are to two i32.
            match unsafe { get(&mut major, &mut minor) } {
                0 => Ok(format!("{major}.{minor}")),
                code => Err(format!("nvrtcVersion failed with {code}")),
            }
        }
        Component::CublasLt => {
            type Version = unsafe extern "C" fn() -> usize;
            // SAFETY: see above.
            let get =
                unsafe { library.get::<Version>(b"cublasLtGetVersion") }.map_err(no_symbol)?;
            // SAFETY: see above.
            let number = unsafe { get() };
            Ok(format!("{}.{}.{}", number / 10_000, number % 10_000 / 100, number % 100))
        }
        Component::Cudnn => {
            type Version = unsafe extern "C" fn() -> usize;
            // SAFETY: see above.
            let get = unsafe { library.get::<Version>(b"cudnnGetVersion") }.map_err(no_symbol)?;
            // SAFETY: see above.
            let number = unsafe { get() };
            Ok(format!("{}.{}.{}", number / 10_000, number % 10_000 / 100, number % 100))
        }
    }
}

/// Folders that no loader searches: those the user names, toolkits, and the folders of Python
/// packages beside the `python3` of the search path and of the active environment.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = process_env(LIBRARY_PATH)
        .map(|path| path.split(':').map(PathBuf::from).collect())
        .unwrap_or_default();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(process_env);
    let toolkits = toolkits.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    folders.extend(toolkits.map(|toolkit| toolkit.join("lib64")));
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(process_env);
    let mut roots: Vec<PathBuf> = environments.map(PathBuf::from).collect();
    let path = process_env("PATH").unwrap_or_default();
    for bin in path.split(':').map(Path::new) {
        if bin.join("python3").exists() {
            roots.extend(bin.parent().map(Path::to_owned));
        }
    }
    for root in roots {
        for python in entries(&root.join("lib")) {
            for packages in ["site-packages", "dist-packages"] {
                for package in entries(&python.join(packages).join("nvidia")) {
                    folders.push(package.join("lib"));
                }
            }
        }
    }
    folders
}

/// What lies in a folder, in order; nothing when it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder);
    let mut entries: Vec<PathBuf> =
        read.map(|read| read.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_advice() {
        for found in libraries() {
            let line = found.to_string();
            assert!(line.starts_with(found.component.name()), "{line}");
            if found.state.is_err() {
                assert!(line.contains("missing: "), "{line}");
            }
        }
        assert_eq!(library(Component::Cudnn).component, Component::Cudnn);
    }
}
