//! Compiled executables on disk, so that a program need not compile what another run compiled.
//!
//! One folder an executable: MPSGraph's package, and a manifest with the whole key, the order of
//! feeds and results (a loaded executable does not know our tensors any more), and a checksum of
//! the package. A folder appears at once, by renaming; whatever is wrong with one makes it a
//! miss, and it goes. The key holds the system's build: packages outlive no update.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use objc2::rc::{Allocated, Retained};
use objc2::{AnyThread, msg_send};
use objc2_foundation::{NSString, NSURL};
use objc2_metal_performance_shaders_graph::{
    MPSGraphDeploymentPlatform, MPSGraphExecutable, MPSGraphExecutableSerializationDescriptor,
    MPSGraphOptimization,
};

use super::compile::descriptor;
use super::platform::Platform;

/// Version of the manifest, and of how graphs are lowered: a change of either makes all packages
/// misses.
const FORMAT: &str = "metallic package 1";
/// Packages kept.
const MAX_PACKAGES: usize = 256;
/// Bytes of packages kept.
const MAX_BYTES: u64 = 1 << 30;

const PACKAGE: &str = "graph.mpsgraphpackage";
const MANIFEST: &str = "manifest";

/// What the name of a folder begins with while it is written.
const MAKING: &str = ".making-";
/// How old such a folder is when nobody writes it any more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The packages of one platform.
pub(super) struct Packages {
    dir: PathBuf,
    minimum_target: String,
    macos_26: bool,
}

/// The places of feeds and results in the order in which they were made, in the executable's
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
}

impl Packages {
    /// Packages under `dir`; none on systems that cannot write them.
    pub(super) fn new(dir: PathBuf, platform: &Platform) -> Option<Self> {
        // MPSGraphExecutable.h: serialisation, macos(14.0).
        let (major, minor) = platform.version;
        platform.at_least(14).then(|| Self {
            dir,
            minimum_target: format!("{major}.{minor}.0"),
            macos_26: platform.at_least(26),
        })
    }

    fn folder(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{:016x}", fnv(key.bytes(), FNV_OFFSET)))
    }

    /// The executable of `key`, where a whole and matching package is there.
    pub(super) fn load(&self, key: &str) -> Option<(Retained<MPSGraphExecutable>, Order)> {
        let folder = self.folder(key);
        let loaded = read_manifest(&folder, key).and_then(|order| {
            let executable = self.read(&folder.join(PACKAGE))?;
            Some((executable, order))
        });
        if loaded.is_none() && folder.exists() {
            tracing::warn!(folder = %folder.display(), "a package that cannot be used goes");
            discard(&folder);
        }
        if loaded.is_some() {
            // What was used last goes last. A cache that cannot be written to still reads.
            let now = SystemTime::now();
            let manifest = fs::File::options().append(true).open(folder.join(MANIFEST));
            let _ = manifest.and_then(|file| file.set_modified(now));
        }
        loaded
    }

    fn read(&self, package: &Path) -> Option<Retained<MPSGraphExecutable>> {
        let url = url(package)?;
        let descriptor = descriptor(MPSGraphOptimization::Level0, self.macos_26);
        let executable: Allocated<MPSGraphExecutable> = MPSGraphExecutable::alloc();
        // SAFETY: the selector and the types are those of the bindings, which call the result
        // non-null where Apple's documentation says nil for a package that cannot be read.
        unsafe {
            msg_send![
                executable,
                initWithMPSGraphPackageAtURL: &*url,
                compilationDescriptor: &*descriptor
            ]
        }
    }

    /// Keeps `executable`. That it could not be kept is logged and no failure: it runs as well.
    pub(super) fn save(&self, key: &str, executable: &MPSGraphExecutable, order: &Order) {
        if let Err(error) = self.write(key, executable, order) {
            tracing::warn!(%error, dir = %self.dir.display(), "a package could not be kept");
        }
    }

