//! The notebook.
