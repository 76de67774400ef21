//! The proxy, driven from outside.
