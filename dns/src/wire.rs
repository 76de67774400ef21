//! DNS messages as bytes: queries are parsed, replies are built in the buffer of their query.
//!
//! Pure, and used for every query: nothing here allocates. RFC 1035 for the message, RFC 6891 for
//! EDNS. Left out on purpose: the meaning of names, which the zone knows.

pub(crate) mod name;
pub(crate) mod numbers;
pub(crate) mod options;
pub(crate) mod query;
pub(crate) mod record;
pub(crate) mod reply;

pub(crate) use name::Name;
pub(crate) use numbers::{
    Class, HEADER_LEN, OPT_LEN, QUESTION_AT, Rcode, TCP_LIMIT, Type, UDP_EDNS_LIMIT, flag, u16_at,
};
pub(crate) use query::{Bad, Query};
pub(crate) use reply::Reply;
