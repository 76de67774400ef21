//! The feed server.

pub(crate) mod access;
pub(crate) mod api;
pub(crate) mod assemble;
pub(crate) mod defaults;
pub(crate) mod derived;
pub(crate) mod discovery;
pub(crate) mod entry;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod live;
pub(crate) mod metrics;
pub(crate) mod query;
pub(crate) mod resource;
pub(crate) mod route;
pub(crate) mod selector;
pub(crate) mod stall;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod view;
pub(crate) mod watch;
