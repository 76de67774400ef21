//! The client against a server that fails in every way, over real sockets.

mod cold;
mod fake;
mod faults;
mod tls;

use super::*;

#[test]
fn only_loopback_is_this_machine() {
    let table = [
        ("http://127.0.0.1:7400", true),
        ("http://127.3.4.5", true),
        ("https://localhost:6443/base", true),
        ("http://LocalHost", true),
        ("http://[::1]:7400", true),
        ("http://[::ffff:127.0.0.1]:7400", true),
        ("http://10.0.0.1:7400", false),
        ("http://localhost.example", false),
        ("http://feed:7400", false),
        ("http://[2001:db8::1]", false),
    ];
    for (url, local) in table {
        assert_eq!(is_this_machine(&url.parse().unwrap()), local, "{url}");
    }
}
