//! The folder, driven from outside.
