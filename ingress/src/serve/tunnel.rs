//! A connection that has changed protocols: bytes are passed both ways until both sides have
//! ended, or neither has sent anything for too long.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};

use super::stream::Stream;
use crate::connection::{Connection, Phase};
use crate::deadline::in_time;
use crate::upstream::Upstream;

/// `early` are the bytes that the client sent behind its request: the endpoint gets them only
/// now, after its 101.
pub(super) async fn serve<S>(
    connection: &Rc<Connection>,
    mut stream: Stream<S>,
    early: BytesMut,
    upstream: Upstream,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.enter(Phase::Exchange, connection.context.settings().tunnel_timeout);
    let Some((mut endpoint, first)) = upstream.into_tunnel() else { return };
    let copied = async {
        endpoint.write_all(&early).await?;
        stream.write_all(&first).await?;
        // All bytes of either direction pass the client's stream, which puts the deadline off.
        copy_bidirectional(&mut stream, &mut endpoint).await
    };
    if let Some(Err(error)) = in_time(copied, connection.deadline()).await {
        tracing::debug!(%error, "tunnel ended");
    }
}
