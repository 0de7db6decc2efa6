//! Models by hub name: what a name means, and where the cache keeps its files. Not: downloading
//! (`commands/pull`).

use std::fmt;
use std::path::PathBuf;

use metallic::config::ReadEnv;

use crate::error::{Error, Result};

/// `org/repo`, and a file or quantisation of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubName {
    pub(crate) repo: String,
    pub(crate) wanted: Option<String>,
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            Some(wanted) => write!(f, "{}:{wanted}", self.repo),
            None => f.write_str(&self.repo),
        }
    }
}

impl HubName {
    /// A name, unless `text` can only be a path.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (repo, wanted) = match text.split_once(':') {
            Some((repo, wanted)) => (repo, Some(wanted.to_owned())),
            None => (text, None),
        };
        let (org, name) = repo.split_once('/')?;
        let is_word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let is_file = name.ends_with(".gguf") || wanted.as_deref() == Some("");
        if !is_word(org) || !is_word(name) || is_file {
            return None;
        }
        if wanted.as_deref().is_some_and(|wanted| !wanted.split('/').all(is_word)) {
            return None;
        }
        Some(Self { repo: repo.to_owned(), wanted })
    }

    /// The repository's folder in the cache.
    pub(crate) fn folder(&self, cache: &std::path::Path) -> PathBuf {
        cache.join(format!("models--{}", self.repo.replace('/', "--")))
    }

    /// Where the model lies in the cache, if it does: a GGUF file, or the folder of a model of
    /// several files.
    ///
    /// # Errors
    /// [`Error::NotPulled`] without it; what [`HubName::choose`] says.
    pub(crate) fn locate(&self, cache: &std::path::Path) -> Result<PathBuf> {
        let folder = self.folder(cache);
        let not_pulled = || Error::NotPulled {
            name: self.to_string(),
            folder: folder.join("snapshots").join("main"),
        };
        let commit = std::fs::read_to_string(folder.join("refs/main"));
        let snapshots = folder.join("snapshots");
        let places = [commit.unwrap_or_default().trim().to_owned(), "main".to_owned()];
        let snapshot = places
            .iter()
            .filter(|place| !place.is_empty())
            .map(|place| snapshots.join(place))
            .find(|place| place.is_dir())
            .ok_or_else(not_pulled)?;
        let entries = std::fs::read_dir(&snapshot).map_err(Error::read(&snapshot))?;
        let mut files: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
        files.sort_unstable();
        if let Some(wanted) = self.wanted.as_deref().filter(|wanted| wanted.contains('/')) {
            let file = snapshot.join(wanted);
            return if file.is_file() { Ok(file) } else { Err(not_pulled()) };
        }
        match self.choose(&files) {
            Ok(Choice::File(file)) => Ok(snapshot.join(file)),
            Ok(Choice::Folder(_)) => Ok(snapshot),
            Err(Error::NoSuchFile { .. }) => Err(not_pulled()),
            Err(error) => Err(error),
        }
    }

    /// Which of a repository's files make up the model that is meant.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::SeveralFiles`].
    pub(crate) fn choose(&self, files: &[String]) -> Result<Choice> {
        let ggufs: Vec<&String> = files.iter().filter(|file| file.ends_with(".gguf")).collect();
        let list = |files: &[&String]| {
            files.iter().map(|file| file.as_str()).collect::<Vec<_>>().join(", ")
        };
        let no_such_file = |wanted: &str| Error::NoSuchFile {
            repo: self.repo.clone(),
            wanted: wanted.to_owned(),
            files: list(&files.iter().collect::<Vec<_>>()),
        };
        if let Some(wanted) = &self.wanted {
            if let Some(file) = files.iter().find(|file| *file == wanted) {
                return Ok(Choice::File(file.clone()));
            }
            let matching: Vec<&String> =
                ggufs.into_iter().filter(|file| has_part(file, wanted)).collect();
            return match matching[..] {
                [] => Err(no_such_file(wanted)),
                [file] => Ok(Choice::File(file.clone())),
                _ => Err(Error::SeveralFiles { repo: self.repo.clone(), files: list(&matching) }),
            };
        }
        if let [file] = ggufs[..] {
            return Ok(Choice::File(file.clone()));
        }
        // What llama.cpp takes when nothing is said.
        if let Some(file) = ggufs.iter().find(|file| has_part(file, "Q4_K_M")) {
            return Ok(Choice::File((*file).clone()));
        }
        if !ggufs.is_empty() {
            return Err(Error::SeveralFiles { repo: self.repo.clone(), files: list(&ggufs) });
        }
        let weights = files.iter().any(|file| file.ends_with(".safetensors"));
        if weights && files.iter().any(|file| file == "config.json") {
            let needed = |file: &&String| {
                !file.contains('/')
                    && [".json", ".safetensors", ".jinja"].iter().any(|end| file.ends_with(end))
            };
            return Ok(Choice::Folder(files.iter().filter(needed).cloned().collect()));
        }
        Err(no_such_file("a .gguf file, or config.json with .safetensors"))
    }
}

