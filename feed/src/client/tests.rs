//! The client against a server that fails in every way, over real sockets.

mod cold;
mod fake;
mod faults;
mod tls;

use super::*;
