//! The list of all classes. Superclasses come before what inherits from them.

use crate::{foundation, metal};

/// Fills every method table; called once, on the first use of any class.
pub(crate) fn install() {
    foundation::install();
    metal::install();
    crate::runtime::block::install();
}
