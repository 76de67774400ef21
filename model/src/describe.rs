//! A sentence on each type and field, for `kubectl explain`.
//!
//! By the names of [`crate::object`]; a test compares this table with the types, in both
//! directions. Only fields that are used have their own text. Left out: the full rules, which are
//! in the documentation of Kubernetes and in [`crate::validate`].

/// The text for a field that Kubernetes has and that is not used.
pub const UNUSED: &str = "Not used by Switchyard. It is kept and served as written.";

/// A type: its name, and descriptions of the type and of each field.
struct Text {
    name: &'static str,
    about: &'static str,
    fields: &'static [(&'static str, &'static str)],
}

/// The description of a type; empty if the table does not have it.
pub fn about(type_name: &str) -> &'static str {
    text(type_name).map_or("", |text| text.about)
}

/// The description of a field; empty if the table does not have it.
pub fn field(type_name: &str, field: &str) -> &'static str {
    match field {
        "apiVersion" => "The group and version of the object's kind.",
        "kind" => "The kind of the object.",
        "metadata" => "Name, namespace, labels and annotations.",
        _ => {
            let fields = text(type_name).map_or(&[][..], |text| text.fields);
            fields.iter().find(|(name, _)| *name == field).map_or("", |(_, text)| *text)
        }
    }
}

/// Every type and field of the table.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    TEXTS.iter().flat_map(|text| text.fields.iter().map(|(field, _)| (text.name, *field)))
}

fn text(type_name: &str) -> Option<&'static Text> {
    TEXTS.iter().find(|text| text.name == type_name)
}

