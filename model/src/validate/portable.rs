//! What a Kubernetes API refuses although it is served here: warnings, so that manifests which are
//! meant for a cluster too do not fail there.
//!
//! Pure. The rules are those of the API's server-side dry run. Left out: errors, which are in the
//! file of each kind.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{At, Check, ROOT, format};
use crate::object;
use crate::record::Family;

/// `hints.forZones` and `hints.forNodes`.
const MAX_HINTS: usize = 8;

/// Rules of a Service's spec that depend on its type.
pub(super) fn service(spec: &object::ServiceSpec<'_>, at: &At<'_>, check: &mut Check<'_>) {
    let is_balanced = spec.service_type.as_deref() == Some("LoadBalancer");
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    if spec.health_check_node_port.is_some_and(|port| port != 0) && !(is_balanced && is_local) {
        let why = "may only be used when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                   'Local'";
        check.not_portable(at.key("healthCheckNodePort"), why);
    }
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let list = at.key("loadBalancerSourceRanges");
    if !ranges.is_empty() && !is_balanced {
        check.not_portable(list, "may only be used when `type` is 'LoadBalancer'");
    }
    for (i, range) in ranges.iter().enumerate() {
        let network = range.trim().parse::<IpNet>().ok();
        if let Some(network) = network.filter(|network| network.trunc() != *network) {
            let why = format!("{} has host bits set; its network is {}", &**range, network.trunc());
            check.not_portable(list.index(i), why);
        }
    }
    let external_ips = at.key("externalIPs");
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        if let Some(kind) = text.parse::<IpAddr>().ok().and_then(special) {
            check.not_portable(external_ips.index(i), format!("{} is {kind}", &**text));
        }
    }
    load_balancer_class(spec, is_balanced, at, check);
    let name = spec.external_name.as_deref().unwrap_or_default();
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let why = format!("{name} has upper-case letters");
        check.not_portable(at.key("externalName"), why);
    }
    families(spec, at, check);
}

/// The class says which controller of a cluster makes the load balancer. That it must not change is
/// not checked, because a manifest does not say what it was.
fn load_balancer_class(
    spec: &object::ServiceSpec<'_>,
    is_balanced: bool,
    at: &At<'_>,
    check: &mut Check<'_>,
) {
    let Some(class) = spec.load_balancer_class.as_deref() else { return };
    let at = at.key("loadBalancerClass");
    if !is_balanced {
        check.not_portable(at, "may only be used when `type` is 'LoadBalancer'");
    } else if let Err(why) = format::qualified_name(class) {
        check.not_portable(at, why);
    }
}

/// An address that a load balancer or router cannot send to a node.
fn special(ip: IpAddr) -> Option<&'static str> {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let loopback = ip.is_loopback().then_some("a loopback address");
    loopback.or(is_link_local.then_some("a link-local address"))
}

fn families(spec: &object::ServiceSpec<'_>, at: &At<'_>, check: &mut Check<'_>) {
    let many = spec.cluster_ips.iter().flatten().map(|ip| &**ip);
    let one = spec.cluster_ip.as_deref().filter(|_| spec.cluster_ips.is_none());
    let ips = many.chain(one).map(|text| text.parse::<IpAddr>().ok());
    let list = at.key("ipFamilies");
    for (i, (family, ip)) in spec.ip_families.iter().flatten().zip(ips).enumerate() {
        let Some(ip) = ip else { continue };
        let of_ip = if Family::of(ip) == Family::V4 { "IPv4" } else { "IPv6" };
        if **family != *of_ip {
            let why = format!("{} is not the family of clusterIP {ip}", &**family);
            check.not_portable(list.index(i), why);
        }
    }
}

/// An address that is not in the canonical form that the API requires.
pub(super) fn address(text: &str, ip: IpAddr, at: At<'_>, check: &mut Check<'_>) {
    if ip.is_ipv6() && !check.of_api {
        let canonical = ip.to_string();
        if canonical != text {
            let why = format!("{text} must be in canonical form ({canonical})");
            check.not_portable(at, why);
        }
    }
}

/// The node and zone of an endpoint, and its hints.
pub(super) fn endpoint(object: &object::Endpoint<'_>, at: &At<'_>, check: &mut Check<'_>) {
    let node = object.node_name.as_deref().filter(|name| !name.is_empty());
    if let Some(Err(why)) = node.map(format::dns_subdomain) {
        check.not_portable(at.key("nodeName"), why);
    }
    let Some(hints) = &object.hints else { return };
    let field = at.key("hints");
    for (key, list) in [("forZones", &hints.for_zones), ("forNodes", &hints.for_nodes)] {
        let names: Vec<_> = list.iter().flatten().filter_map(|hint| hint.name.as_deref()).collect();
        let at = field.key(key);
        if names.len() > MAX_HINTS {
            let why = format!("{} hints, and at most {MAX_HINTS} are allowed", names.len());
            check.not_portable(at, why);
        }
        let mut seen = HashSet::new();
        for (i, name) in names.iter().enumerate().filter(|(_, name)| !seen.insert(**name)) {
            check.not_portable(at.index(i), format!("{name} is listed twice"));
        }
    }
}

/// `spec.controller` of an IngressClass: a domain, and a path below it.
pub(super) fn controller(controller: &str, check: &mut Check<'_>) {
    const LONGEST: usize = 250;
    let Some((domain, path)) = controller.split_once('/') else { return };
    let is_path = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c);
    let valid = format::dns_subdomain(domain).is_ok()
        && !path.is_empty()
        && path.chars().all(is_path)
        && controller.len() <= LONGEST;
    if !valid {
        let spec = ROOT.key("spec");
        let why = format!("must be a domain-prefixed path of at most {LONGEST} bytes");
        check.not_portable(spec.key("controller"), why);
    }
}

/// `spec.parameters` of an IngressClass, which nothing here reads.
pub(super) fn parameters(
    reference: &object::IngressClassParametersReference<'_>,
    check: &mut Check<'_>,
) {
    let spec = ROOT.key("spec");
    let at = spec.key("parameters");
    let group = reference.api_group.as_deref();
    if let Some(Err(why)) = group.map(format::dns_subdomain) {
        check.not_portable(at.key("apiGroup"), why);
    }
    for (key, text) in [("kind", &reference.kind), ("name", &reference.name)] {
        let text = text.as_deref().unwrap_or_default();
        let is_segment = !matches!(text, "." | "..") && !text.contains(['/', '%']);
        if text.is_empty() {
            check.not_portable(at.key(key), "is missing");
        } else if !is_segment {
            let why = format!("{text:?} must not be '.' or '..', nor have '/' or '%' in it");
            check.not_portable(at.key(key), why);
        }
    }
    let namespace = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    match (reference.scope.as_deref(), namespace) {
        (None | Some("Cluster"), None) => {}
        (None | Some("Cluster"), Some(_)) => {
            let why = "must not be set when `scope` is 'Cluster', which is the default";
            check.not_portable(at.key("namespace"), why);
        }
        (Some("Namespace"), None) => {
            check.not_portable(at.key("namespace"), "is needed when `scope` is 'Namespace'");
        }
        (Some("Namespace"), Some(namespace)) => {
            if let Err(why) = format::dns_label(namespace) {
                check.not_portable(at.key("namespace"), why);
            }
        }
        (Some(scope), _) => {
            let why = format!("{scope:?} must be 'Cluster' or 'Namespace'");
            check.not_portable(at.key("scope"), why);
        }
    }
}
