//! What a request is and what becomes of it, before any endpoint is asked.

pub(crate) mod check;
pub(crate) mod clients;
pub(crate) mod decide;
