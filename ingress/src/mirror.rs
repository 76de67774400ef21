//! Copies of requests for a second server, whose answers are dropped.
//!
//! A copy never delays or fails its request: it is sent by a task of its own, and given up when
//! anything about it fails, when it takes too long, or when there are too many.

use std::rc::Rc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body::Body as _;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::body::{BodyCopy, CopiedBody, RequestBody, copy};
use crate::context::WorkerContext;
use crate::snapshot::Mirroring;
use crate::upstream::open_transport;

/// Copies that a worker sends at one time.
const MAX_COPIES: usize = 64;
/// The time that a copy has, from its connection to the end of the answer.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);

/// Fields that are of the client's connection, and not of its request (RFC 9110 section 7.6.1).
const OF_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Sends a copy of a request to `url`, and gives the body back that the copy follows.
pub(crate) fn mirrored(
    context: &Rc<WorkerContext>,
    mirroring: &Mirroring,
    (method, url): (&Method, &str),
    headers: &HeaderMap,
    body: RequestBody,
) -> RequestBody {
    let Some(permit) = context.mirror_copy(MAX_COPIES) else {
        context.shard().mirror_failures.add(1);
        return body;
    };
    let Some(request) = request(mirroring, method, url, headers) else { return body };
    let (to, from) = copy();
    let has_body = !body.is_ended();
    let body = match body {
        body if has_body && mirroring.mirror.with_body => RequestBody::Copied(Box::new((body, to))),
        other => {
            BodyCopy::finish(&to);
            other
        }
    };
    let (context, mirroring) = (context.clone(), mirroring.clone());
    tokio::task::spawn_local(async move {
        let _permit = permit;
        let sent = timeout(COPY_TIMEOUT, send(&mirroring, request.map(|()| from))).await;
        let error = match sent {
            Ok(Ok(())) => return context.shard().mirrored.add(1),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        context.shard().mirror_failures.add(1);
        tracing::debug!(target = %mirroring.mirror.authority, error, "copy of a request failed");
    });
    body
}

/// The head of a copy.
fn request(
    mirroring: &Mirroring,
    method: &Method,
    url: &str,
    headers: &HeaderMap,
) -> Option<Request<()>> {
    let mirror = &mirroring.mirror;
    let url: Uri = url.parse().ok()?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path).body(()).ok()?;
    let mut fields = headers.clone();
    OF_CONNECTION.iter().for_each(|name| drop(fields.remove(name)));
    if !mirror.with_body {
        fields.remove(header::CONTENT_LENGTH);
    }
    let host = mirror.host.clone();
    let host = host.or_else(|| HeaderValue::from_str(mirror.authority.as_str()).ok())?;
    fields.insert(header::HOST, host);
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    *request.headers_mut() = fields;
    Some(request)
}

type Failed = Box<dyn std::error::Error>;

async fn send(mirroring: &Mirroring, request: Request<CopiedBody>) -> Result<(), Failed> {
    let authority = &mirroring.mirror.authority;
    let port = if mirroring.mirror.is_https { 443 } else { 80 };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = (host, authority.port_u16().unwrap_or(port));
    let address =
        tokio::net::lookup_host(address).await?.next().ok_or("the host has no address")?;
    let stream = open_transport(address, &mirroring.wire).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let mut answer = sender.send_request(request).await?.into_body();
        // An answer is read to its end, so that the server sees no broken connection.
        while let Some(frame) =
            std::future::poll_fn(|cx| std::pin::Pin::new(&mut answer).poll_frame(cx)).await
        {
            frame?;
        }
        Ok(())
    };
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        done = exchange => done,
        ended = &mut connection => ended.map_err(Failed::from),
    }
}
