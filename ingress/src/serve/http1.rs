//! HTTP/1.1 connections of clients.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::stream::Stream;
use super::{Connection, Phase, in_time, tunnel};
use crate::handler;
use crate::refusal::HEAD_TIMEOUT;
use crate::settings::{HTTP1_BUFFER, LINGER, LINGER_BYTES};

/// How serving a connection's requests came to its end.
enum End {
    /// All was answered that could be, or the protocol has changed.
    Finished,
    /// The client did not finish a head that it began.
    HeadTimeout,
    /// Nothing more is to be said.
    Abandoned,
}

pub(super) async fn serve<S>(connection: Rc<Connection>, mut stream: Stream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = connection.worker.settings();
    let service = {
        let connection = connection.clone();
        service_fn(move |request| handler::handle(connection.clone(), request))
    };
    stream.hold_open(true);
    // hyper's own header time-out stays off: it would register a timer for each request, where
    // the connection's deadline costs nothing.
    let mut http = Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HTTP1_BUFFER.max(settings.max_header_bytes))
        .max_header_size(settings.max_header_bytes)
        .pipeline_flush(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut drain_begun = false;
    let end = poll_fn(|cx| {
        if connection.worker.is_draining() && !drain_begun {
            drain_begun = true;
            if connection.phase.get() == Phase::Idle {
                connection.deadline.arm(connection.idle_timeout());
            }
        }
        match Pin::new(&mut http).poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(End::Finished),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "connection ended");
                // A request that could not be read was answered, and its rest is still coming.
                return Poll::Ready(if error.is_parse() { End::Finished } else { End::Abandoned });
            }
            Poll::Pending => {}
        }
        match connection.phase.get() {
            Phase::Exchange if connection.deadline.poll_killed(cx) => Poll::Ready(End::Abandoned),
            Phase::Exchange => Poll::Pending,
            phase => match connection.deadline.poll_fired(cx) {
                true if phase == Phase::Head => Poll::Ready(End::HeadTimeout),
                true => Poll::Ready(End::Finished),
                false => Poll::Pending,
            },
        }
    })
    .await;
    let parts = http.into_parts();
    let mut stream = parts.io.into_inner();
    stream.hold_open(false);
    let upstream = connection.tunnel.take();
    match (end, upstream) {
        (End::Finished, Some(upstream)) => {
            let early = BytesMut::from(parts.read_buf);
            Box::pin(tunnel::serve(&connection, stream, early, upstream)).await;
        }
        (End::Finished, None) => Box::pin(finish(&connection, stream)).await,
        (End::HeadTimeout, _) => {
            connection.deadline.arm(LINGER.into());
            let _ = in_time(stream.write_all(HEAD_TIMEOUT), &connection.deadline).await;
            Box::pin(finish(&connection, stream)).await;
        }
        (End::Abandoned, _) => {}
    }
}

/// Says that no more comes, and reads what the client still sends for a while: a close with
/// unread bytes would reset the connection, and the client might never see our last answer.
async fn finish<S>(connection: &Connection, mut stream: Stream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.phase.set(Phase::Head);
    connection.deadline.arm(LINGER.into());
    let lingering = async {
        if stream.shutdown().await.is_err() || stream.is_ended() {
            return;
        }
        let mut scrap = vec![0; 8 << 10];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scrap).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    let _ = in_time(lingering, &connection.deadline).await;
}
