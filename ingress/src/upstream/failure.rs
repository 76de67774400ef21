//! Why an endpoint gave no response, or not all of one.

use std::io;

use super::client_body::BodyError;
use super::codec::BadResponse;
use crate::body::BodyBroken;

/// Why there is no response, or not all of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing of a response came; whether the request may be sent again depends on what of it
    /// had been sent.
    #[error("the endpoint closed the connection before it answered")]
    Unanswered(#[source] Option<io::Error>),
    #[error("the endpoint's connection failed in the middle of the response")]
    Broken(#[source] io::Error),
    #[error("the endpoint's response cannot be read")]
    Bad(#[from] BadResponse),
    /// Caused by the client.
    #[error("the request's body is larger than allowed")]
    TooLarge,
    #[error("the request's body ended early")]
    Downstream(#[source] Option<BodyBroken>),
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Failure {
        match error {
            BodyError::TooLarge => Failure::TooLarge,
            BodyError::Client(error) => Failure::Downstream(error),
        }
    }
}
