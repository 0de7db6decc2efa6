//! NSArray and NSMutableArray.

use std::sync::RwLock;

use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::FastEnumeration;
use crate::runtime::{Id, Ref};

class!(pub(crate) NS_ARRAY, "NSArray");
class!(NS_MUTABLE_ARRAY, "NSMutableArray", NS_ARRAY);

/// The value of an array object.
struct Items(RwLock<Vec<Ref>>);

/// A new array object.
pub(crate) fn make(items: Vec<Ref>) -> Ref {
    Ref::new(&NS_ARRAY, Items(RwLock::new(items)))
}

/// A new array of numbers, as shapes are.
pub(crate) fn make_shape(dims: &[i64]) -> Ref {
    make(dims.iter().map(|dim| super::number::make(i128::from(*dim))).collect())
}

/// The items of an array, retained. Nil is no array.
pub(crate) fn read(id: Id) -> Option<Vec<Ref>> {
    (!id.is_nil()).then(|| id.value::<Items>().0.read().unwrap().clone())
}

/// [`read`] of an array that must be there.
pub(crate) fn items(id: Id, what: &str) -> Vec<Ref> {
    read(id).unwrap_or_else(|| abort!("{what} must not be nil"))
}

/// The integers of an array of numbers, or none for nil.
pub(crate) fn read_shape(id: Id) -> Option<Vec<i64>> {
    Some(read(id)?.iter().map(|item| super::number::read(item.id()) as i64).collect())
}

/// The objects at a C array of object pointers, retained.
pub(crate) fn retained(objects: *const Id, count: usize) -> Vec<Ref> {
    // SAFETY: the caller's method documents `count` objects at `objects`.
    (0..count).map(|i| unsafe { *objects.add(i) }.required("an object of a collection")).collect()
}

fn at(this: Id, index: usize) -> Id {
    let items = this.value::<Items>().0.read().unwrap();
    match items.get(index) {
        Some(item) => item.clone().autorelease(),
        None => {
            abort!("-[NSArray objectAtIndex:]: index {index} beyond bounds [0 .. {}]", items.len())
        }
    }
}

/// `countByEnumeratingWithState:objects:count:` over `items`.
pub(crate) fn enumerate(
    items: &[Id],
    state: *mut FastEnumeration,
    buffer: *mut Id,
    capacity: usize,
) -> usize {
    static UNCHANGED: u64 = 0;
    // SAFETY: fast enumeration passes its own state and a buffer of `capacity` pointers.
    unsafe {
        let done = (*state).state as usize;
        let count = capacity.min(items.len() - done);
        for (i, item) in items[done..done + count].iter().enumerate() {
            *buffer.add(i) = *item;
        }
        (*state).items = buffer;
        (*state).mutations = &UNCHANGED;
        (*state).state += count as u64;
        count
    }
}

methods! { install_array for NS_ARRAY;
    + "array" (class) -> Id { Ref::new(class, Items(RwLock::default())).autorelease() }
    + "arrayWithObject:" (_class, item: Id) -> Id { make(vec![item.required("the item")]).autorelease() }
    + "arrayWithObjects:count:" (_class, items: *const Id, count: usize) -> Id {
        make(retained(items, count)).autorelease()
    }
    - "init" (this) -> Id { this.init(Items(RwLock::default())) }
    - "initWithObjects:count:" (this, items: *const Id, count: usize) -> Id {
        this.init(Items(RwLock::new(retained(items, count))))
    }
    - "count" (this) -> usize { this.value::<Items>().0.read().unwrap().len() }
    - "objectAtIndex:" (this, index: usize) -> Id { at(this, index) }
    - "objectAtIndexedSubscript:" (this, index: usize) -> Id { at(this, index) }
    - "firstObject" (this) -> Id {
        this.value::<Items>().0.read().unwrap().first().map_or(Id::NIL, |item| item.clone().autorelease())
    }
    - "lastObject" (this) -> Id {
        this.value::<Items>().0.read().unwrap().last().map_or(Id::NIL, |item| item.clone().autorelease())
    }
    - "countByEnumeratingWithState:objects:count:" (
        this, state: *mut FastEnumeration, buffer: *mut Id, capacity: usize,
    ) -> usize {
        let items: Vec<Id> = this.value::<Items>().0.read().unwrap().iter().map(Ref::id).collect();
        enumerate(&items, state, buffer, capacity)
    }
}

methods! { install_mutable for NS_MUTABLE_ARRAY;
    + "arrayWithCapacity:" (class, _capacity: usize) -> Id { Ref::new(class, Items(RwLock::default())).autorelease() }
    - "initWithCapacity:" (this, _capacity: usize) -> Id { this.init(Items(RwLock::default())) }
    - "addObject:" (this, item: Id) { this.value::<Items>().0.write().unwrap().push(item.required("the item")) }
    - "removeAllObjects" (this) { this.value::<Items>().0.write().unwrap().clear() }
}

pub(crate) fn install() {
    install_array();
    install_mutable();
}
