//! The fields that Kubernetes has and this project does not use.
//!
//! The output of `kubectl get -o yaml` contains them all, so they are not errors; other unknown
//! fields are. Listed by the name of the type in [`crate::object`]. Source: the OpenAPI schema of
//! Kubernetes 1.36. The content of such a field is not checked.

/// The form of a field that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unused {
    Text,
    Integer,
    Boolean,
    /// An object with any content.
    Object,
    Texts,
    Objects,
}

use Unused::{Boolean, Integer, Object, Objects, Text, Texts};

/// Whether Kubernetes has a field of that name in that type, besides those which it decodes.
///
/// For Pods and other types that grow with each release, only the fields in `used` are used: in
/// these types any name is accepted unless it is similar to one of those.
pub(crate) fn is_known(type_name: &str, used: &[&str], field: &str) -> bool {
    if grows(type_name) {
        return !used.iter().any(|name| likeness(name, field) >= MISSPELLED);
    }
    unused(type_name).iter().any(|(name, _)| *name == field)
}

/// Whether the type has more fields than are listed here, and more with each release.
pub(crate) fn grows(type_name: &str) -> bool {
    GROWING.contains(&type_name)
}

/// The field name that was probably meant.
pub(crate) fn nearest(type_name: &str, used: &[&'static str], field: &str) -> Option<&'static str> {
    let unused = unused(type_name).iter().map(|(name, _)| name);
    used.iter()
        .chain(unused)
        .map(|name| (likeness(name, field), *name))
        .filter(|(likeness, _)| *likeness >= RELATED)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

const GROWING: [&str; 4] = ["PodSpec", "Container", "PodStatus", "NodeStatus"];
/// Two field names of Kubernetes in the same type are always less similar than this.
const MISSPELLED: f64 = 0.75;
/// Below this similarity, names have hardly a letter in common.
const RELATED: f64 = 0.6;

fn likeness(name: &str, field: &str) -> f64 {
    // Longer than any field, and comparing takes time with the product of the lengths.
    const LONGEST: usize = 64;
    if field.len() > LONGEST {
        return 0.0;
    }
    strsim::normalized_damerau_levenshtein(&name.to_lowercase(), &field.to_lowercase())
}

/// The fields of a type that Kubernetes has and that are not used, with their form.
pub(crate) fn unused(type_name: &str) -> &'static [(&'static str, Unused)] {
    match type_name {
        "Meta" => &[
            ("deletionGracePeriodSeconds", Integer),
            ("finalizers", Texts),
            ("generateName", Text),
            ("generation", Integer),
            ("managedFields", Objects),
            ("ownerReferences", Objects),
            ("resourceVersion", Text),
            ("selfLink", Text),
            ("uid", Text),
        ],
        "Service" | "Pod" => HEADER,
        "ServiceSpec" => &[("allocateLoadBalancerNodePorts", Boolean), ("loadBalancerIP", Text)],
        "ServiceStatus" => &[("conditions", Objects)],
        "LoadBalancerIngress" => &[("hostname", Text), ("ports", Objects)],
        "EndpointSlice" | "Endpoints" => HEADER,
        "Endpoint" => &[("deprecatedTopology", Object), ("targetRef", Object)],
        "EndpointAddress" => &[("targetRef", Object)],
        "ContainerPort" => &[("hostIP", Text), ("hostPort", Integer)],
        "Condition" => &[
            ("lastProbeTime", Text),
            ("lastTransitionTime", Text),
            ("message", Text),
            ("observedGeneration", Integer),
            ("reason", Text),
        ],
        "Ingress" => &[("apiVersion", Text), ("kind", Text), ("status", Object)],
        "TypedLocalObjectReference" => &[("apiGroup", Text)],
        "IngressClass" => HEADER,
        "Secret" => &[("apiVersion", Text), ("immutable", Boolean), ("kind", Text)],
        "Namespace" => {
            &[("apiVersion", Text), ("kind", Text), ("spec", Object), ("status", Object)]
        }
        "Node" => &[("apiVersion", Text), ("kind", Text), ("spec", Object)],
        "List" => &[("apiVersion", Text), ("items", Objects), ("kind", Text), ("metadata", Object)],
        _ => &[],
    }
}

const HEADER: &[(&str, Unused)] = &[("apiVersion", Text), ("kind", Text)];
