//! NSURL: file URLs.

use std::path::PathBuf;

use crate::foundation::string;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(NS_URL, "NSURL");

/// The value of a URL object.
struct FileUrl(String);

/// The path of a file URL.
pub(crate) fn read(id: Id) -> PathBuf {
    PathBuf::from(&id.value::<FileUrl>().0)
}

fn path(text: Id) -> FileUrl {
    FileUrl(string::read(text).unwrap_or_default())
}

methods! { install for NS_URL;
    + "fileURLWithPath:" (class, text: Id) -> Id { Ref::new(class, path(text)).autorelease() }
    + "fileURLWithPath:isDirectory:" (class, text: Id, _directory: u8) -> Id {
        Ref::new(class, path(text)).autorelease()
    }
    - "initFileURLWithPath:" (this, text: Id) -> Id { this.init(path(text)) }
    - "initFileURLWithPath:isDirectory:" (this, text: Id, _directory: u8) -> Id { this.init(path(text)) }
    - "path" (this) -> Id { string::make(&this.value::<FileUrl>().0).autorelease() }
    - "absoluteString" (this) -> Id { string::make(&format!("file://{}", this.value::<FileUrl>().0)).autorelease() }
    - "isFileURL" (_this) -> u8 { 1 }
}
