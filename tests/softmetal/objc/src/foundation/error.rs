//! NSError: a domain, a code and a text.

use crate::foundation::{dictionary, string};
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(pub(crate) NS_ERROR, "NSError");

/// The value of an error object.
struct Error {
    domain: String,
    code: isize,
    user_info: Option<Ref>,
    text: String,
}

/// A new error object whose `localizedDescription` is `text`.
pub(crate) fn make(domain: &str, code: isize, text: &str) -> Ref {
    let key = string::make("NSLocalizedDescription");
    let user_info = dictionary::make(vec![(key, string::make(text))]);
    Ref::new(
        &NS_ERROR,
        Error {
            domain: domain.to_owned(),
            code,
            user_info: Some(user_info),
            text: text.to_owned(),
        },
    )
}

/// Stores an autoreleased error at an out parameter, when the caller gave one.
pub(crate) fn store(place: *mut Id, error: Ref) {
    if !place.is_null() {
        // SAFETY: a non-null out parameter can be written.
        unsafe { *place = error.autorelease() };
    }
}

fn from_parts(domain: Id, code: isize, user_info: Id) -> Error {
    let entries = dictionary::read(user_info).unwrap_or_default();
    let described = entries
        .iter()
        .find(|(key, _)| string::read(key.id()).as_deref() == Some("NSLocalizedDescription"))
        .and_then(|(_, text)| string::read(text.id()));
    let domain = string::read(domain).unwrap_or_default();
    let text = described.unwrap_or_else(|| {
        format!("The operation couldn’t be completed. ({domain} error {code}.)")
    });
    Error { domain, code, user_info: user_info.retained(), text }
}

methods! { install for NS_ERROR;
    - "initWithDomain:code:userInfo:" (this, domain: Id, code: isize, user_info: Id) -> Id {
        this.init(from_parts(domain, code, user_info))
    }
    + "errorWithDomain:code:userInfo:" (class, domain: Id, code: isize, user_info: Id) -> Id {
        Ref::new(class, from_parts(domain, code, user_info)).autorelease()
    }
    - "domain" (this) -> Id { string::make(&this.value::<Error>().domain).autorelease() }
    - "code" (this) -> isize { this.value::<Error>().code }
    - "userInfo" (this) -> Id {
        this.value::<Error>().user_info.clone().unwrap_or_else(|| dictionary::make(Vec::new())).autorelease()
    }
    - "localizedDescription" (this) -> Id { string::make(&this.value::<Error>().text).autorelease() }
    - "localizedFailureReason" (_this) -> Id { Id::NIL }
    - "localizedRecoverySuggestion" (_this) -> Id { Id::NIL }
    - "underlyingErrors" (_this) -> Id { crate::foundation::array::make(Vec::new()).autorelease() }
    - "description" (this) -> Id {
        let error = this.value::<Error>();
        string::make(&format!("Error Domain={} Code={} \"{}\"", error.domain, error.code, error.text)).autorelease()
    }
}
