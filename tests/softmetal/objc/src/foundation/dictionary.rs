//! NSDictionary and NSMutableDictionary. Keys are compared by text, number or identity. Entries have no
//! order that a program could rely on: enumeration goes backwards.

use std::sync::RwLock;

use super::array::{enumerate, retained};
use super::{number, string};
use crate::runtime::class::{class, methods};
use crate::runtime::encode::FastEnumeration;
use crate::runtime::{Id, Ref};

class!(pub(crate) NS_DICTIONARY, "NSDictionary");
class!(NS_MUTABLE_DICTIONARY, "NSMutableDictionary", NS_DICTIONARY);

/// The value of a dictionary object.
struct Entries(RwLock<Vec<(Ref, Ref)>>);

/// A new dictionary object.
pub(crate) fn make(entries: Vec<(Ref, Ref)>) -> Ref {
    Ref::new(&NS_DICTIONARY, Entries(RwLock::new(entries)))
}

/// The entries in the order in which they were put in. Nil is no dictionary.
pub(crate) fn read(id: Id) -> Option<Vec<(Ref, Ref)>> {
    (!id.is_nil()).then(|| id.value::<Entries>().0.read().unwrap().clone())
}

fn same(a: Id, b: Id) -> bool {
    if a == b {
        return true;
    }
    if let (Some(a), Some(b)) = (a.try_value::<number::Number>(), b.try_value::<number::Number>()) {
        return a == b;
    }
    a.try_value::<string::Text>().is_some()
        && b.try_value::<string::Text>().is_some()
        && string::read(a) == string::read(b)
}

fn get(this: Id, key: Id) -> Id {
    let entries = this.value::<Entries>().0.read().unwrap();
    entries
        .iter()
        .find(|(k, _)| same(k.id(), key))
        .map_or(Id::NIL, |(_, object)| object.clone().autorelease())
}

fn entries(objects: *const Id, keys: *const Id, count: usize) -> Entries {
    Entries(RwLock::new(retained(keys, count).into_iter().zip(retained(objects, count)).collect()))
}

fn column(this: Id, pick: impl Fn(&(Ref, Ref)) -> &Ref) -> Id {
    let entries = this.value::<Entries>().0.read().unwrap();
    super::array::make(entries.iter().rev().map(|entry| pick(entry).clone()).collect())
        .autorelease()
}

methods! { install_dictionary for NS_DICTIONARY;
    + "dictionary" (class) -> Id { Ref::new(class, Entries(RwLock::default())).autorelease() }
    - "init" (this) -> Id { this.init(Entries(RwLock::default())) }
    - "initWithObjects:forKeys:count:" (this, objects: *const Id, keys: *const Id, count: usize) -> Id {
        this.init(entries(objects, keys, count))
    }
    + "dictionaryWithObjects:forKeys:count:" (class, objects: *const Id, keys: *const Id, count: usize) -> Id {
        Ref::new(class, entries(objects, keys, count)).autorelease()
    }
    - "count" (this) -> usize { this.value::<Entries>().0.read().unwrap().len() }
    - "objectForKey:" (this, key: Id) -> Id { get(this, key) }
    - "objectForKeyedSubscript:" (this, key: Id) -> Id { get(this, key) }
    - "allKeys" (this) -> Id { column(this, |entry| &entry.0) }
    - "allValues" (this) -> Id { column(this, |entry| &entry.1) }
    - "getObjects:andKeys:count:" (this, objects: *mut Id, keys: *mut Id, count: usize) {
        let entries = this.value::<Entries>().0.read().unwrap();
        for (i, (key, object)) in entries.iter().rev().take(count).enumerate() {
            // SAFETY: the caller passes room for `count` pointers, or null for what it does not want.
            unsafe {
                if !objects.is_null() { *objects.add(i) = object.id(); }
                if !keys.is_null() { *keys.add(i) = key.id(); }
            }
        }
    }
    - "countByEnumeratingWithState:objects:count:" (
        this, state: *mut FastEnumeration, buffer: *mut Id, capacity: usize,
    ) -> usize {
        let entries = this.value::<Entries>().0.read().unwrap();
        let keys: Vec<Id> = entries.iter().rev().map(|(key, _)| key.id()).collect();
        enumerate(&keys, state, buffer, capacity)
    }
}

methods! { install_mutable for NS_MUTABLE_DICTIONARY;
    - "setObject:forKey:" (this, object: Id, key: Id) {
        let mut entries = this.value::<Entries>().0.write().unwrap();
        entries.retain(|(k, _)| !same(k.id(), key));
        entries.push((key.required("the key"), object.required("the object")));
    }
}

pub(crate) fn install() {
    install_dictionary();
    install_mutable();
}
