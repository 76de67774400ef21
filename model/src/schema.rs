//! The names of the fields that Kubernetes has and this project does not use.
//!
//! The output of `kubectl get -o yaml` contains them all, so they are not errors; other unknown
//! fields are. Listed by the name of the type in [`crate::object`]. Source: the OpenAPI schema of
//! Kubernetes 1.36. The content of such a field is not checked.

/// Whether Kubernetes has a field of that name in that type, besides those which it decodes.
///
/// For Pods and other types that grow with each release, only the fields in `used` are used: in
/// these types any name is accepted unless it is similar to one of those.
pub(crate) fn is_known(type_name: &str, used: &[&str], field: &str) -> bool {
    if GROWING.contains(&type_name) {
        return !used.iter().any(|name| likeness(name, field) >= MISSPELLED);
    }
    unused(type_name).contains(&field)
}

/// The field name that was probably meant.
pub(crate) fn nearest(type_name: &str, used: &[&'static str], field: &str) -> Option<&'static str> {
    used.iter()
        .chain(unused(type_name))
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

fn unused(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "Meta" => &[
            "deletionGracePeriodSeconds",
            "finalizers",
            "generateName",
            "generation",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        ],
        "Service" | "Pod" => &["apiVersion", "kind"],
        "ServiceSpec" => &["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerIP"],
        "ServiceStatus" => &["conditions"],
        "LoadBalancerIngress" => &["hostname", "ports"],
        "EndpointSlice" | "Endpoints" => &["apiVersion", "kind"],
        "Endpoint" => &["deprecatedTopology", "targetRef"],
        "EndpointAddress" => &["targetRef"],
        "ContainerPort" => &["hostIP", "hostPort"],
        "Condition" => {
            &["lastProbeTime", "lastTransitionTime", "message", "observedGeneration", "reason"]
        }
        "Ingress" => &["apiVersion", "kind", "status"],
        "TypedLocalObjectReference" => &["apiGroup"],
        "IngressClass" => &["apiVersion", "kind"],
        "IngressClassSpec" => &["parameters"],
        "Secret" => &["apiVersion", "immutable", "kind"],
        "Namespace" => &["apiVersion", "kind", "spec", "status"],
        "Node" => &["apiVersion", "kind", "spec"],
        "List" => &["apiVersion", "items", "kind", "metadata"],
        _ => &[],
    }
}
