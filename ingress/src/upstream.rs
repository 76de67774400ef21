//! Connections to endpoints.
//!
//! From the ground up: [`transport`](self) carries bytes, [`http1`](self) speaks HTTP/1.1 over
//! it and [`http2`](self) HTTP/2, whose connections are [`shared`](self); an [`Upstream`] is a
//! connection whatever it speaks, and the [`Pool`] keeps those that can be used again. An
//! exchange keeps the bytes that it has sent until the endpoint answers, so that a request which
//! met a connection that the endpoint had just closed can be sent again elsewhere without having
//! been copied first. Left out: which endpoint is asked and how often, which is decided by
//! `exchange`.

mod client_body;
mod codec;
mod connection;
mod encode;
mod encode_http2;
mod failure;
mod http1;
mod http2;
mod outgoing;
mod pool;
mod shared;
mod streamed;
mod transport;

pub(crate) use self::codec::{Asked, BadResponse, Decoded, Decoder, Head, Interim, read_head};
pub(crate) use self::connection::{Unanswered, Upstream};
pub(crate) use self::failure::Failure;
pub(crate) use self::pool::Pool;
pub(crate) use self::transport::connect as open_transport;
