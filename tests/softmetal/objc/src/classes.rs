//! The list of all classes. Superclasses come before what inherits from them.

use crate::foundation;

/// Fills every method table; called once, on the first use of any class.
pub(crate) fn install() {
    foundation::install();
    crate::runtime::block::install();
}
