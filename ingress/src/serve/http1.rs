//! HTTP/1.1 connections of clients.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::stream::Stream;
use super::tunnel;
use crate::access_log::WorkerLog;
use crate::body::RequestBody;
use crate::connection::{Connection, Phase};
use crate::deadline::in_time;
use crate::handler::handle;
use crate::in_flight::InFlight;
use crate::record::{EndedBy, Line, Record};
use crate::refusal::Refusal;
use crate::settings::{HTTP1_BUFFER, LINGER, LINGER_BYTES};

/// How serving a connection's requests came to its end.
enum End {
    /// All was answered that could be, or the protocol has changed.
    Finished,
    /// The head of a request could not be read.
    BadHead,
    /// The client did not finish a head that it began.
    HeadTimeout,
    /// The client gets no further answer.
    Abandoned,
}

pub(super) async fn serve<S>(connection: Rc<Connection>, mut stream: Stream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = connection.context.settings();
    let service = {
        let connection = connection.clone();
        service_fn(move |request: Request<Incoming>| {
            let in_flight = InFlight::begin(connection.clone(), None);
            let response = handle(in_flight, request.map(RequestBody::Http1));
            async move { Ok::<_, Infallible>(response.await) }
        })
    };
    stream.serve_http1();
    // hyper's own header time-out stays off: it would register a timer for each request, where
    // the connection's deadline costs nothing.
    let mut http = Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HTTP1_BUFFER.max(settings.max_header_bytes))
        .max_header_size(settings.max_header_bytes)
        .pipeline_flush(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut drain_begun = false;
    let deadline = connection.deadline();
    let end = poll_fn(|cx| {
        if connection.context.is_draining() && !drain_begun {
            drain_begun = true;
            if connection.phase() == Phase::Idle {
                deadline.arm(connection.idle_timeout());
            }
        }
        match Pin::new(&mut http).poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(End::Finished),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "connection ended");
                return Poll::Ready(if error.is_parse() { End::BadHead } else { End::Abandoned });
            }
            Poll::Pending => {}
        }
        match connection.phase() {
            Phase::Exchange if deadline.poll_killed(cx) => Poll::Ready(End::Abandoned),
            Phase::Exchange => Poll::Pending,
            phase => match deadline.poll_fired(cx) {
                true if phase == Phase::Head => Poll::Ready(End::HeadTimeout),
                true => Poll::Ready(End::Finished),
                false => Poll::Pending,
            },
        }
    })
    .await;
    let parts = http.into_parts();
    let stream = parts.io.into_inner();
    let early = BytesMut::from(parts.read_buf);
    Box::pin(end_connection(&connection, stream, early, end)).await;
}

/// Ends a connection after its last request, or goes on with another protocol.
async fn end_connection<S>(
    connection: &Rc<Connection>,
    mut stream: Stream<S>,
    early: BytesMut,
    end: End,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // hyper answers a head that it cannot read with a bare status, which the stream keeps back.
    let (kept, status) = stream.end_http1();
    match (end, connection.take_tunnel()) {
        (End::Finished, Some(upstream)) => {
            Box::pin(tunnel::serve(connection, stream, early, upstream)).await;
        }
        (End::BadHead, _) => {
            let refusal = status.map(Refusal::of_bad_head);
            let answer = refusal.map(|refusal| refuse(connection, &refusal));
            finish(connection, stream, answer).await;
        }
        (End::HeadTimeout, _) => {
            let answer = refuse(connection, &Refusal::HeadTimeout);
            finish(connection, stream, Some(answer)).await;
        }
        (End::Finished, None) if connection.is_complete() && early.is_empty() => {
            close(connection, stream).await;
        }
        (End::Finished, None) => finish(connection, stream, kept).await,
        (End::Abandoned, _) => {}
    }
}

/// Records a request that no handler has seen; gives the answer to it.
fn refuse(connection: &Connection, refusal: &Refusal) -> Vec<u8> {
    let context = &connection.context;
    let mut record = Record::new(context.request_id());
    let is_sample = context.access_log.as_ref().is_some_and(WorkerLog::takes_sample);
    record.line = Some(Box::new(Line::new(is_sample, connection.origin.peer, None)));
    record.ended_by = EndedBy::Refusal(refusal.reason());
    record.answered(refusal.status().as_u16());
    let answer = refusal.to_http1(record.request_id());
    record.sent = body_of(&answer).len() as u64;
    context.close(&record);
    answer
}

fn body_of(answer: &[u8]) -> &[u8] {
    const END: &[u8] = b"\r\n\r\n";
    memchr::memmem::find(answer, END).map_or(&[], |at| &answer[at + END.len()..])
}

/// Closes a connection on which the client has said all.
async fn close<S>(connection: &Connection, mut stream: Stream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Closing the socket says the same as a shutdown before it. TLS has an end of its own.
    if connection.origin.https {
        connection.enter(Phase::Head, LINGER.into());
        let _ = in_time(stream.shutdown(), connection.deadline()).await;
    }
}

/// Writes the last answer, closes our side, and reads for a while what the client still sends: a
/// close with unread bytes would reset the connection, and the client might never see the answer.
async fn finish<S>(connection: &Connection, mut stream: Stream<S>, answer: Option<Vec<u8>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.enter(Phase::Head, LINGER.into());
    let lingering = async {
        if let Some(answer) = answer
            && stream.write_all(&answer).await.is_err()
        {
            return;
        }
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
    let _ = in_time(lingering, connection.deadline()).await;
}
