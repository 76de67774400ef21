//! The ingress, driven from outside.
