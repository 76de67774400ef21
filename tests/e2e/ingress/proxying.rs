//! proxying