const TEXTS: &[Text] = &[
    Text {
        name: "Meta",
        about: "Metadata that every object has: name, namespace, labels and annotations.",
        fields: &[
            (
                "annotations",
                "Arbitrary strings by key. Annotations with settings of the proxy and the ingress \
                 begin \
                 with switchyard.dev/ or nginx.ingress.kubernetes.io/.",
            ),
            (
                "creationTimestamp",
                "When the object was created (RFC 3339). The feed server sets it when it first \
                 sees \
                 the object.",
            ),
            (
                "deletionTimestamp",
                "When the object will be deleted. A Pod with this field is terminating.",
            ),
            ("labels", "Short strings by key, used to select objects."),
            ("name", "The name, unique among the objects of this kind in the namespace."),
            ("namespace", "The namespace; default if not given. Cluster-scoped kinds have none."),
        ],
    },
    Text {
        name: "Service",
        about: "A stable address and DNS name for changing endpoints.",
        fields: &[
            ("spec", "Addresses, ports and policies."),
            ("status", "Addresses of load balancers, which the proxy serves too."),
        ],
    },
    Text {
        name: "ServiceSpec",
        about: "Addresses, ports and policies of a Service.",
        fields: &[
            (
                "clusterIP",
                "The first virtual IP, or None for a headless Service. Switchyard does not \
                 allocate addresses: set one if the Service needs it.",
            ),
            (
                "clusterIPs",
                "The virtual IPs: one, or one of each family. The first must be the same as \
                 clusterIP.",
            ),
            ("externalIPs", "Other IPs at which the proxy accepts connections for the Service."),
            (
                "externalName",
                "For type ExternalName: the DNS name that the Service is an alias for.",
            ),
            (
                "externalTrafficPolicy",
                "Cluster: connections from outside go to any endpoint. Local: only to endpoints \
                 on the same node.",
            ),
            (
                "healthCheckNodePort",
                "With externalTrafficPolicy Local: the port at which load balancers check whether \
                 this node has endpoints.",
            ),
            (
                "internalTrafficPolicy",
                "Cluster: connections from inside go to any endpoint. Local: only to endpoints on \
                 the same node.",
            ),
            ("ipFamilies", "The families of the virtual IPs: IPv4, IPv6 or both."),
            ("ipFamilyPolicy", "SingleStack, PreferDualStack or RequireDualStack."),
            (
                "loadBalancerClass",
                "With type LoadBalancer: who provides the load balancer. Checked, and not used.",
            ),
            (
                "loadBalancerSourceRanges",
                "Networks (CIDRs) of the clients that may connect to load balancer IPs and \
                 external IPs. Empty: all clients.",
            ),
            ("ports", "The ports of the Service. If there are several, each needs a name."),
            ("publishNotReadyAddresses", "Endpoints that are not ready are used too."),
            (
                "selector",
                "Labels of Pods. Matching Pods are the endpoints of the Service, unless it has \
                 EndpointSlices or Endpoints.",
            ),
            (
                "sessionAffinity",
                "None, or ClientIP: connections of one client go to the same endpoint.",
            ),
            ("sessionAffinityConfig", "How long session affinity lasts."),
            (
                "trafficDistribution",
                "Which endpoints are preferred: PreferSameZone or PreferSameNode.",
            ),
            ("type", "ClusterIP, NodePort, LoadBalancer or ExternalName."),
        ],
    },
    Text {
        name: "SessionAffinityConfig",
        about: "How long session affinity lasts.",
        fields: &[("clientIP", "Settings of session affinity by client IP.")],
    },
    Text {
        name: "ClientIpConfig",
        about: "Settings of session affinity by client IP.",
        fields: &[(
            "timeoutSeconds",
            "How many seconds a client without connections keeps its endpoint; 10800 if not given.",
        )],
    },
    Text {
        name: "ServicePort",
        about: "A port of a Service.",
        fields: &[
            ("appProtocol", "The application protocol, such as http, https or kubernetes.io/h2c."),
            ("name", "The name, which EndpointSlices and Ingresses use to refer to the port."),
            (
                "nodePort",
                "For types NodePort and LoadBalancer: the port on which every node accepts \
                 connections.",
            ),
            ("port", "The port on the Service's IPs."),
            ("protocol", "TCP, UDP or SCTP; TCP if not given."),
            (
                "targetPort",
                "The port of the endpoints, by number or name; the same as port if not given.",
            ),
        ],
    },
    Text {
        name: "ServiceStatus",
        about: "The state of the Service's load balancers.",
        fields: &[("loadBalancer", "The load balancers in front of the Service.")],
    },
    Text {
        name: "LoadBalancerStatus",
        about: "The load balancers in front of a Service.",
        fields: &[("ingress", "One entry for each load balancer.")],
    },
    Text {
        name: "LoadBalancerIngress",
        about: "A load balancer.",
        fields: &[
            ("ip", "Its IP. The proxy accepts connections on it too."),
            (
                "ipMode",
                "VIP: the proxy accepts connections on the IP. Proxy: the load balancer handles \
                 connections.",
            ),
        ],
    },
    Text {
        name: "EndpointSlice",
        about: "Endpoints of one Service: addresses, and the ports of all of them. The label \
                kubernetes.io/service-name contains the name of the Service.",
        fields: &[
            ("addressType", "IPv4, IPv6, or FQDN for host names, which Switchyard resolves."),
            ("endpoints", "The endpoints."),
            (
                "ports",
                "The ports of every endpoint, matched with those of the Service by name and \
                 protocol.",
            ),
        ],
    },
    Text {
        name: "Endpoint",
        about: "An endpoint: an address and its state.",
        fields: &[
            ("addresses", "The address. Only the first one is used."),
            ("conditions", "Whether it is ready, serving and terminating."),
            ("hints", "The zones and nodes that should use the endpoint."),
            ("hostname", "Its own DNS name below that of the Service."),
            ("nodeName", "The name of its node."),
            ("zone", "The name of its zone."),
        ],
    },
    Text {
        name: "EndpointConditions",
        about: "The state of an endpoint.",
        fields: &[
            ("ready", "It accepts new connections; true if not given."),
            (
                "serving",
                "It can answer, even while it is terminating; the same as ready if not given.",
            ),
            ("terminating", "It is shutting down; false if not given."),
        ],
    },
    Text {
        name: "EndpointHints",
        about: "The zones and nodes that should use an endpoint.",
        fields: &[
            ("forNodes", "The nodes that should use it."),
            ("forZones", "The zones that should use it."),
        ],
    },
    Text { name: "Named", about: "A node or a zone.", fields: &[("name", "Its name.")] },
    Text {
        name: "EndpointPort",
        about: "A port of endpoints.",
        fields: &[
            ("appProtocol", "The application protocol, such as http, https or kubernetes.io/h2c."),
            (
                "name",
                "The name of the Service's port; empty for a Service with one port without a \
                 name.",
            ),
            ("port", "The number."),
            ("protocol", "TCP, UDP or SCTP; TCP if not given."),
        ],
    },
    Text {
        name: "Endpoints",
        about: "The older form of EndpointSlices: the endpoints of the Service with the same name.",
        fields: &[("subsets", "Addresses with the same ports.")],
    },
    Text {
        name: "EndpointSubset",
        about: "Addresses with the same ports.",
        fields: &[
            ("addresses", "Endpoints that are ready."),
            ("notReadyAddresses", "Endpoints that are not ready."),
            ("ports", "The ports of every address."),
        ],
    },
    Text {
        name: "EndpointAddress",
        about: "An endpoint.",
        fields: &[
            ("hostname", "Its own DNS name below that of the Service."),
            ("ip", "Its IP."),
            ("nodeName", "The name of its node."),
        ],
    },
    Text {
        name: "Pod",
        about: "A Pod: an endpoint of the Services that select it. Switchyard does not run Pods.",
        fields: &[("spec", "The specification of the Pod."), ("status", "The state of the Pod.")],
    },
    Text {
        name: "PodSpec",
        about: "The specification of a Pod. Other fields of Kubernetes are kept too.",
        fields: &[
            ("containers", "The containers; the names of their ports are used."),
            ("hostname", "Its host name; the Pod's name if not given."),
            (
                "initContainers",
                "Containers that run first. The ports of those with restartPolicy Always \
                 (sidecars) are used too.",
            ),
            ("nodeName", "The name of its node."),
            ("subdomain", "The headless Service in which it has a DNS name."),
        ],
    },
    Text {
        name: "Container",
        about: "A container. Other fields of Kubernetes are kept too.",
        fields: &[
            ("name", "Its name."),
            ("ports", "Its ports. The targetPort of a Service can refer to their names."),
            (
                "restartPolicy",
                "Always makes an init container a sidecar, which runs as long as the Pod.",
            ),
        ],
    },
    Text {
        name: "ContainerPort",
        about: "A port of a container.",
        fields: &[
            ("containerPort", "The number."),
            ("name", "The name, for targetPort."),
            ("protocol", "TCP, UDP or SCTP; TCP if not given."),
        ],
    },
    Text {
        name: "PodStatus",
        about: "The state of a Pod. Other fields of Kubernetes are kept too.",
        fields: &[
            ("conditions", "The condition Ready says whether it accepts connections."),
            ("phase", "Pending, Running, Succeeded, Failed or Unknown."),
            ("podIP", "Its first IP."),
            ("podIPs", "Its IPs: one, or one of each family."),
        ],
    },
    Text { name: "PodIp", about: "An IP of a Pod.", fields: &[("ip", "The IP.")] },
    Text {
        name: "Condition",
        about: "A condition.",
        fields: &[("status", "True, False or Unknown."), ("type", "The type, such as Ready.")],
    },
    Text {
        name: "Ingress",
        about: "Hosts and paths whose requests the ingress forwards to Services.",
        fields: &[("spec", "Rules, TLS and the default backend.")],
    },
    Text {
        name: "IngressSpec",
        about: "Rules, TLS and the default backend of an Ingress.",
        fields: &[
            ("defaultBackend", "The backend of requests that match no rule."),
            (
                "ingressClassName",
                "The class. An ingress process serves the Ingresses of its class, which is \
                 switchyard by default.",
            ),
            ("rules", "Hosts, and paths below them."),
            ("tls", "Certificates by host."),
        ],
    },
    Text {
        name: "IngressRule",
        about: "A host, and paths below it.",
        fields: &[
            ("host", "The host, or *.DOMAIN for all hosts with one more label. Empty: all hosts."),
            ("http", "The paths."),
        ],
    },
    Text {
        name: "HttpIngressRuleValue",
        about: "The paths of a host.",
        fields: &[("paths", "Paths, each with a backend. The longest matching path is used.")],
    },
    Text {
        name: "HttpIngressPath",
        about: "A path and its backend.",
        fields: &[
            ("backend", "The target of requests."),
            ("path", "The path; it begins with a slash."),
            (
                "pathType",
                "Exact, Prefix (whole path elements) or ImplementationSpecific (the same as \
                 Prefix).",
            ),
        ],
    },
    Text {
        name: "IngressBackend",
        about: "The target of requests.",
        fields: &[
            ("resource", "An object of another kind. It is not served."),
            ("service", "A port of a Service in the same namespace."),
        ],
    },
    Text {
        name: "IngressServiceBackend",
        about: "A port of a Service in the same namespace.",
        fields: &[("name", "The name of the Service."), ("port", "The port of the Service.")],
    },
    Text {
        name: "ServiceBackendPort",
        about: "A port of a Service, by name or by number.",
        fields: &[
            ("name", "The name; must not be set together with number."),
            ("number", "The number."),
        ],
    },
    Text {
        name: "TypedLocalObjectReference",
        about: "An object in the same namespace.",
        fields: &[("kind", "Its kind."), ("name", "Its name.")],
    },
    Text {
        name: "IngressTls",
        about: "A certificate and its hosts.",
        fields: &[
            ("hosts", "The hosts."),
            (
                "secretName",
                "The Secret with the certificate (tls.crt) and its private key (tls.key). If not \
                 given, the fallback certificate is used.",
            ),
        ],
    },
    Text {
        name: "IngressClass",
        about: "A class of Ingresses. Switchyard serves classes with the controller \
                switchyard.dev/ingress.",
        fields: &[("spec", "The controller of the class.")],
    },
    Text {
        name: "IngressClassSpec",
        about: "The controller of a class.",
        fields: &[
            ("controller", "The name of the controller that serves the class."),
            ("parameters", "Settings of the class for its controller. Checked, and not used."),
        ],
    },
    Text {
        name: "IngressClassParametersReference",
        about: "The object that holds the settings of a class.",
        fields: &[
            ("apiGroup", "The API group of the object's kind; not given for the core group."),
            ("kind", "The kind of the object."),
            ("name", "The name of the object."),
            ("namespace", "The namespace of the object, if scope is Namespace."),
            ("scope", "Cluster (the default) or Namespace."),
        ],
    },
    Text {
        name: "Secret",
        about: "Confidential data: certificates and their keys.",
        fields: &[
            ("data", "Values by key, each in base64."),
            ("stringData", "Values by key, as plain text. The feed serves them in data."),
            ("type", "kubernetes.io/tls for a certificate; Opaque if not given."),
        ],
    },
    Text {
        name: "Namespace",
        about: "A scope for names. The feed creates a Namespace for each namespace that has \
                objects.",
        fields: &[],
    },
    Text {
        name: "Node",
        about: "A machine. Its labels contain the zone that the proxy on it uses.",
        fields: &[("status", "The addresses of the node.")],
    },
    Text {
        name: "NodeStatus",
        about: "The state of a node. Other fields of Kubernetes are kept too.",
        fields: &[("addresses", "Its addresses.")],
    },
    Text {
        name: "NodeAddress",
        about: "An address of a node.",
        fields: &[
            ("address", "The address."),
            ("type", "Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS."),
        ],
    },
    Text {
        name: "ServiceCidr",
        about: "Ranges of the virtual IPs of Services.",
        fields: &[("spec", "The ranges."), ("status", "Kept and served as written.")],
    },
    Text {
        name: "ServiceCidrSpec",
        about: "Ranges of addresses.",
        fields: &[("cidrs", "One range, or one of each family.")],
    },
    Text {
        name: "Event",
        about: "A report of the feed about an object: why it is not served as written.",
        fields: &[
            ("count", "How often it was reported."),
            ("eventTime", "Not set."),
            ("firstTimestamp", "When the problem was first reported."),
            ("involvedObject", "The object with the problem."),
            ("lastTimestamp", "The same as firstTimestamp."),
            ("message", "The file and line, what is wrong, and what to do."),
            (
                "reason",
                "Rejected: the manifest is not valid. NotServed: a part of it is not served. \
                 Warning: it is served, but perhaps not as intended.",
            ),
            ("reportingComponent", "The component that reports it."),
            ("reportingInstance", "Empty."),
            ("source", "The component that reports it."),
            ("type", "Always Warning."),
        ],
    },
    Text {
        name: "ObjectReference",
        about: "An object.",
        fields: &[
            ("name", "Its name."),
            ("namespace", "Its namespace."),
            ("uid", "Its unique identifier."),
        ],
    },
    Text {
        name: "EventSource",
        about: "The component that reports an Event.",
        fields: &[("component", "The name of the program.")],
    },
];
