//! `metallic pull`: downloads a model into the hub's cache, with a progress bar and resumption.
//!
//! Downloads go to a partial file beside their place, so that an interrupted one goes on where it
//! ended. A file whose name in the cache is a SHA-256 is checked against it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::Cache;
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use indicatif::{ProgressBar, ProgressDrawTarget};
use metallic::config::process_env;
use sha2::{Digest, Sha256};

use crate::args::PullArgs;
use crate::error::{Error, Result};
use crate::hub::{self, Choice, HubName};
use crate::output::note;
use crate::progress;

/// Attempts after a failed one.
const RETRIES: usize = 3;

/// Downloads what a name means and prints where it is.
///
/// # Errors
/// No hub name; no such file; no network, with the place where the file belongs.
pub(super) fn run(args: &PullArgs) -> Result<()> {
    let name =
        HubName::parse(&args.name).ok_or_else(|| Error::NotAHubName { name: args.name.clone() })?;
    let cache = hub::cache_folder(&process_env)?;
    let pull = Pull { name: &name, cache: &cache, quiet: args.quiet };
    let repo = pull.api()?.model(name.repo.clone());
    let info = repo.info().map_err(|error| pull.failed(None, &error))?;
    let mut files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    // Names become paths below the cache.
    files.retain(|file| file.split('/').all(|part| !matches!(part, "" | "." | "..")));
    let path = match name.choose(&files)? {
        Choice::File(file) => pull.file(&repo, &file)?,
        Choice::Folder(files) => {
            let mut folder = PathBuf::new();
            for file in files {
                let path = pull.file(&repo, &file)?;
                folder = path.parent().map(Path::to_owned).unwrap_or_default();
            }
            folder
        }
    };
    if args.quiet {
        writeln!(io::stdout(), "{}", path.display())?;
    } else {
        note!("{name} is at {}", path.display());
        note!("run it: metallic run -m {name} -p \"Once upon a time\"");
    }
    Ok(())
}

struct Pull<'a> {
    name: &'a HubName,
    cache: &'a Path,
    quiet: bool,
}

impl Pull<'_> {
    fn api(&self) -> Result<Api> {
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.to_owned()))
            .with_progress(false)
            .with_retries(RETRIES);
        if let Some(endpoint) = process_env("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if let Some(token) = process_env("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        builder.build().map_err(|error| self.failed(None, &error))
    }

    /// Downloads one file unless the cache has it.
    fn file(&self, repo: &ApiRepo, file: &str) -> Result<PathBuf> {
        let cached = Cache::new(self.cache.to_owned()).model(self.name.repo.clone()).get(file);
        if let Some(path) = cached {
            if !self.quiet {
                note!("{file} is there already");
            }
            return Ok(path);
        }
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        let path = repo
            .download_with_progress(file, Bar(bar))
            .map_err(|error| self.failed(Some(file), &error))?;
        verify(&path)?;
        Ok(path)
    }

    fn failed(&self, file: Option<&str>, error: &dyn std::error::Error) -> Error {
        let wanted = self.name.wanted.as_deref().filter(|wanted| wanted.ends_with(".gguf"));
        let file = file.or(wanted).unwrap_or("the model's .gguf file");
        let place = self.name.folder(self.cache).join("snapshots").join("main");
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = inner.source();
        }
        let place = if file.contains(' ') { place } else { place.join(file) };
        Error::Download { repo: self.name.repo.clone(), file: file.to_owned(), reason, place }
    }
}

/// Compares a file with its SHA-256, if its name in the cache (the server's ETag) is one.
fn verify(path: &Path) -> Result<()> {
    let blob = std::fs::canonicalize(path).map_err(Error::read(path))?;
    let name = blob.file_name().map(|name| name.to_string_lossy().into_owned());
    let is_hash = |name: &String| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let Some(expected) = name.filter(is_hash) else { return Ok(()) };
    let mut file = File::open(&blob).map_err(Error::read(&blob))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut chunk).map_err(Error::read(&blob))?;
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
    }
    let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if hash == expected.to_ascii_lowercase() {
        return Ok(());
    }
    for damaged in [&blob, path] {
        // What cannot be removed is at least named.
        let _ = std::fs::remove_file(damaged);
    }
    Err(Error::WrongHash { path: path.to_owned(), expected })
}

/// The progress bar, as the hub's crate wants it.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn init(&mut self, size: usize, filename: &str) {
        self.0.set_style(progress::style());
        if !self.0.is_hidden() {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
        // Every attempt begins with what is there already.
        self.0.set_position(0);
        self.0.set_length(size as u64);
        self.0.set_message(filename.to_owned());
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_by_its_hash_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        // SHA-256 of "abc" (FIPS 180-2, appendix B.1).
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let path = dir.path().join(hash);
        std::fs::write(&path, "abc").unwrap();
        verify(&path).unwrap();
        std::fs::write(&path, "abd").unwrap();
        let error = verify(&path).unwrap_err();
        assert!(error.to_string().contains("pull again"), "{error}");
        assert!(!path.exists());
        let other = dir.path().join("model.gguf");
        std::fs::write(&other, "anything").unwrap();
        verify(&other).unwrap();
    }
}
