//! Sends spans to a collector, by OTLP over HTTP with JSON.
//!
//! Workers put spans into a bounded queue and wait for nothing. A task of the control runtime sends
//! them in batches. When the queue is full, or the collector does not accept a batch, spans are
//! lost, and counted.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::client_tls::system_tls;
use daemon::{Failure, LogLimit};
use http::header::{CONTENT_TYPE, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::span::{Span, request};
use crate::metrics::SpanCounters;

/// Spans that wait to be sent; about 4 MiB.
const QUEUE: usize = 2048;
/// Spans in one request to the collector.
const BATCH: usize = 512;
/// How long spans are collected for a batch.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time for one request to the collector.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a batch is sent, if the collector says that it may be sent again.
const TRIES: u32 = 3;
/// The pause before a batch is sent again, which doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Octets of the collector's answer that are read.
const MAX_ANSWER: usize = 64 << 10;

static FAILED: LogLimit = LogLimit::new("failures to send spans");

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    is_tls: bool,
    authority: Authority,
    path: String,
}

/// Where workers put spans. `clone` shares the queue.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    queue: Sender<Span>,
    counters: SpanCounters,
}

/// Sends the spans that workers have put into the queue.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: Receiver<Span>,
    collector: Collector,
    tls: Option<Arc<ClientConfig>>,
    counters: SpanCounters,
}

/// Why a batch was not accepted.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("cannot connect to the collector: {0}")]
    Unreachable(#[from] io::Error),
    #[error("the collector does not answer: {0}")]
    NoAnswer(#[from] hyper::Error),
    #[error("the collector did not answer within 5 s")]
    TimedOut,
    #[error("the collector answered {0}")]
    Refused(StatusCode),
}

impl NotSent {
    /// Whether the collector may accept it later (OTLP specification, "Failures").
    fn may_be_sent_again(&self) -> bool {
        match self {
            NotSent::Refused(status) => [429, 502, 503, 504].contains(&status.as_u16()),
            _ => true,
        }
    }
}

impl Collector {
    /// Reads the URL of a collector.
    ///
    /// # Errors
    ///
    /// When it is no URL with `http` or `https`, a host and perhaps a port and a path.
    pub fn parse(url: &str) -> Result<Collector, String> {
        let problem = || "is not a URL of a collector (example: http://127.0.0.1:4318)".to_owned();
        let parts = Uri::from_str(url).map_err(|_| problem())?.into_parts();
        let scheme = parts.scheme.ok_or_else(problem)?;
        let is_tls = scheme == Scheme::HTTPS;
        if !is_tls && scheme != Scheme::HTTP {
            return Err(problem());
        }
        let authority = parts.authority.ok_or_else(problem)?;
        let has_user = authority.as_str().contains('@');
        let target = parts.path_and_query;
        let (path, query) = target.as_ref().map_or(("", None), |t| (t.path(), t.query()));
        if has_user || query.is_some() || authority.host().is_empty() {
            return Err(problem());
        }
        let path = format!("{}/v1/traces", path.trim_end_matches('/'));
        Ok(Collector { is_tls, authority, path })
    }

    fn address(&self) -> (&str, u16) {
        let host = self.authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let port = self.authority.port_u16().unwrap_or(if self.is_tls { 443 } else { 80 });
        (bare.unwrap_or(host), port)
    }
}

impl Spans {
    /// Sends a span, or counts it as lost.
    pub(crate) fn put(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counters.lost.inc();
        }
    }
}

impl Exporter {
    /// # Errors
    ///
    /// When the collector is to be reached over TLS and there are no root certificates.
    pub(crate) fn new(
        collector: Collector,
        counters: &SpanCounters,
    ) -> Result<(Spans, Exporter), Failure> {
        let tls = collector.is_tls.then(system_tls).transpose();
        let tls = tls.map_err(|error| Failure::failed("--otlp-endpoint", error))?;
        let (sender, queue) = channel(QUEUE);
        let spans = Spans { queue: sender, counters: counters.clone() };
        Ok((spans, Exporter { queue, collector, tls, counters: counters.clone() }))
    }

    /// Sends batches until all workers have ended.
    pub(crate) async fn run(mut self) {
        loop {
            let mut batch = Vec::new();
            if self.queue.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            let fill = async {
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    if self.queue.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            let _ = timeout(INTERVAL, fill).await;
            let count = batch.len() as u64;
            match self.send(request(batch).into()).await {
                Ok(()) => self.counters.sent.inc_by(count),
                Err(error) => {
                    self.counters.lost.inc_by(count);
                    if FAILED.admits() {
                        let endpoint = &self.collector.authority;
                        tracing::warn!(%endpoint, spans = count, "spans are lost: {error}");
                    }
                    continue;
                }
            };
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), NotSent> {
        let mut tries = 1;
        loop {
            let sent = timeout(TIMEOUT, self.try_to_send(body.clone())).await;
            match sent.unwrap_or(Err(NotSent::TimedOut)) {
                // While the process ends, nothing waits for a collector that fails.
                Err(error)
                    if error.may_be_sent_again() && tries < TRIES && !self.queue.is_closed() =>
                {
                    sleep(PAUSE * 2_u32.pow(tries - 1)).await;
                    tries += 1;
                }
                sent => return sent,
            }
        }
    }

    async fn try_to_send(&self, body: Bytes) -> Result<(), NotSent> {
        let (host, port) = self.collector.address();
        let stream = TcpStream::connect((host, port)).await?;
        let Some(tls) = &self.tls else { return self.post(stream, body).await };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
        self.post(stream, body).await
    }

    async fn post<S>(&self, stream: S, body: Bytes) -> Result<(), NotSent>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(&self.collector.path)
            .header(HOST, self.collector.authority.as_str())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("parts that were checked");
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            // Read, so that the collector sees no broken connection. What it says does not matter.
            let _ = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            if status.is_success() { Ok(()) } else { Err(NotSent::Refused(status)) }
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            biased;
            sent = &mut exchange => sent,
            ended = &mut connection => {
                ended?;
                exchange.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_collectors() {
        for (url, is_tls, host, port, path) in [
            ("http://127.0.0.1:4318", false, "127.0.0.1", 4318, "/v1/traces"),
            ("http://otel/", false, "otel", 80, "/v1/traces"),
            ("https://otel.example/a/", true, "otel.example", 443, "/a/v1/traces"),
            ("http://[::1]:4318", false, "::1", 4318, "/v1/traces"),
        ] {
            let collector = Collector::parse(url).unwrap();
            assert_eq!(collector.address(), (host, port), "{url}");
            assert_eq!((collector.is_tls, &*collector.path), (is_tls, path), "{url}");
        }
        for url in ["", "127.0.0.1:4318", "/x", "ftp://a", "http://", "http://u@a", "http://a/?b"] {
            assert!(Collector::parse(url).is_err(), "{url}");
        }
    }
}
