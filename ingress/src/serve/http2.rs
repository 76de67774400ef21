//! HTTP/2 connections of clients.
//!
//! The library `h2` reads and writes frames, and says which requests have come; each is served by
//! a task of the worker's own thread.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Builder, Handshake, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::stream::Stream;
use super::tunnel;
use crate::body::RequestBody;
use crate::connection::Connection;
use crate::handler::handle;
use crate::in_flight::InFlight;
use crate::request::check::max_header_list;
use crate::responder::Responder;
use crate::response::ResponseBody;
use crate::settings::{
    CONNECTION_WINDOW, LINGER, MAX_RESETS_CAUSED, MAX_RESETS_UNSEEN, STREAM_SEND_BUFFER,
    STREAM_WINDOW,
};
use crate::stalled::StreamState;

/// Where a connection is.
enum Http<S> {
    Begins(Handshake<Stream<S>, Bytes>),
    Serves(h2::server::Connection<Stream<S>, Bytes>),
}

impl<S> Http<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    fn new(connection: &Connection, stream: Stream<S>) -> Http<S> {
        let settings = connection.context.settings();
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(settings.max_streams)
            .max_header_list_size(max_header_list(settings.max_header_bytes))
            .max_send_buffer_size(STREAM_SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_RESETS_UNSEEN)
            .max_local_error_reset_streams(Some(MAX_RESETS_CAUSED))
            .enable_connect_protocol();
        Http::Begins(builder.handshake(stream))
    }

    /// Serves the requests that come; ready once the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>, connection: &Rc<Connection>) -> Poll<()> {
        loop {
            match self {
                Http::Begins(handshake) => match ready!(pin!(handshake).poll(cx)) {
                    Ok(http) => *self = Http::Serves(http),
                    Err(error) => {
                        tracing::debug!(%error, "no HTTP/2 connection");
                        return Poll::Ready(());
                    }
                },
                Http::Serves(http) => match ready!(http.poll_accept(cx)) {
                    Some(Ok((request, respond))) => begin(connection, request, respond),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "connection ended");
                        return Poll::Ready(());
                    }
                    None => return Poll::Ready(()),
                },
            }
        }
    }

    /// Takes no more requests, and ends once those in flight have ended; false if it has not begun
    /// yet.
    fn shut_down(&mut self) -> bool {
        match self {
            Http::Begins(_) => false,
            Http::Serves(http) => {
                http.graceful_shutdown();
                true
            }
        }
    }
}

