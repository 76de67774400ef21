//! Reads a page of a process's admin endpoint, for the commands that ask a running process.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Pages for these commands are short.
const MAX_ANSWER: u64 = 1 << 20;

/// The status code and the body. `timeout` is for connecting, and again for each part of the
/// answer.
pub(crate) fn get(admin: SocketAddr, target: &str, timeout: Duration) -> io::Result<(u16, String)> {
    // The kernel does not accept a time-out of zero.
    let timeout = timeout.max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&admin, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.filter(|_| head.starts_with("HTTP/1.1 "));
    let code = code.ok_or_else(not_an_admin_endpoint)?;
    Ok((code, body.to_owned()))
}

/// The error for an answer that no process of ours gives.
pub(crate) fn not_an_admin_endpoint() -> io::Error {
    io::Error::other("the server at this address is not an admin endpoint")
}
