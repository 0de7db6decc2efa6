//! Residency sets and fences: bookkeeping without effect, as all memory is resident here.

use std::sync::Mutex;

use super::{Label, device};
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(DESCRIPTOR, "MTLResidencySetDescriptor");
class!(SET, "SoftMTLResidencySet");
class!(FENCE, "SoftMTLFence");

/// The value of a descriptor: a label and a capacity.
#[derive(Default)]
struct Descriptor {
    capacity: Mutex<usize>,
    label: Label,
}

/// The value of a set: what was added to it.
#[derive(Default)]
struct Set {
    members: Mutex<Vec<Ref>>,
    label: Label,
}

/// A new, empty set.
pub(crate) fn new_set() -> Ref {
    Ref::new(&SET, Set::default())
}

/// A new fence.
pub(crate) fn new_fence() -> Ref {
    Ref::new(&FENCE, Label::default())
}

methods! { install_descriptor for DESCRIPTOR;
    - "init" (this) -> Id { this.init(Descriptor::default()) }
    - "label" (this) -> Id { this.value::<Descriptor>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Descriptor>().label.set(text) }
    - "initialCapacity" (this) -> usize { *this.value::<Descriptor>().capacity.lock().unwrap() }
    - "setInitialCapacity:" (this, capacity: usize) { *this.value::<Descriptor>().capacity.lock().unwrap() = capacity }
}

methods! { install_set for SET;
    - "addAllocation:" (this, member: Id) {
        this.value::<Set>().members.lock().unwrap().push(member.required("the allocation"));
    }
    - "removeAllocation:" (this, member: Id) {
        this.value::<Set>().members.lock().unwrap().retain(|have| have.id() != member);
    }
    - "removeAllAllocations" (this) { this.value::<Set>().members.lock().unwrap().clear() }
    - "containsAllocation:" (this, member: Id) -> u8 {
        u8::from(this.value::<Set>().members.lock().unwrap().iter().any(|have| have.id() == member))
    }
    - "allocationCount" (this) -> usize { this.value::<Set>().members.lock().unwrap().len() }
    - "commit" (_this) {}
    - "requestResidency" (_this) {}
    - "endResidency" (_this) {}
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Set>().label.object() }
}

methods! { install_fence for FENCE;
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Label>().object() }
    - "setLabel:" (this, text: Id) { this.value::<Label>().set(text) }
}

pub(crate) fn install() {
    install_descriptor();
    install_set();
    install_fence();
}
