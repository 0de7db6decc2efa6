//! Plans on disk, as cuDNN describes them. What is damaged or of another version is a miss.

use std::path::PathBuf;

use metallic::config::{cache_dir, process_env};
use sha2::{Digest, Sha256};

use super::attention::Geometry;
use crate::cuda::compile::{read_cached, write_cached};

/// Changes when the operations of a geometry do.
const LAYOUT: u32 = 1;

/// The plans of one library version on one chip.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// What plans depend on besides the geometry.
    of: String,
}

impl Store {
    /// The store for cuDNN `version` on a chip of `multiprocessors` multiprocessors; `None` without
    /// a cache directory.
    pub(super) fn new(version: &str, arch: &str, multiprocessors: u32) -> Option<Self> {
        let folder = cache_dir(&process_env)?.join("cuda/cudnn");
        Some(Self { folder, of: format!("{LAYOUT} {version} {arch} {multiprocessors}") })
    }

    fn file(&self, geometry: &Geometry) -> PathBuf {
        let key = format!("{} {geometry:?}", self.of);
        let hash = Sha256::digest(key.as_bytes());
        let name: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("sdpa-{name}.plan"))
    }

    /// The plan of `geometry`, if it was written before.
    pub(super) fn read(&self, geometry: &Geometry) -> Option<Vec<u8>> {
        read_cached(&self.file(geometry))
    }

    /// Writes the plan of `geometry` for later runs.
    pub(super) fn write(&self, geometry: &Geometry, plan: &[u8]) {
        let file = self.file(geometry);
        if let Err(reason) = write_cached(&file, plan) {
            tracing::warn!(file = %file.display(), %reason, "a plan of cuDNN cannot be stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::Element;
    use super::*;

    #[test]
    fn a_plan_is_found_for_its_geometry_and_version_alone() {
        let folder = std::env::temp_dir().join(format!("metallic-plans-{}", std::process::id()));
        let geometry = Geometry {
            element: Element::F16,
            batch: 1,
            q_heads: 2,
            kv_heads: 1,
            q_len: 1,
            kv_len: 128,
            head_dim: 64,
            v_dim: 64,
            q: [128, 64, 64],
            k: [8192, 8192, 64],
            v: [8192, 8192, 64],
            out: [128, 64, 64],
            causal: false,
            left: None,
            lengths: true,
            bias: None,
        };
        let store = |of: &str| Store { folder: folder.clone(), of: of.to_owned() };
        store("9.19").write(&geometry, b"{}");
        assert_eq!(store("9.19").read(&geometry).unwrap(), b"{}");
        assert_eq!(store("9.20").read(&geometry), None);
        assert_eq!(store("9.19").read(&Geometry { causal: true, ..geometry.clone() }), None);
        std::fs::write(store("9.19").file(&geometry), b"MTLCUB01 and no plan").unwrap();
        assert_eq!(store("9.19").read(&geometry), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
