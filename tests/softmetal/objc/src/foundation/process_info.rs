//! NSProcessInfo: which macOS is played. The build string follows the version.

use crate::control;
use crate::foundation::string;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::OsVersion;
use crate::runtime::{Id, Ref};

class!(NS_PROCESS_INFO, "NSProcessInfo");

/// Nothing: the switchboard holds the version.
struct Info;

fn current() -> OsVersion {
    let (major, minor) = control().os_version();
    OsVersion { major: major as isize, minor: minor as isize, patch: 0 }
}

methods! { install for NS_PROCESS_INFO;
    + "processInfo" (class) -> Id { Ref::new(class, Info).autorelease() }
    - "operatingSystemVersion" (_this) -> OsVersion { current() }
    - "operatingSystemVersionString" (_this) -> Id {
        let OsVersion { major, minor, .. } = current();
        // Kernels count from 20 with macOS 11; 26 followed 15, with kernel 25.
        let kernel = if major >= 26 { major - 1 } else { major + 9 };
        string::make(&format!("Version {major}.{minor} (Build {kernel}A{}00)", minor + 1)).autorelease()
    }
    - "isOperatingSystemAtLeastVersion:" (_this, version: OsVersion) -> u8 {
        let here = current();
        u8::from((here.major, here.minor) >= (version.major, version.minor))
    }
    - "processorCount" (_this) -> usize { 8 }
    - "activeProcessorCount" (_this) -> usize { 8 }
    - "physicalMemory" (_this) -> u64 { 16 << 30 }
    - "processName" (_this) -> Id { string::make("softmetal").autorelease() }
}
