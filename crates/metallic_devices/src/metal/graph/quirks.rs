//! What is known to be wrong with MPSGraph, by system and GPU.
//!
//! One line a fault, with its source. A fault that a Mac disproves goes; one that a Mac shows
//! (`metallic probe`, `metallic parity`) comes here with its build.

use super::platform::Platform;

/// A fault that the executor works around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The attention op does not exist.
    NoNativeSdpa,
    /// The attention op must not be given f32.
    NativeSdpaLeaksF32,
    /// A product that sums over 32767 or more elements reads past its operands.
    LongSums,
    /// An array cannot begin inside a buffer, nor have strides.
    NoViews,
    /// There is no bf16.
    NoBf16,
    /// There is no dequantisation by groups.
    NoGroupedWeights,
    /// A part of a tensor cannot be replaced at a position that is data.
    NoSliceUpdate,
}

/// Where a fault lies.
struct Quirk {
    fault: Fault,
    /// Whether a platform has it.
    on: fn(&Platform) -> bool,
    /// What is wrong, in words.
    what: &'static str,
}

const QUIRKS: [Quirk; 7] = [
    Quirk {
        fault: Fault::NoNativeSdpa,
        on: |platform| !platform.at_least(15),
        // MPSGraphMatrixMultiplicationOps.h: macos(15.0).
        what: "the attention op of MPSGraph begins with macOS 15",
    },
    Quirk {
        fault: Fault::NativeSdpaLeaksF32,
        on: |platform| platform.version.0 == 15,
        // pytorch#152344; pytorch#152371 avoids it by breaking the pattern.
        what: "the f32 attention op of macOS 15 leaks memory (pytorch#152344)",
    },
    Quirk {
        fault: Fault::LongSums,
        on: |platform| platform.apple_family.is_none_or(|family| family <= 8),
        // pytorch#183535, pytorch#195012: M1 and M2. An unknown GPU counts as one.
        what: "products over 32767 and more elements are wrong on M1 and M2 (pytorch#195012)",
    },
    Quirk {
        fault: Fault::NoViews,
        on: |platform| !platform.at_least(15),
        // MPSNDArray.h: initWithBuffer:offset:descriptor: and arrayViewWithShape:strides:.
        what: "arrays inside a buffer begin with macOS 15",
    },
    Quirk {
        fault: Fault::NoBf16,
        on: |platform| !platform.at_least(14),
        // MPSCoreTypes.h: MPSDataTypeBFloat16, macos(14.0).
        what: "bf16 begins with macOS 14",
    },
    Quirk {
        fault: Fault::NoGroupedWeights,
        on: |platform| !platform.at_least(15),
        // MPSGraphQuantizationOps.h: macos(15.0).
        what: "dequantisation by groups begins with macOS 15",
    },
    Quirk {
        fault: Fault::NoSliceUpdate,
        on: |platform| !platform.at_least(15),
        // MPSGraphTensorShapeOps.h: sliceUpdateDataTensor without masks, macos(15.0).
        what: "writing new rows into a cache inside a graph begins with macOS 15",
    },
];

/// What `fault` is in words, where `platform` has it.
pub(crate) fn has(platform: &Platform, fault: Fault) -> Option<&'static str> {
    QUIRKS.iter().find(|quirk| quirk.fault == fault && (quirk.on)(platform)).map(|quirk| quirk.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(version: (u32, u32), family: Option<u32>) -> Platform {
        let (build, chip) = ("24A1".to_owned(), "Apple".to_owned());
        Platform { version, build, chip, apple_family: family }
    }

    #[test]
    fn faults_lie_where_their_sources_say() {
        let (m1, m3) = (Some(7), Some(9));
        assert!(has(&platform((14, 4), m3), Fault::NoNativeSdpa).is_some());
        assert_eq!(has(&platform((15, 0), m3), Fault::NoNativeSdpa), None);
        assert!(has(&platform((15, 3), m3), Fault::NativeSdpaLeaksF32).is_some());
        assert_eq!(has(&platform((26, 0), m3), Fault::NativeSdpaLeaksF32), None);
        assert!(has(&platform((26, 0), m1), Fault::LongSums).is_some());
        assert!(has(&platform((26, 0), None), Fault::LongSums).is_some());
        assert_eq!(has(&platform((26, 0), m3), Fault::LongSums), None);
        assert!(has(&platform((0, 0), m3), Fault::NoBf16).is_some());
        assert!(has(&platform((14, 7), m3), Fault::NoSliceUpdate).is_some());
        assert_eq!(has(&platform((15, 0), m3), Fault::NoSliceUpdate), None);
    }
}
