//! Tells systemd that the process is ready, and that it drains: `Type=notify`.
//!
//! A datagram to the socket that `$NOTIFY_SOCKET` names (sd_notify(3)), if a service manager set
//! one. Left out: watchdogs and reloads; a process re-reads at SIGHUP without a pause.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::shutdown::Shutdown;

/// Sends `READY=1` once the process is `ready`, unless it never will be, then `STOPPING=1` at its
/// drain.
pub(crate) async fn follow(ready: impl Future<Output = bool>, shutdown: Shutdown) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else {
        return;
    };
    tokio::select! {
        true = ready => report(&place, "READY=1"),
        () = shutdown.draining() => {}
    }
    shutdown.draining().await;
    report(&place, "STOPPING=1");
}

fn report(place: &OsStr, state: &str) {
    if let Err(error) = send(place, state) {
        tracing::warn!(socket = ?place, state, %error, "cannot notify the service manager");
    }
}

fn send(place: &OsStr, state: &str) -> io::Result<()> {
    let address = match place.as_bytes() {
        // An abstract socket, conventionally written with an @.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn a_state_reaches_a_socket_by_path_and_an_abstract_one() {
        let path = std::env::temp_dir().join(format!("switchyard-notify-{}", std::process::id()));
        let name = format!("@switchyard-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let table = [
            (OsString::from(&path), UnixDatagram::bind(&path).unwrap()),
            (OsString::from(name), UnixDatagram::bind_addr(&abstract_name).unwrap()),
        ];
        for (place, socket) in table {
            send(&place, "READY=1").unwrap();
            let mut buf = [0; 32];
            let len = socket.recv(&mut buf).unwrap();
            assert_eq!(&buf[..len], b"READY=1", "{place:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1").is_err(), "nobody listens");
    }
}
