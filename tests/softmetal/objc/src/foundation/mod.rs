//! The part of Foundation that the backend uses.

pub(crate) mod array;
pub(crate) mod data;
pub(crate) mod dictionary;
pub(crate) mod error;
pub(crate) mod number;
pub(crate) mod object;
mod process_info;
pub(crate) mod string;
pub(crate) mod url;

/// Fills the method tables of this family.
pub(crate) fn install() {
    object::install();
    string::install();
    number::install();
    array::install();
    dictionary::install();
    data::install();
    error::install();
    url::install();
    process_info::install();
}