    fn write(&self, key: &str, executable: &MPSGraphExecutable, order: &Order) -> io::Result<()> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let making = self.dir.join(format!("{MAKING}{}-{count}", std::process::id()));
        fs::create_dir_all(&making)?;
        let written = self.write_into(&making, key, executable, order);
        let written = written.and_then(|()| match fs::rename(&making, self.folder(key)) {
            // Another process was first: its package is as good.
            Err(_) if self.folder(key).exists() => fs::remove_dir_all(&making),
            moved => moved,
        });
        if written.is_err() {
            discard(&making);
        }
        written?;
        self.prune()
    }

    fn write_into(
        &self,
        folder: &Path,
        key: &str,
        executable: &MPSGraphExecutable,
        order: &Order,
    ) -> io::Result<()> {
        let package = folder.join(PACKAGE);
        let url = url(&package).ok_or_else(|| io::Error::other("a path that is no UTF-8"))?;
        // SAFETY: setters of plain values; the path is one that can be written.
        unsafe {
            let descriptor = MPSGraphExecutableSerializationDescriptor::new();
            descriptor.setAppend(false);
            descriptor.setDeploymentPlatform(MPSGraphDeploymentPlatform::MacOS);
            descriptor.setMinimumDeploymentTarget(&NSString::from_str(&self.minimum_target));
            executable.serializeToMPSGraphPackageAtURL_descriptor(&url, Some(&descriptor));
        }
        // The call returns nothing: whether it wrote is seen by looking.
        let sum = checksum(&package)?;
        let numbers =
            |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        let (inputs, outputs) = (numbers(&order.inputs), numbers(&order.outputs));
        let text = format!("{FORMAT}\n{inputs}\n{outputs}\n{sum:016x}\n{key}");
        fs::write(folder.join(MANIFEST), text)
    }

    /// Removes packages until the limits hold, those unused for longest first, and what processes
    /// left that ended while they wrote.
    fn prune(&self) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let folder = entry.path();
            if entry.file_name().to_string_lossy().starts_with(MAKING) {
                // Another process may have moved it by now.
                let changed = fs::metadata(&folder).and_then(|metadata| metadata.modified());
                let age = changed.ok().and_then(|changed| changed.elapsed().ok());
                if age.is_some_and(|age| age > ABANDONED) {
                    discard(&folder);
                }
            } else if let Ok(manifest) = fs::metadata(folder.join(MANIFEST)) {
                let bytes = size(&folder.join(PACKAGE))?;
                kept.push((manifest.modified()?, bytes, folder));
            }
        }
        kept.sort();
        let mut bytes: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        let mut count = kept.len();
        for (_, size, folder) in kept {
            if count <= MAX_PACKAGES && bytes <= MAX_BYTES {
                break;
            }
            discard(&folder);
            (count, bytes) = (count - 1, bytes - size);
        }
        Ok(())
    }
}

/// The order in a manifest that belongs to `key` and to an undamaged package.
fn read_manifest(folder: &Path, key: &str) -> Option<Order> {
    let text = fs::read_to_string(folder.join(MANIFEST)).ok()?;
    let mut parts = text.splitn(5, '\n');
    let mut line = || parts.next();
    if line()? != FORMAT {
        return None;
    }
    let numbers = |line: &str| line.split_whitespace().map(|number| number.parse().ok()).collect();
    let inputs: Option<Vec<usize>> = numbers(line()?);
    let outputs: Option<Vec<usize>> = numbers(line()?);
    let order = Order { inputs: inputs?, outputs: outputs? };
    let sum = u64::from_str_radix(line()?, 16).ok()?;
    let same = line()? == key && checksum(&folder.join(PACKAGE)).ok()? == sum;
    same.then_some(order)
}

fn url(path: &Path) -> Option<Retained<NSURL>> {
    Some(NSURL::fileURLWithPath(&NSString::from_str(path.to_str()?)))
}

fn discard(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(%error, folder = %folder.display(), "cannot be removed");
    }
}

/// FNV-1a, 64 bits: its first value.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a goes on over `bytes`.
fn fnv(bytes: impl IntoIterator<Item = u8>, start: u64) -> u64 {
    bytes
        .into_iter()
        .fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A checksum of a file, or of a folder with everything in it.
fn checksum(path: &Path) -> io::Result<u64> {
    let mut sum = FNV_OFFSET;
    walk(path, &mut |path, is_file| {
        let name = path.file_name().unwrap_or_default();
        sum = fnv(name.to_string_lossy().bytes(), sum);
        if is_file {
            sum = fnv(fs::read(path)?, sum);
        }
        Ok(())
    })?;
    Ok(sum)
}

fn size(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    walk(path, &mut |path, is_file| {
        if is_file {
            bytes += fs::metadata(path)?.len();
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Visits `path` and everything in it, in the order of names.
fn walk(path: &Path, visit: &mut dyn FnMut(&Path, bool) -> io::Result<()>) -> io::Result<()> {
    let is_file = fs::metadata(path)?.is_file();
    visit(path, is_file)?;
    if is_file {
        return Ok(());
    }
    let entries: io::Result<Vec<PathBuf>> =
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut entries = entries?;
    entries.sort();
    entries.iter().try_for_each(|entry| walk(entry, visit))
}

#[cfg(test)]
mod tests;
