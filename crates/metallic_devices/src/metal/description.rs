//! Which GPU this is, and under which system: for people, caches and tables of known faults.

use std::fmt;

use objc2::rc::autoreleasepool;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSProcessInfo;
use objc2_metal::{MTLDevice, MTLGPUFamily};

/// Families of Apple's own GPUs, newest first: Apple7 is M1, Apple8 M2, Apple9 M3 and M4.
const FAMILIES: [(MTLGPUFamily, u32); 4] = [
    (MTLGPUFamily::Apple10, 10),
    (MTLGPUFamily::Apple9, 9),
    (MTLGPUFamily::Apple8, 8),
    (MTLGPUFamily::Apple7, 7),
];

/// What tells GPUs and systems apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The GPU's name, as `Apple M2 Pro`.
    pub(crate) name: String,
    /// The newest family of Apple's GPUs that it belongs to; `None` for older or foreign ones.
    pub(crate) apple_family: Option<u32>,
    /// Bytes that may be resident together; 0 where the device does not say.
    pub(crate) working_set: u64,
    /// The system, as `Version 15.1 (Build 24B83)`.
    pub(crate) os: String,
}

impl Identity {
    /// Asks `device` and the process.
    pub(crate) fn of(device: &ProtocolObject<dyn MTLDevice>) -> Self {
        autoreleasepool(|_| {
            let family = FAMILIES.into_iter().find(|(family, _)| device.supportsFamily(*family));
            Self {
                name: device.name().to_string(),
                apple_family: family.map(|(_, number)| number),
                working_set: device.recommendedMaxWorkingSetSize(),
                os: NSProcessInfo::processInfo().operatingSystemVersionString().to_string(),
            }
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, apple_family, working_set, os } = self;
        write!(f, "{name}")?;
        if let Some(family) = apple_family {
            write!(f, ", family Apple{family}")?;
        }
        if *working_set > 0 {
            write!(f, ", {:.1} GiB for the GPU", *working_set as f64 / f64::from(1 << 30))?;
        }
        write!(f, ", macOS {os}")
    }
}
