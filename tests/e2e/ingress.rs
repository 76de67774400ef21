//! The ingress as a process: the real binary follows a folder, clients of every kind send requests,
//! and test endpoints record what arrives.

mod access_log;
mod affinity;
mod annotations;
mod balancing;
mod canary;
mod changes;
mod client_certificates;
mod clients;
mod external_auth;
mod frames;
mod http2;
mod http2_endpoints;
mod https_endpoints;
mod interim;
mod kit;
mod limits;
mod mirror;
mod proxy_protocol;
mod proxying;
mod raw_http1;
mod raw_http2;
mod recorder;
mod records;
mod routing;
mod smuggling;
mod stalled;
mod tls;
mod traces;
mod websockets;
