//! Kernel source to machine code: NVRTC, and the disk cache before it.
//!
//! A cached file is named by the hash of everything its contents depend on: the source with its
//! headers, the architecture, the flags and NVRTC's version (without NVRTC: any version). It is
//! written aside and moved into place, and starts with the hash of the code, so a torn or damaged
//! file is a miss.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};
use metallic::Error;
use metallic::config::{ReadEnv, cache_dir, process_env};
use sha2::{Digest, Sha256};

use super::libraries::{Component, library};
use super::sources::{HEADERS, SOURCES, Source};

/// First bytes of a cached file; the version changes with its layout.
const MAGIC: &[u8; 8] = b"MTLCUB01";
/// Bytes of a hash.
const HASH: usize = 32;

/// What to compile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The kernel's file.
    pub source: &'static Source,
    /// Definitions, as `-DROWS=1 -DWEIGHT=2`; one of the file's own variants.
    pub variant: &'a str,
    /// As `sm_90a`.
    pub arch: &'a str,
}

impl Request<'_> {
    /// NVRTC's options.
    fn options(&self) -> Vec<String> {
        let mut options =
            vec![format!("--gpu-architecture={}", self.arch), "--std=c++17".to_owned()];
        options.extend(self.variant.split_whitespace().map(str::to_owned));
        options
    }

    /// The name of the cached file for a compiler of `version`.
    fn file_name(&self, version: &str) -> String {
        let mut hasher = Sha256::new();
        let mut add = |part: &str| {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(version);
        add(self.source.name);
        add(self.source.text);
        HEADERS.iter().for_each(|(name, text)| {
            add(name);
            add(text);
        });
        self.options().iter().for_each(|option| add(option));
        let hash: String = hasher.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect();
        format!("{}-{}-{hash}.cubin", self.source.name, self.arch)
    }
}

/// Machine code, and where it came from.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The module's image.
    pub image: Vec<u8>,
    /// Whether it was in the disk cache.
    pub cached: bool,
}

/// The machine code of `request`, from the disk cache or compiled and put there.
///
/// # Errors
/// [`Error::Compile`] with the compiler's words, or what to install when there is no compiler.
pub(crate) fn compile(request: Request<'_>) -> Result<Compiled, Error> {
    let folder = cache_folder(&process_env);
    let nvrtc = &library(Component::Nvrtc).state;
    let version = nvrtc.as_ref().map_or("", |presence| &presence.version);
    let file = folder.as_ref().map(|folder| folder.join(request.file_name(version)));
    if let Some(image) = file.as_deref().and_then(read_cached) {
        return Ok(Compiled { image, cached: true });
    }
    if let Err(reason) = nvrtc {
        return Err(error(request, format!("no compiler: {reason}")));
    }
    let image = run_nvrtc(request).map_err(|reason| error(request, reason))?;
    if let Some(file) = file
        && let Err(reason) = write_cached(&file, &image)
    {
        tracing::warn!(file = %file.display(), %reason, "the kernel cache cannot be written");
    }
    Ok(Compiled { image, cached: false })
}

/// Compiles every variant of every file made for `arch` into the disk cache; needs no GPU. `each`
/// hears of each with whether it was there. Gives how many were there and how many were compiled.
///
/// # Errors
/// [`Error::Compile`] for the first that does not compile.
pub fn prewarm(arch: &str, each: &mut dyn FnMut(&str, bool)) -> Result<(usize, usize), Error> {
    let (mut cached, mut compiled) = (0, 0);
    for source in SOURCES.iter().filter(|source| source.runs_on(arch)) {
        for variant in source.variants() {
            let done = compile(Request { source, variant, arch })?;
            if done.cached {
                cached += 1
            } else {
                compiled += 1
            }
            each(format!("{}.cu {variant}", source.name).trim_end(), done.cached);
        }
    }
    Ok((cached, compiled))
}

fn error(request: Request<'_>, reason: String) -> Error {
    let Request { source, variant, arch } = request;
    let key = format!("{}.cu {variant} for {arch}", source.name);
    Error::Compile { key, reason }
}

/// Where compiled kernels are kept: in the folder of every other cache; `None` without one.
fn cache_folder(env: ReadEnv<'_>) -> Option<PathBuf> {
    Some(cache_dir(env)?.join("cuda"))
}

/// What was written to `file` by [`write_cached`]; `None` when it is absent or damaged.
pub(crate) fn read_cached(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (hash, image) = rest.split_at_checked(HASH)?;
    (Sha256::digest(image).as_slice() == hash).then(|| image.to_vec())
}

