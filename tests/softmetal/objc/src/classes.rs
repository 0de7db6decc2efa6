//! The list of all classes. Superclasses come before what inherits from them.

use crate::{foundation, graph, metal, mps};

/// Fills every method table; called once, on the first use of any class.
pub(crate) fn install() {
    foundation::install();
    metal::install();
    mps::install();
    graph::install();
    crate::runtime::block::install();
}
