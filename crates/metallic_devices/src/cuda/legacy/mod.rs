//! Hand-written kernels as the registry sees them, one file an op. Their code lies in `../kernels`.

mod add;

pub(crate) use add::LegacyAdd;
