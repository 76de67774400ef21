//! The feed server.

pub(crate) mod entry;
pub(crate) mod history;
pub(crate) mod resource;
