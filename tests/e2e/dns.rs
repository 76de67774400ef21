//! The dns, driven from outside.
