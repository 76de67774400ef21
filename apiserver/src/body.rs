//! The body of a request: read whole, within a limit and a time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;

use super::status::Status;

/// As much as a kube-apiserver reads. The largest object has 1 MiB, and a patch may hold it twice.
const MAX_BODY: usize = 3 << 20;
/// Longer than any client takes for that much, over any link.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a body.
///
/// # Errors
///
/// The answer to one that is too long, or does not arrive.
pub(crate) async fn read<B>(body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collect = Limited::new(body, MAX_BODY).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::too_large(MAX_BODY))
        }
        Ok(Err(_)) => Err(Status::bad_request("the body broke off")),
        Err(_) => Err(Status::bad_request("the body did not arrive in time")),
    }
}
