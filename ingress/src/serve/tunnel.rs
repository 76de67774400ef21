//! A connection that has changed protocols: bytes both ways, until both sides have ended or
//! nothing was said for too long.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};

use super::stream::Stream;
use super::{Connection, Phase, in_time};
use crate::upstream::Upstream;

/// `early` are the bytes that the client sent behind its request: the endpoint gets them only
/// now, after its 101.
pub(super) async fn serve<S>(
    connection: &Rc<Connection>,
    mut stream: Stream<S>,
    early: BytesMut,
    upstream: Box<Upstream>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let timeout = connection.worker.settings().tunnel_timeout;
    connection.phase.set(Phase::Exchange);
    connection.timeout.set(timeout);
    connection.deadline.arm(timeout);
    let (mut endpoint, first) = upstream.into_tunnel();
    let copied = async {
        endpoint.write_all(&early).await?;
        stream.write_all(&first).await?;
        // All bytes of either direction pass the client's stream, which puts the deadline off.
        copy_bidirectional(&mut stream, &mut endpoint).await
    };
    if let Some(Err(error)) = in_time(copied, &connection.deadline).await {
        tracing::debug!(%error, "tunnel ended");
    }
}
