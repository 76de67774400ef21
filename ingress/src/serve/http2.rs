//! HTTP/2 connections of clients.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::stream::Stream;
use crate::handler;
use crate::settings::{
    CONNECTION_WINDOW, LINGER, MAX_RESETS_CAUSED, MAX_RESETS_UNSEEN, STREAM_SEND_BUFFER,
    STREAM_WINDOW,
};

/// Runs streams on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F> Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(async move {
            stream.await;
        });
    }
}

pub(super) async fn serve<S>(connection: Rc<Connection>, stream: Stream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = connection.worker.settings();
    let service = {
        let connection = connection.clone();
        service_fn(move |request| handler::handle(connection.clone(), request))
    };
    let max_header_bytes = u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX);
    let http = Builder::new(Local)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(max_header_bytes)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS_UNSEEN)
        .max_local_error_reset_streams(MAX_RESETS_CAUSED)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = pin!(http);
    let mut ending = false;
    poll_fn(|cx| {
        if connection.worker.is_draining() && !ending {
            ending = true;
            http.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(served) = http.as_mut().poll(cx) {
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
            return Poll::Ready(());
        }
        if connection.deadline.poll_killed(cx) {
            return Poll::Ready(());
        }
        if connection.in_flight.get() > 0 || !connection.deadline.poll_fired(cx) {
            return Poll::Pending;
        }
        if ending {
            return Poll::Ready(());
        }
        // Idle for too long: it is told so, and has a moment to take note.
        ending = true;
        http.as_mut().graceful_shutdown();
        connection.deadline.arm(LINGER.into());
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
