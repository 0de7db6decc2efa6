//! What random calls may miss.