pub(super) async fn serve<S>(connection: Rc<Connection>, mut stream: Stream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    stream.serve_http2();
    let mut http = Http::new(&connection, stream);
    let mut ending = false;
    let deadline = connection.deadline();
    poll_fn(|cx| {
        if connection.context.is_draining() && !ending {
            ending = http.shut_down();
        }
        if http.poll(cx, &connection).is_ready() {
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
        if !http.shut_down() {
            return Poll::Ready(());
        }
        deadline.arm(LINGER.into());
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Begins a task that serves a request.
fn begin(connection: &Rc<Connection>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let state = connection.begin_stream(Responder::new(respond));
    let serving = serve_stream(connection, &state, request);
    let connection = connection.clone();
    tokio::task::spawn_local(async move {
        // The request is dropped here, before the connection looks at what is left.
        let is_stalled = {
            let mut serving = pin!(serving);
            poll_fn(|cx| {
                if serving.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                // While the client does not open the stream's window nothing else is polled, so
                // time-out and memory are looked at here: dropping the stream resets it.
                if !state.deadline.poll_killed(cx) {
                    connection.on_pending_stream(&state);
                }
                match state.deadline.poll_killed(cx) {
                    true => Poll::Ready(true),
                    false => Poll::Pending,
                }
            })
            .await
        };
        state.responder.give_up();
        connection.end_stream(&state);
        if is_stalled && !state.made_room() {
            connection.on_stalled_stream();
        }
    });
}

/// Serves one request. It is in flight at once, before its task is polled.
fn serve_stream(
    connection: &Rc<Connection>,
    state: &Rc<StreamState>,
    request: Request<RecvStream>,
) -> impl Future<Output = ()> + 'static {
    let in_flight = InFlight::begin(connection.clone(), Some(state.clone()));
    let (parts, body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    // What follows CONNECT is no body.
    let (body, mut tunnel) = match parts.method {
        Method::CONNECT => (RequestBody::Empty, Some(body)),
        _ => (RequestBody::of_stream(body, &parts.headers, state), None),
    };
    // Each stage has a box of its own, which lives no longer than the stage: a stream whose
    // endpoint has not answered has no room for sending, and one whose client takes nothing none
    // for the exchange.
    let mut handling = Box::pin(handle(in_flight, Request::from_parts(parts, body)));
    let (connection, state) = (connection.clone(), state.clone());
    async move {
        let answered = poll_fn(|cx| match handling.as_mut().poll(cx) {
            Poll::Ready(response) => {
                Poll::Ready(respond(&connection, &state, response, (is_head, tunnel.take())))
            }
            Poll::Pending => state.responder.poll_reset(cx).map(|()| None),
        });
        let sending = answered.await;
        drop(handling);
        if let Some(sending) = sending {
            sending.await;
        }
    }
}

/// Sends the head of a response; what sends its body, if it has any.
fn respond(
    connection: &Connection,
    state: &Rc<StreamState>,
    response: Response<ResponseBody>,
    (is_head, tunnel): (bool, Option<RecvStream>),
) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
    let (head, mut body) = response.into_parts();
    let mut head = Response::from_parts(head, ());
    let headers = head.headers_mut();
    if !headers.contains_key(header::DATE) {
        headers.insert(header::DATE, connection.context.date());
    }
    let is_tunnel = tunnel.is_some() && head.status().is_success();
    let is_all = !is_tunnel && (is_head || body.is_end_stream());
    if !body.is_end_stream()
        && !is_tunnel
        && head.status() != StatusCode::NO_CONTENT
        && let Some(length) = body.size_hint().exact()
    {
        let headers = head.headers_mut();
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let mut send = state.responder.respond(head, is_all)?;
    if is_all {
        return None;
    }
    if is_tunnel {
        let (receive, upstream) = (tunnel?, body.take_tunnel()?);
        let (state, timeout) = (state.clone(), connection.context.settings().tunnel_timeout);
        return Some(Box::pin(async move {
            tunnel::serve_stream(&state, timeout, (send, receive), upstream).await;
            // The request is in flight until here.
            drop(body);
        }));
    }
    // The request's stream is read by nobody who could tell of a reset.
    drop(tunnel);
    let mut piece = None;
    Some(Box::pin(poll_fn(move |cx| poll_send(&mut send, Pin::new(&mut body), &mut piece, cx))))
}

/// A piece of a body that waits for room in the client's window, and whether it is the last.
type Piece = Option<(Bytes, bool)>;

/// Sends a response's body as the client takes it; ready once nothing more is sent.
fn poll_send(
    send: &mut SendStream<Bytes>,
    mut body: Pin<&mut ResponseBody>,
    piece: &mut Piece,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if send.poll_reset(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some((data, is_last)) = piece.take() {
            while send.capacity() == 0 {
                match send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => {
                        *piece = Some((data, is_last));
                        return Poll::Pending;
                    }
                }
            }
            if send.send_data(data, is_last).is_err() || is_last {
                return Poll::Ready(());
            }
            continue;
        }
        // Room is asked for only once there is something to send: other streams need it too.
        let frame = match ready!(body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                tracing::debug!(%error, "response broken off");
                send.send_reset(Reason::INTERNAL_ERROR);
                return Poll::Ready(());
            }
            None => {
                let _ = send.send_data(Bytes::new(), true);
                return Poll::Ready(());
            }
        };
        match frame.into_data() {
            Ok(data) if data.is_empty() => {
                let is_last = body.is_end_stream();
                if is_last {
                    let _ = send.send_data(data, true);
                    return Poll::Ready(());
                }
            }
            Ok(data) => {
                // No more than what says that the stream waits; the library asks for the rest when
                // it has the piece.
                send.reserve_capacity(1);
                *piece = Some((data, body.is_end_stream()));
            }
            Err(frame) => {
                send.reserve_capacity(0);
                if let Ok(trailers) = frame.into_trailers() {
                    let _ = send.send_trailers(trailers);
                }
                return Poll::Ready(());
            }
        }
    }
}
