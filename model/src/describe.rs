//! What types and their fields are for, in a sentence: what `kubectl explain` prints.
//!
//! By the names of [`crate::object`]; a test compares this table with the types, in both
//! directions. Only fields that are used have a text of their own. Left out: the full rules, which
//! are in the documentation of Kubernetes and in [`crate::validate`].

/// What is said of a field that Kubernetes has and that is not used.
pub const UNUSED: &str = "Not used by Switchyard. It is kept and served as it is written.";

/// A type: its name, what it is, and what each of its fields is for.
struct Text {
    name: &'static str,
    about: &'static str,
    fields: &'static [(&'static str, &'static str)],
}

/// What a type is; empty if the table does not have it.
pub fn about(type_name: &str) -> &'static str {
    text(type_name).map_or("", |text| text.about)
}

/// What a field is for; empty if the table does not have it.
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
        about: "What every object has: its name, and what others say of it.",
        fields: &[
            (
                "annotations",
                "Free texts by key. Annotations with settings of the proxy and the ingress begin \
                 with switchyard.dev/ or nginx.ingress.kubernetes.io/.",
            ),
            (
                "creationTimestamp",
                "When the object was made (RFC 3339). The feed server sets it when it first sees \
                 the object.",
            ),
            ("deletionTimestamp", "When the object is to go. A Pod with it is terminating."),
            ("labels", "Short texts by key, by which objects are selected."),
            ("name", "The name: unique among the objects of the kind in the namespace."),
            (
                "namespace",
                "The namespace; default if it is not given. Kinds of the cluster have none.",
            ),
        ],
    },
    Text {
        name: "Service",
        about: "A stable address and DNS name for endpoints that change.",
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
                "The first virtual IP, or None for a headless Service. Switchyard allocates no \
                 addresses: write one if the Service needs it.",
            ),
            (
                "clusterIPs",
                "The virtual IPs: one, or one of each family. The first must be clusterIP.",
            ),
            ("externalIPs", "Other IPs at which the proxy accepts connections for the Service."),
            (
                "externalName",
                "For type ExternalName: the DNS name that the Service is an alias of.",
            ),
            (
                "externalTrafficPolicy",
                "Cluster: connections from outside go to any endpoint. Local: only to endpoints \
                 on the same node.",
            ),
            (
                "healthCheckNodePort",
                "With externalTrafficPolicy Local: the port at which a load balancer asks whether \
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
                "loadBalancerSourceRanges",
                "Clients that may connect to load balancer IPs and external IPs, as CIDRs. Empty: \
                 all.",
            ),
            ("ports", "The ports that the Service offers. Several ports must have names."),
            ("publishNotReadyAddresses", "DNS answers with endpoints that are not ready, too."),
            (
                "selector",
                "The labels of the Pods of the Service. Switchyard finds no Pods: write \
                 EndpointSlices beside the Service.",
            ),
            (
                "sessionAffinity",
                "None, or ClientIP: connections of one client go to the same endpoint.",
            ),
            ("sessionAffinityConfig", "How long an affinity lasts."),
            (
                "trafficDistribution",
                "A preference for near endpoints: PreferSameZone or PreferSameNode.",
            ),
            ("type", "ClusterIP, NodePort, LoadBalancer or ExternalName."),
        ],
    },
    Text {
        name: "SessionAffinityConfig",
        about: "How long an affinity lasts.",
        fields: &[("clientIP", "The settings of affinity by client IP.")],
    },
    Text {
        name: "ClientIpConfig",
        about: "The settings of affinity by client IP.",
        fields: &[(
            "timeoutSeconds",
            "Seconds for which a client without connections keeps its endpoint; 10800 if not \
                 given.",
        )],
    },
    Text {
        name: "ServicePort",
        about: "A port of a Service.",
        fields: &[
            (
                "appProtocol",
                "The protocol that is spoken, such as http, https or kubernetes.io/h2c.",
            ),
            ("name", "The name, by which slices and Ingresses refer to the port."),
            (
                "nodePort",
                "For types NodePort and LoadBalancer: the port at which every node accepts \
                 connections.",
            ),
            ("port", "The port at the Service's IPs."),
            ("protocol", "TCP, UDP or SCTP; TCP if not given."),
            (
                "targetPort",
                "The port of the endpoints, by number or name; the same as port if not given.",
            ),
        ],
    },
    Text {
        name: "ServiceStatus",
        about: "What is known of the Service's load balancers.",
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
            ("ip", "Its IP, at which the proxy accepts connections too."),
            (
                "ipMode",
                "VIP: the proxy answers for the IP. Proxy: connections are left to the load \
                 balancer.",
            ),
        ],
    },
    Text {
        name: "EndpointSlice",
        about: "Endpoints of one Service: addresses, and the ports that all of them have. The \
                label kubernetes.io/service-name names the Service.",
        fields: &[
            ("addressType", "IPv4, IPv6, or FQDN for names that Switchyard looks up."),
            ("endpoints", "The endpoints."),
            (
                "ports",
                "The ports of every endpoint. They match those of the Service by name and \
                 protocol.",
            ),
        ],
    },
    Text {
        name: "Endpoint",
        about: "What serves: an address and its state.",
        fields: &[
            ("addresses", "The address. All but the first are ignored."),
            ("conditions", "Whether it is ready, serving and terminating."),
            ("hints", "Where the endpoint is meant to be used from."),
            ("hostname", "Its own DNS name below that of the Service."),
            ("nodeName", "The node it is on."),
            ("zone", "The zone it is in."),
        ],
    },
    Text {
        name: "EndpointConditions",
        about: "The state of an endpoint.",
        fields: &[
            ("ready", "It takes new connections; true if not given."),
            (
                "serving",
                "It can answer, even while it is terminating; the same as ready if not given.",
            ),
            ("terminating", "It is shutting down; false if not given."),
        ],
    },
    Text {
        name: "EndpointHints",
        about: "Where an endpoint is meant to be used from.",
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
            (
                "appProtocol",
                "The protocol that is spoken, such as http, https or kubernetes.io/h2c.",
            ),
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
        about: "The older form of EndpointSlices: the endpoints of the Service of the same name.",
        fields: &[("subsets", "Addresses that have the same ports.")],
    },
    Text {
        name: "EndpointSubset",
        about: "Addresses that have the same ports.",
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
            ("nodeName", "The node it is on."),
        ],
    },
    Text {
        name: "Pod",
        about: "A Pod, for the DNS names of Pods. Switchyard runs none.",
        fields: &[("spec", "What the Pod was asked to be."), ("status", "What the Pod is.")],
    },
    Text {
        name: "PodSpec",
        about: "What a Pod was asked to be. Other fields of Kubernetes are kept too.",
        fields: &[
            ("containers", "The containers, for the names of their ports."),
            ("hostname", "Its host name; the Pod's name if not given."),
            (
                "initContainers",
                "Containers that run first. One with restartPolicy Always goes on, and its ports \
                 count.",
            ),
            ("nodeName", "The node it is on."),
            ("subdomain", "The headless Service below which it has a DNS name."),
        ],
    },
    Text {
        name: "Container",
        about: "A container. Other fields of Kubernetes are kept too.",
        fields: &[
            ("name", "Its name."),
            ("ports", "Its ports, which a Service's targetPort may name."),
            ("restartPolicy", "Always makes an init container one that goes on beside the others."),
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
        about: "What a Pod is. Other fields of Kubernetes are kept too.",
        fields: &[
            ("conditions", "Ready says whether it takes connections."),
            ("phase", "Pending, Running, Succeeded, Failed or Unknown."),
            ("podIP", "Its first IP."),
            ("podIPs", "Its IPs: one, or one of each family."),
        ],
    },
    Text { name: "PodIp", about: "An IP of a Pod.", fields: &[("ip", "The IP.")] },
    Text {
        name: "Condition",
        about: "A condition.",
        fields: &[
            ("status", "True, False or Unknown."),
            ("type", "What it is about, such as Ready."),
        ],
    },
    Text {
        name: "Ingress",
        about: "Hosts and paths that the ingress passes on to Services.",
        fields: &[("spec", "Rules, TLS and the default backend.")],
    },
    Text {
        name: "IngressSpec",
        about: "Rules, TLS and the default backend of an Ingress.",
        fields: &[
            ("defaultBackend", "Where requests go that no rule matches."),
            (
                "ingressClassName",
                "The class: an ingress serves those of its own class, switchyard unless its flags \
                 name another.",
            ),
            ("rules", "Hosts, and paths below them."),
            ("tls", "Certificates by host."),
        ],
    },
    Text {
        name: "IngressRule",
        about: "A host, and paths below it.",
        fields: &[
            (
                "host",
                "The host, or *.DOMAIN for all hosts one label below a domain. Empty: all hosts.",
            ),
            ("http", "The paths."),
        ],
    },
    Text {
        name: "HttpIngressRuleValue",
        about: "The paths of a host.",
        fields: &[("paths", "Paths, each with a backend. The longest that matches is used.")],
    },
    Text {
        name: "HttpIngressPath",
        about: "A path and its backend.",
        fields: &[
            ("backend", "Where requests go."),
            ("path", "The path, which begins with a slash."),
            (
                "pathType",
                "Exact, Prefix (by elements of the path) or ImplementationSpecific (the same as \
                 Prefix).",
            ),
        ],
    },
    Text {
        name: "IngressBackend",
        about: "Where requests go.",
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
        fields: &[("name", "The name; number must then not be given."), ("number", "The number.")],
    },
    Text {
        name: "TypedLocalObjectReference",
        about: "An object in the same namespace.",
        fields: &[("kind", "Its kind."), ("name", "Its name.")],
    },
    Text {
        name: "IngressTls",
        about: "A certificate and the hosts that it is for.",
        fields: &[
            ("hosts", "The hosts."),
            (
                "secretName",
                "The Secret with the certificate (tls.crt) and its key (tls.key). Not given: the \
                 fallback certificate is used.",
            ),
        ],
    },
    Text {
        name: "IngressClass",
        about: "A class of Ingresses. The one with controller switchyard.dev/ingress is served by \
             Switchyard.",
        fields: &[("spec", "The controller of the class.")],
    },
    Text {
        name: "IngressClassSpec",
        about: "The controller of a class.",
        fields: &[("controller", "The name of the controller that serves the class.")],
    },
    Text {
        name: "Secret",
        about: "Confidential data: certificates and their keys.",
        fields: &[
            ("data", "Values by key, each in base64."),
            ("stringData", "Values by key as plain text. They are served in data."),
            ("type", "kubernetes.io/tls for a certificate; Opaque if not given."),
        ],
    },
    Text {
        name: "Namespace",
        about: "A scope of names. The feed server makes one for each that objects are in.",
        fields: &[],
    },
    Text {
        name: "Node",
        about: "A machine. The proxy reads the zone of its own from its labels.",
        fields: &[("status", "The addresses of the node.")],
    },
    Text {
        name: "NodeStatus",
        about: "What is known of a node. Other fields of Kubernetes are kept too.",
        fields: &[("addresses", "Its addresses.")],
    },
    Text {
        name: "NodeAddress",
        about: "An address of a node.",
        fields: &[
            ("address", "The address."),
            (
                "type",
                "Hostname, InternalIP, ExternalIP, InternalDNS or \
                 ExternalDNS.",
            ),
        ],
    },
    Text {
        name: "ServiceCidr",
        about: "The ranges that Services have their addresses of.",
        fields: &[("spec", "The ranges."), ("status", "Kept and served as it is written.")],
    },
    Text {
        name: "ServiceCidrSpec",
        about: "Ranges of addresses.",
        fields: &[("cidrs", "One range, or one of each family.")],
    },
    Text {
        name: "Event",
        about: "What the feed server reports of an object: why it is not served as it is written.",
        fields: &[
            ("count", "How often it was reported."),
            ("eventTime", "Not set."),
            ("firstTimestamp", "Since when the problem exists."),
            ("involvedObject", "The object with the problem."),
            ("lastTimestamp", "The same as firstTimestamp."),
            ("message", "The file and line, what is wrong, and what to do."),
            (
                "reason",
                "Rejected: the manifest is not valid. NotServed: a part of it is not served. \
                 Warning: it is served, perhaps not as meant.",
            ),
            ("reportingComponent", "What reports it."),
            ("reportingInstance", "Empty."),
            ("source", "What reports it."),
            ("type", "Always Warning."),
        ],
    },
    Text {
        name: "ObjectReference",
        about: "An object.",
        fields: &[
            ("name", "Its name."),
            ("namespace", "Its namespace."),
            ("uid", "Its unique number."),
        ],
    },
    Text {
        name: "EventSource",
        about: "What reports an Event.",
        fields: &[("component", "The name of the program.")],
    },
];