/// The files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// One GGUF file.
    File(String),
    /// The files of a Hugging Face folder.
    Folder(Vec<String>),
}

/// Whether `wanted` stands in `file` as a whole word: `Q4_K` is no part of `x-Q4_K_M.gguf`.
fn has_part(file: &str, wanted: &str) -> bool {
    let (file, wanted) = (file.to_ascii_lowercase(), wanted.to_ascii_lowercase());
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    file.match_indices(&wanted).any(|(at, _)| {
        let before = file[..at].chars().next_back();
        let after = file[at + wanted.len()..].chars().next();
        !wanted.is_empty() && !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The folder of the hub's cache, shared with other programs.
///
/// # Errors
/// [`Error::NoHome`].
pub(crate) fn cache_folder(env: ReadEnv<'_>) -> Result<PathBuf> {
    if let Some(cache) = env("HF_HUB_CACHE") {
        return Ok(cache.into());
    }
    let home = env("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = env("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".cache")));
        cache.map(|cache| cache.join("huggingface"))
    });
    home.map(|home| home.join("hub")).ok_or(Error::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        let name = HubName::parse("Qwen/Qwen2.5-0.5B-Instruct-GGUF:q4_k_m").unwrap();
        assert_eq!(name.repo, "Qwen/Qwen2.5-0.5B-Instruct-GGUF");
        assert_eq!(name.wanted.as_deref(), Some("q4_k_m"));
        assert!(HubName::parse("org/repo").is_some());
        for path in ["model.gguf", "./a/b", "/a/b", "a/b/c", "a/b.gguf", "../x", "a/", "a/b:../c"] {
            assert_eq!(HubName::parse(path), None, "{path}");
        }
    }

    #[test]
    fn files_are_chosen_by_name_quantisation_or_habit() {
        let files = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let choose =
            |name: &str, names: &[&str]| HubName::parse(name).unwrap().choose(&files(names));
        let two = ["README.md", "m-q4_k.gguf", "m-q4_k_m.gguf"];
        let file = |name: &str| Choice::File(name.to_owned());
        assert_eq!(choose("a/b", &two).unwrap(), file("m-q4_k_m.gguf"));
        assert_eq!(choose("a/b:Q4_K", &two).unwrap(), file("m-q4_k.gguf"));
        assert_eq!(choose("a/b:m-q4_k.gguf", &two).unwrap(), file("m-q4_k.gguf"));
        assert!(matches!(choose("a/b:q8_0", &two), Err(Error::NoSuchFile { .. })));
        let several = ["m-q8_0.gguf", "m-f16.gguf"];
        assert!(matches!(choose("a/b", &several), Err(Error::SeveralFiles { .. })));
        let folder = ["config.json", "model.safetensors", "README.md", "onnx/model.json"];
        let expected = Choice::Folder(files(&["config.json", "model.safetensors"]));
        assert_eq!(choose("a/b", &folder).unwrap(), expected);
        assert!(choose("a/b", &["README.md"]).is_err());
    }

    #[test]
    fn the_cache_is_where_others_keep_it() {
        let at = |set: &[(&str, &str)]| {
            let find = |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            cache_folder(&find).map(|path| path.display().to_string()).unwrap_or_default()
        };
        assert_eq!(at(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(at(&[("HF_HOME", "/x"), ("HOME", "/h")]), "/x/hub");
        assert_eq!(at(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/x")]), "/c");
        assert_eq!(at(&[]), "");
    }
}