/// Writes `image` aside and moves it into place.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write_cached(file: &Path, image: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let aside = file.with_extension(format!("{}.tmp", std::process::id()));
    let contents = [MAGIC.as_slice(), Sha256::digest(image).as_slice(), image].concat();
    std::fs::write(&aside, contents)?;
    std::fs::rename(&aside, file)
}

/// A program, destroyed when dropped.
struct Program(nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `nvrtcCreateProgram`, destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// Compiles; the library was found before.
fn run_nvrtc(request: Request<'_>) -> Result<Vec<u8>, String> {
    let c_string = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
    let (text, name) = (c_string(request.source.text)?, c_string(request.source.name)?);
    let names = HEADERS.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let texts = HEADERS.iter().map(|(_, text)| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    let (header_names, header_texts) = (pointers(&names), pointers(&texts));
    let mut program = Program(std::ptr::null_mut());
    // SAFETY: all strings end with a zero byte and live beyond the call.
    check("nvrtcCreateProgram", unsafe {
        sys::nvrtcCreateProgram(
            &mut program.0,
            text.as_ptr(),
            name.as_ptr(),
            header_texts.len() as i32,
            header_texts.as_ptr(),
            header_names.as_ptr(),
        )
    })?;
    let options =
        request.options().iter().map(|option| c_string(option)).collect::<Result<Vec<_>, _>>()?;
    let option_pointers = pointers(&options);
    // SAFETY: the program was made above; the options live beyond the call.
    let compiled = check("nvrtcCompileProgram", unsafe {
        sys::nvrtcCompileProgram(program.0, option_pointers.len() as i32, option_pointers.as_ptr())
    });
    compiled.map_err(|error| format!("{error}\n{}", log(&program)))?;
    let mut size = 0;
    // SAFETY: the program was compiled for a real architecture, so it has machine code.
    check("nvrtcGetCUBINSize", unsafe { sys::nvrtcGetCUBINSize(program.0, &mut size) })?;
    let mut image = vec![0u8; size];
    // SAFETY: the buffer has the size that was asked for.
    check("nvrtcGetCUBIN", unsafe {
        sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast::<c_char>())
    })?;
    Ok(image)
}

/// What the compiler printed.
fn log(program: &Program) -> String {
    let mut size = 0;
    // SAFETY: the program is alive.
    if unsafe { sys::nvrtcGetProgramLogSize(program.0, &mut size) } != nvrtcResult::NVRTC_SUCCESS {
        return String::new();
    }
    let mut text = vec![0u8; size.max(1)];
    // SAFETY: the buffer has the size that was asked for.
    unsafe { sys::nvrtcGetProgramLog(program.0, text.as_mut_ptr().cast::<c_char>()) };
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    text.to_string_lossy().trim().to_owned()
}

fn check(what: &str, result: nvrtcResult) -> Result<(), String> {
    match result {
        nvrtcResult::NVRTC_SUCCESS => Ok(()),
        code => Err(format!("{what} failed with {code:?}")),
    }
}

#[cfg(test)]
mod tests {
    use metallic::config::CACHE_DIR;

    use super::*;

    #[test]
    fn damaged_files_are_misses() {
        let folder = std::env::temp_dir().join(format!("metallic-cubin-{}", std::process::id()));
        let file = folder.join("kernel.cubin");
        write_cached(&file, b"machine code").unwrap();
        assert_eq!(read_cached(&file).unwrap(), b"machine code");
        let whole = std::fs::read(&file).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..20], &[], &whole[1..]] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(read_cached(&file), None);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn kernels_lie_where_every_cache_does() {
        let env = |name: &str| match name {
            CACHE_DIR => Some("/mine".to_owned()),
            "HOME" => Some("/home".to_owned()),
            _ => None,
        };
        assert_eq!(cache_folder(&env), Some(PathBuf::from("/mine/cuda")));
        let home = |name: &str| (name == "HOME").then(|| "/home".to_owned());
        assert_eq!(cache_folder(&home), Some(PathBuf::from("/home/.cache/metallic/cuda")));
        assert_eq!(cache_folder(&|_| None), None);
    }

    #[test]
    fn everything_that_matters_is_in_the_name() {
        let source = &SOURCES[0];
        let request = Request { source, variant: "", arch: "sm_80" };
        let names = [
            request.file_name("13.0"),
            request.file_name("13.1"),
            Request { arch: "sm_90a", ..request }.file_name("13.0"),
            Request { variant: "-DROWS=1", ..request }.file_name("13.0"),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
    }
}
