//! The kernels' files, embedded, with the variants each is compiled in.
//!
//! A file names its own variants in comment lines, `// variant: -DROWS=1`, and the architectures it
//! needs where it does not run on all, `// arch: sm_90a`. `metallic prewarm`, `scripts/check-cuda`
//! and the kernels that ask for a variant all read the same lines. A file with `// variant: any` is
//! made to order for each call class; its other variant lines are those of common models.

/// A kernel's file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its name without `.cu`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! source {
    ($name:literal) => {
        Source { name: $name, text: include_str!(concat!("kernels/", $name, ".cu")) }
    };
}

macro_rules! header {
    ($name:literal) => {
        ($name, include_str!(concat!("kernels/", $name)))
    };
}

/// What kernels include, as (name, text).
pub(crate) const HEADERS: &[(&str, &str)] = &[
    header!("blocks.cuh"),
    header!("blocks_i8.cuh"),
    header!("early.cuh"),
    header!("numbers.cuh"),
    header!("order.cuh"),
    header!("persistent.cuh"),
    header!("persistent_asm.cuh"),
    header!("persistent_attention.cuh"),
    header!("persistent_draw.cuh"),
    header!("persistent_pick.cuh"),
    header!("persistent_products.cuh"),
    header!("persistent_ring.cuh"),
    header!("sdpa_common.cuh"),
    header!("sdpa_hopper.cuh"),
    header!("sdpa_wgmma.cuh"),
    header!("segment.cuh"),
];

/// Every kernel's file, one line each.
pub(crate) static SOURCES: &[Source] = &[
    source!("add"),
    source!("convert"),
    source!("embedding"),
    source!("gemv"),
    source!("gemv_i8"),
    source!("kv_append"),
    source!("many_rows"),
    source!("persistent"),
    source!("rms_norm"),
    source!("rope"),
    source!("sdpa_any"),
    source!("sdpa_composed"),
    source!("sdpa_decode"),
    source!("sdpa_exact"),
    source!("sdpa_lengths"),
    source!("sdpa_prefill"),
    source!("sdpa_prefill_sm90"),
    source!("sdpa_repair"),
    source!("segment"),
    source!("segment_i8"),
    source!("swiglu"),
    source!("top_k"),
];

impl Source {
    /// The file of that name, without `.cu`.
    ///
    /// # Panics
    /// When there is none: names are constants of this crate.
    pub(crate) fn named(name: &str) -> &'static Source {
        SOURCES
            .iter()
            .find(|source| source.name == name)
            .expect("kernels ask for files of this crate")
    }

    /// The variants the file names; one empty one when it names none.
    pub(crate) fn variants(&self) -> impl Iterator<Item = &'static str> {
        let text = self.text;
        let none = !text.lines().any(|line| line.starts_with(VARIANT));
        let named = self.named_variants().filter(|variant| *variant != ANY);
        named.chain(none.then_some(""))
    }

    /// Whether the file can be asked for in `variant`.
    pub(crate) fn takes(&self, variant: &str) -> bool {
        self.named_variants().any(|known| known == ANY) || self.variants().any(|v| v == variant)
    }

    fn named_variants(&self) -> impl Iterator<Item = &'static str> {
        self.text.lines().filter_map(|line| line.strip_prefix(VARIANT)).map(str::trim)
    }

    /// Whether the file is made for `arch`.
    pub(crate) fn runs_on(&self, arch: &str) -> bool {
        let wanted = self.text.lines().find_map(|line| line.strip_prefix(ARCH));
        wanted.is_none_or(|wanted| wanted.split_whitespace().any(|wanted| wanted == arch))
    }
}

const VARIANT: &str = "// variant:";
const ANY: &str = "any";
const ARCH: &str = "// arch:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_file_is_listed() {
        let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/kernels");
        let mut files: Vec<String> = std::fs::read_dir(kernels)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let sources = SOURCES.iter().map(|source| format!("{}.cu", source.name));
        let headers = HEADERS.iter().map(|(name, _)| (*name).to_owned());
        let mut listed: Vec<String> = sources.chain(headers).collect();
        listed.sort();
        assert_eq!(files, listed);
    }

    #[test]
    fn lines_of_a_file_name_its_variants() {
        let source = Source { name: "x", text: "// variant: -DA=1\n// arch: sm_90a sm_100a\n" };
        assert_eq!(source.variants().collect::<Vec<_>>(), ["-DA=1"]);
        assert!(source.runs_on("sm_90a") && !source.runs_on("sm_80"));
        let plain = Source { name: "y", text: "" };
        assert_eq!(plain.variants().collect::<Vec<_>>(), [""]);
        assert!(plain.takes("") && !plain.takes("-DA=1"));
        let made = Source { name: "z", text: "// variant: any\n// variant: -DA=1\n" };
        assert_eq!(made.variants().collect::<Vec<_>>(), ["-DA=1"]);
        assert!(made.takes("-DA=2"));
        assert!(plain.runs_on("sm_80"));
    }
}
