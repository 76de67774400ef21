//! What is fuzzed in this package: it takes any bytes, and checks what must hold for every outcome.
//!
//! Called by the targets under `fuzz/` and, for a bounded number of inputs, by `tests/fuzz.rs`.
//! Not part of this package's interface.

use std::net::SocketAddr;

use crate::proxy_protocol::{ProxyHeader, parse, write};

/// A PROXY header: it says what a plain reading of its bytes says, and written anew it says the
/// same.
pub fn proxy_header(data: &[u8]) {
    let Ok(header) = parse(data) else { return };
    let is_v2 = data.first() == Some(&b'\r');
    let ProxyHeader::Client { client, local } = header else {
        assert!(is_v2 || header == ProxyHeader::Unknown, "version 1 has no command LOCAL");
        return;
    };
    let expected = if is_v2 { addresses_v2(data) } else { addresses_v1(data) };
    assert_eq!(Some((client, local)), expected, "b\"{}\"", data.escape_ascii());
    let written = write(client, local);
    let again = parse(&written).expect("our own header is valid");
    let ProxyHeader::Client { client: client_again, local: local_again } = again else {
        panic!("our own header names no client: {again:?}");
    };
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let both = (canonical(client_again), canonical(local_again));
    assert_eq!(both, (canonical(client), canonical(local)));
    for end in 0..written.len() {
        assert!(parse(&written[..end]).is_err(), "{end} bytes of a header of {}", written.len());
    }
}

/// `PROXY TCP4 client local client-port local-port`.
fn addresses_v1(line: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let end = line.windows(2).position(|end| end == b"\r\n")?;
    let words: Vec<_> = std::str::from_utf8(&line[..end]).ok()?.split(' ').collect();
    let [_, family, client, local, client_port, local_port] = words[..] else { return None };
    let address = |ip: &str, port: &str| -> Option<SocketAddr> {
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    let (client, local) = (address(client, client_port)?, address(local, local_port)?);
    let is_v4 = family == "TCP4";
    (client.is_ipv4() == is_v4 && local.is_ipv4() == is_v4).then_some((client, local))
}

/// Addresses behind the sixteen fixed bytes, then the ports.
fn addresses_v2(header: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (family, body) = (*header.get(13)?, header.get(16..)?);
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let v4 = |at: usize| <[u8; 4]>::try_from(body.get(at..at + 4)?).ok();
    let v6 = |at: usize| <[u8; 16]>::try_from(body.get(at..at + 16)?).ok();
    if family >> 4 == 1 {
        Some(((v4(0)?, port(8)?).into(), (v4(4)?, port(10)?).into()))
    } else {
        Some(((v6(0)?, port(32)?).into(), (v6(16)?, port(34)?).into()))
    }
}
