//! How the requests of a route are served: everything that the annotations of its Ingress and the
//! process's flags ask for, compiled once.
//!
//! A request looks nothing up but its plan. Where an annotation is not set, the process's own
//! setting is in its place.

use std::sync::Arc;

use super::policy::{Policy, RefusedBy, Retry};
use super::special::Special;
use crate::deadline::Ticks;
use crate::endpoint_tls::EndpointTls;
use crate::wire::BackendProtocol;

/// How a route's requests are served.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Plain HTTP is redirected to HTTPS, at this port of ours for clients that named a port.
    pub(crate) https_redirect: Option<u16>,
    /// The port of ours for HTTPS.
    pub(crate) https_port: u16,
    /// What few routes ask for.
    pub(crate) special: Option<Arc<Special>>,
    /// The annotation because of which requests are answered with 503.
    pub(crate) refused: Option<RefusedBy>,
    /// Bytes that a request's body may have.
    pub(crate) max_body: u64,
    pub(crate) connect_timeout: Ticks,
    pub(crate) read_timeout: Ticks,
    pub(crate) send_timeout: Ticks,
    /// When a request is sent again, if the Ingress says so.
    pub(crate) retry: Option<Retry>,
    /// What endpoints are said to speak, whatever their Service says.
    pub(crate) protocol: Option<BackendProtocol>,
    /// How TLS to endpoints is, where annotations say it.
    pub(crate) endpoint_tls: Option<Arc<EndpointTls>>,
}

/// The process's own settings, for routes whose Ingress does not set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlanDefaults {
    pub(crate) https_port: u16,
    /// Bytes that a request's body may have.
    pub(crate) max_body: u64,
    pub(crate) connect_timeout: Ticks,
    pub(crate) read_timeout: Ticks,
    pub(crate) send_timeout: Ticks,
}

/// Where nothing is served, so that only the kind of a decision matters: of HTTPS at its own port,
/// without limits.
impl Default for PlanDefaults {
    fn default() -> PlanDefaults {
        let timeout = Ticks::ZERO;
        PlanDefaults {
            https_port: 443,
            max_body: u64::MAX,
            connect_timeout: timeout,
            read_timeout: timeout,
            send_timeout: timeout,
        }
    }
}

impl Plan {
    /// The plan for routes of one Ingress and host; `redirects` if plain HTTP is redirected.
    pub(super) fn new(policy: &Policy, redirects: bool, defaults: &PlanDefaults) -> Plan {
        let timeout = |of_policy: Option<_>, default| of_policy.map_or(default, Ticks::from);
        let transfer = &policy.transfer;
        let max_body = transfer.max_body.map(|bytes| bytes.unwrap_or(u64::MAX));
        Plan {
            https_redirect: redirects.then_some(defaults.https_port),
            https_port: defaults.https_port,
            special: None,
            refused: policy.refused,
            max_body: max_body.unwrap_or(defaults.max_body),
            connect_timeout: timeout(transfer.connect_timeout, defaults.connect_timeout),
            read_timeout: timeout(transfer.read_timeout, defaults.read_timeout),
            send_timeout: timeout(transfer.send_timeout, defaults.send_timeout),
            retry: policy.retry.retry(),
            protocol: policy.endpoints.protocol,
            endpoint_tls: policy.endpoints.tls.clone(),
        }
    }
}
