//! A Kubernetes API as a source: `switchyard feed` or a real kube-apiserver.
//!
//! One conversation a kind ([`session`], which joins the splitters of bytes to the state machine
//! of list and watch in [`machine`]).

mod backoff;
mod cut;
mod decode;
mod envelope;
mod lines;
mod machine;
mod page;
mod session;
mod version;
