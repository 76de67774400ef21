//! The data paths: each makes what it serves equal to a [`Snapshot`](crate::snapshot::Snapshot).

pub(crate) mod userspace;
