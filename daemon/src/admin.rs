//! The admin endpoint: `/livez`, `/readyz`, `/metrics`, `/snapshot`, `/status` and the pages of one
//! process, over HTTP/1.1.
//!
//! It serves operators and probes on the control runtime, so an answer from `/livez` says that
//! control work makes progress. Requests with a foreign Host or Origin are refused: a web page
//! in an operator's browser must not read it by rebinding a DNS name to this address.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::bind_error::{self, Transport};
use crate::failure::Failure;
use crate::handles::Daemon;
use crate::pages::PageError;

/// More than a probe, a scraper and a few operators need; bounds memory under a flood.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Binds the admin endpoint and serves it until the runtime ends.
///
/// # Errors
///
/// When the address cannot be bound.
pub async fn serve(addr: SocketAddr, daemon: &Daemon) -> Result<(), Failure> {
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|error| bind_error::failure(addr, Transport::Tcp, "--admin", &error))?;
    tracing::info!(admin = %addr, "started");
    tokio::spawn(accept(listener, daemon.clone()));
    Ok(())
}

async fn accept(listener: TcpListener, daemon: Daemon) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the peer has closed: the endpoint goes on in both cases.
                tracing::debug!(%error, "admin accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let daemon = daemon.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &daemon);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin connection");
            }
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, daemon: &Daemon) -> Response<Full<Bytes>> {
    if !is_local(request.headers()) {
        return text(StatusCode::FORBIDDEN, "foreign Host or Origin header\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are supported\n");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    match request.uri().path() {
        "/livez" => live(daemon),
        "/readyz" => ready(daemon),
        "/metrics" => reply(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            daemon.metrics.encode(),
        ),
        "/snapshot" => json_reply(&daemon.admin.snapshot()),
        "/status" => json_reply(&status(daemon)),
        path => page(daemon, path, request.uri().query().unwrap_or_default()),
    }
}

/// A page that only some processes have.
fn page(daemon: &Daemon, path: &str, query: &str) -> Response<Full<Bytes>> {
    match daemon.admin.page(path, query) {
        Some(Ok(value)) => json_reply(&value),
        Some(Err(PageError::BadRequest(problem))) => {
            text(StatusCode::BAD_REQUEST, &(problem + "\n"))
        }
        Some(Err(PageError::NotFound(problem))) => text(StatusCode::NOT_FOUND, &(problem + "\n")),
        None => {
            let mut paths = vec!["/livez", "/readyz", "/metrics", "/snapshot", "/status"];
            paths.extend(daemon.admin.paths());
            text(StatusCode::NOT_FOUND, &format!("not found; try {}\n", paths.join(" ")))
        }
    }
}

fn live(daemon: &Daemon) -> Response<Full<Bytes>> {
    probe(&daemon.liveness.reasons())
}

fn ready(daemon: &Daemon) -> Response<Full<Bytes>> {
    probe(&daemon.readiness.reasons())
}

/// `ok`, or the reasons why not.
fn probe(reasons: &[String]) -> Response<Full<Bytes>> {
    if reasons.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, &(reasons.join("\n") + "\n"))
}

fn status(daemon: &Daemon) -> Value {
    let reasons = daemon.readiness.reasons();
    let mut status = daemon.admin.status();
    status.insert("process".into(), json!(daemon.name));
    status.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    status.insert("workers".into(), json!(daemon.workers));
    let not_live = daemon.liveness.reasons();
    status.insert("live".into(), json!(not_live.is_empty()));
    status.insert("notLiveReasons".into(), json!(not_live));
    status.insert("ready".into(), json!(reasons.is_empty()));
    status.insert("notReadyReasons".into(), json!(reasons));
    status.insert("logLinesLost".into(), json!(crate::logging::lost().get()));
    Value::Object(status)
}

/// The owner of a DNS name can rebind it to this address; `localhost` and an IP cannot be rebound.
pub fn is_local(headers: &HeaderMap) -> bool {
    let local = |name: HeaderName| {
        headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(is_local_authority))
    };
    local(HOST) && local(ORIGIN)
}

/// Whether `[scheme://]host[:port]` names `localhost` or an IP address.
pub fn is_local_authority(value: &str) -> bool {
    let authority = value.split_once("://").map_or(value, |(_, rest)| rest);
    if authority.parse::<SocketAddr>().is_ok() || authority.parse::<IpAddr>().is_ok() {
        return true;
    }
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body.to_owned())
}

fn json_reply(value: &Value) -> Response<Full<Bytes>> {
    let body = serde_json::to_string_pretty(value).expect("a JSON value always prints") + "\n";
    reply(StatusCode::OK, "application/json", body)
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_refused() {
        let local = ["localhost", "LOCALHOST:7411", "127.0.0.1", "127.0.0.1:7411", "[::1]:7411"];
        let foreign = ["evil.example", "evil.example:7411", "localhost.evil.example", "", "null"];
        for value in local {
            assert!(is_local_authority(value), "{value}");
        }
        assert!(is_local_authority("http://127.0.0.1:7411"));
        for value in foreign {
            assert!(!is_local_authority(value), "{value}");
        }
    }
}
