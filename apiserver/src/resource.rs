//! The resources that the server serves, as Kubernetes describes them.
//!
//! The order of [`Resource`] is the order in which a batch is published, make before break: what
//! others refer to comes up first, and goes last.

use std::fmt;

/// A resource of the API: what a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    Namespaces,
    Nodes,
    IngressClasses,
    Secrets,
    Services,
    Pods,
    Endpoints,
    EndpointSlices,
    Ingresses,
    Events,
}

/// What Kubernetes says of a resource.
struct Traits {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
    /// `metadata.generation` counts changes of what stands beside the metadata.
    generation: bool,
    /// The fields besides metadata that an object without content has: a bookmark is one, and
    /// typed clients refuse it without them.
    empty: &'static str,
    /// Field selectors besides `metadata.name` and `metadata.namespace`: name and JSON pointer.
    fields: &'static [(&'static str, &'static str)],
}

const EVENT_FIELDS: [(&str, &str); 11] = [
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];

const POD_FIELDS: [(&str, &str); 7] = [
    ("spec.hostNetwork", "/spec/hostNetwork"),
    ("spec.nodeName", "/spec/nodeName"),
    ("spec.restartPolicy", "/spec/restartPolicy"),
    ("spec.schedulerName", "/spec/schedulerName"),
    ("spec.serviceAccountName", "/spec/serviceAccountName"),
    ("status.phase", "/status/phase"),
    ("status.podIP", "/status/podIP"),
];

/// What most resources have in common.
const PLAIN: Traits = Traits {
    group: "",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    namespaced: true,
    generation: false,
    empty: "",
    fields: &[],
};

const NAMESPACES: Traits = Traits {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    empty: r#","spec":{},"status":{}"#,
    fields: &[("status.phase", "/status/phase")],
    ..PLAIN
};

const NODES: Traits = Traits {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    empty: r#","spec":{},"status":{}"#,
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
    ..PLAIN
};

const INGRESS_CLASSES: Traits = Traits {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    namespaced: false,
    generation: true,
    empty: r#","spec":{}"#,
    ..PLAIN
};

const SECRETS: Traits = Traits {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    fields: &[("type", "/type")],
    ..PLAIN
};

const SERVICES: Traits = Traits {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    empty: r#","spec":{},"status":{"loadBalancer":{}}"#,
    fields: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
    ..PLAIN
};

const PODS: Traits = Traits {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    empty: r#","spec":{"containers":null},"status":{}"#,
    fields: &POD_FIELDS,
    ..PLAIN
};

const ENDPOINTS: Traits = Traits {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    ..PLAIN
};

const ENDPOINT_SLICES: Traits = Traits {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    generation: true,
    empty: r#","addressType":"","endpoints":null,"ports":null"#,
    ..PLAIN
};

const INGRESSES: Traits = Traits {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    generation: true,
    empty: r#","spec":{},"status":{"loadBalancer":{}}"#,
    ..PLAIN
};

const EVENTS: Traits = Traits {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    empty: concat!(
        r#","involvedObject":{},"source":{},"firstTimestamp":null,"lastTimestamp":null,"#,
        r#""eventTime":null,"reportingComponent":"","reportingInstance":"""#
    ),
    fields: &EVENT_FIELDS,
    ..PLAIN
};

impl Resource {
    pub(crate) const COUNT: usize = 10;

    pub(crate) const ALL: [Resource; Resource::COUNT] = [
        Resource::Namespaces,
        Resource::Nodes,
        Resource::IngressClasses,
        Resource::Secrets,
        Resource::Services,
        Resource::Pods,
        Resource::Endpoints,
        Resource::EndpointSlices,
        Resource::Ingresses,
        Resource::Events,
    ];

    /// The API groups that have resources here; the core group has no name.
    pub(crate) const GROUPS: [&str; 3] = ["", "discovery.k8s.io", "networking.k8s.io"];

    /// The only version of every group here.
    pub(crate) const VERSION: &str = "v1";

    fn traits(self) -> &'static Traits {
        match self {
            Resource::Namespaces => &NAMESPACES,
            Resource::Nodes => &NODES,
            Resource::IngressClasses => &INGRESS_CLASSES,
            Resource::Secrets => &SECRETS,
            Resource::Services => &SERVICES,
            Resource::Pods => &PODS,
            Resource::Endpoints => &ENDPOINTS,
            Resource::EndpointSlices => &ENDPOINT_SLICES,
            Resource::Ingresses => &INGRESSES,
            Resource::Events => &EVENTS,
        }
    }

    /// The resource of that group and plural.
    pub(crate) fn named(group: &str, plural: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|r| r.group() == group && r.plural() == plural)
    }

    /// The resource whose objects are of that kind; every kind here has one.
    pub(crate) fn of_kind(kind: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|r| r.kind() == kind)
    }

    /// The place in an array with one element a resource.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn group(self) -> &'static str {
        self.traits().group
    }

    /// `v1` or `group/v1`.
    pub(crate) fn api_version(self) -> &'static str {
        match self.group() {
            "discovery.k8s.io" => "discovery.k8s.io/v1",
            "networking.k8s.io" => "networking.k8s.io/v1",
            _ => "v1",
        }
    }

    pub(crate) fn kind(self) -> &'static str {
        self.traits().kind
    }

    pub(crate) fn plural(self) -> &'static str {
        self.traits().plural
    }

    pub(crate) fn singular(self) -> &'static str {
        self.traits().singular
    }

    pub(crate) fn short_names(self) -> &'static [&'static str] {
        self.traits().short_names
    }

    pub(crate) fn is_namespaced(self) -> bool {
        self.traits().namespaced
    }

    pub(crate) fn has_generation(self) -> bool {
        self.traits().generation
    }

    /// JSON after the metadata of an object that has nothing else.
    pub(crate) fn empty_fields(self) -> &'static str {
        self.traits().empty
    }

    /// Field selectors besides `metadata.name` and `metadata.namespace`, with JSON pointers.
    pub(crate) fn selectable_fields(self) -> &'static [(&'static str, &'static str)] {
        self.traits().fields
    }

    /// `services`, `ingresses.networking.k8s.io`: as errors name it.
    pub(crate) fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_its_place_and_its_names() {
        for (at, resource) in Resource::ALL.into_iter().enumerate() {
            assert_eq!(resource.index(), at);
            assert_eq!(Resource::named(resource.group(), resource.plural()), Some(resource));
            assert_eq!(Resource::of_kind(resource.kind()), Some(resource));
            assert!(Resource::GROUPS.contains(&resource.group()));
            assert!(resource.api_version().ends_with(Resource::VERSION));
            assert!(resource.api_version().starts_with(resource.group()));
        }
        assert_eq!(Resource::named("", "ingresses"), None);
    }

    #[test]
    fn what_a_bookmark_holds_is_json() {
        for resource in Resource::ALL {
            let text = format!("{{\"metadata\":{{}}{}}}", resource.empty_fields());
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
}
