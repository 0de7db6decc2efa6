//! MPSGraphDevice: the Metal device under another name.

use crate::metal::device;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(pub(super) DEVICE, "MPSGraphDevice");

/// The value of a device object: nothing, as there is one device.
pub(super) struct GraphDevice;

methods! { install for DEVICE;
    + "deviceWithMTLDevice:" (class, metal: Id) -> Id {
        let _device = metal.required("the Metal device");
        Ref::new(class, GraphDevice).autorelease()
    }
    - "metalDevice" (_this) -> Id { device::shared().autorelease() }
    - "type" (_this) -> u32 { 0 }
}
