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

use super::stream::Stream;
use crate::connection::Connection;
use crate::handler::handle;
use crate::in_flight::InFlight;
use crate::request::check::max_header_list;
use crate::settings::{
    CONNECTION_WINDOW, LINGER, MAX_RESETS_CAUSED, MAX_RESETS_UNSEEN, STREAM_SEND_BUFFER,
    STREAM_WINDOW,
};

/// Runs each stream of a connection in a task of the worker's own thread.
#[derive(Clone, Debug)]
struct Streams(Rc<Connection>);

impl<F> Executor<F> for Streams
where
    F: Future + 'static,
{
    fn execute(&self, stream: F) {
        let connection = self.0.clone();
        let state = connection.take_begun_stream();
        tokio::task::spawn_local(async move {
            // The stream is dropped here, and its request with it, before the connection looks at
            // what is left.
            let is_stalled = {
                let mut stream = pin!(stream);
                poll_fn(|cx| {
                    if stream.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(false);
                    }
                    // While hyper waits for the client to open the stream's window it polls
                    // nothing of ours, so time-out and memory are looked at here: dropping the
                    // stream resets it.
                    let Some(state) = &state else { return Poll::Pending };
                    if !state.deadline.poll_killed(cx) {
                        connection.on_pending_stream(state);
                    }
                    match state.deadline.poll_killed(cx) {
                        true => Poll::Ready(true),
                        false => Poll::Pending,
                    }
                })
                .await
            };
            let Some(state) = state else { return };
            connection.end_stream(&state);
            if is_stalled && !state.made_room() {
                connection.on_stalled_stream();
            }
        });
    }
}

pub(super) async fn serve<S>(connection: Rc<Connection>, mut stream: Stream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    stream.serve_http2();
    let settings = connection.context.settings();
    let service = {
        let connection = connection.clone();
        // The stream's state is made here, not in the handler's future: hyper gives the stream
        // to the executor next, which takes the state.
        //
        // It is boxed because it is several times as large as all that a response needs, which a
        // stream's task would hold for as long as its client takes nothing.
        service_fn(move |request| Box::pin(handle(InFlight::begin(connection.clone()), request)))
    };
    let http = Builder::new(Streams(connection.clone()))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(max_header_list(settings.max_header_bytes))
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS_UNSEEN)
        .max_local_error_reset_streams(MAX_RESETS_CAUSED)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = pin!(http);
    let mut ending = false;
    let deadline = connection.deadline();
    poll_fn(|cx| {
        if connection.context.is_draining() && !ending {
            ending = true;
            http.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(served) = http.as_mut().poll(cx) {
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
            return Poll::Ready(());
        }
        if deadline.poll_killed(cx) || (connection.is_flooded() && deadline.poll_fired(cx)) {
            return Poll::Ready(());
        }
        if connection.in_flight() > 0 || !deadline.poll_fired(cx) {
            return Poll::Pending;
        }
        if ending {
            return Poll::Ready(());
        }
        // Idle for too long: GOAWAY, and a moment for the client to close.
        ending = true;
        http.as_mut().graceful_shutdown();
        deadline.arm(LINGER.into());
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
