//! Rows as `kubectl` shows them: object → cells.

use super::*;

const NOW: &str = "2026-11-20T08:05:45Z";

#[track_caller]
fn check(resource: Resource, mut object: Value, expected: &str) {
    object["metadata"]["name"] = "web".into();
    object["metadata"]["creationTimestamp"] = "2026-11-20T08:04:31Z".into();
    let cells = cells(resource, &object, NOW.parse().unwrap());
    let cells = cells.as_array().unwrap();
    assert_eq!(cells.len(), definitions(resource).as_array().unwrap().len());
    let cell = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    assert_eq!(cells.iter().map(cell).collect::<Vec<_>>().join(" | "), expected);
}

#[test]
fn services() {
    let check = |spec: Value, expected| check(Resource::Services, json!({"spec": spec}), expected);
    check(
        json!({"type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
               "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}),
        "web | ClusterIP | 10.96.0.10 | <none> | 80/TCP | 74s | <none>",
    );
    check(
        json!({"type": "NodePort", "clusterIPs": ["10.96.119.157"], "externalIPs": ["192.0.2.1"],
               "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
                         {"port": 53, "protocol": "UDP"}],
               "selector": {"app": "web", "tier": "front"}}),
        "web | NodePort | 10.96.119.157 | 192.0.2.1 | 80:30080/TCP,53/UDP | 74s \
         | app=web,tier=front",
    );
    check(
        json!({"type": "LoadBalancer", "clusterIPs": ["None"]}),
        "web | LoadBalancer | None | <pending> | <none> | 74s | <none>",
    );
    check(
        json!({"type": "ExternalName", "externalName": "db.example"}),
        "web | ExternalName | <none> | db.example | <none> | 74s | <none>",
    );
}

#[test]
fn endpoints_and_slices() {
    let slice = json!({
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}, {"name": "any"}, {}, {"port": 1}, {"port": 2}],
        "endpoints": [{"addresses": ["10.1.0.2"]}, {"addresses": ["10.1.0.3"]}],
    });
    let expected = "web | IPv4 | 8080,any,* + 2 more... | 10.1.0.2,10.1.0.3 | 74s";
    check(Resource::EndpointSlices, slice, expected);
    let empty = json!({"addressType": "FQDN", "ports": null, "endpoints": null});
    check(Resource::EndpointSlices, empty, "web | FQDN | <unset> | <unset> | 74s");
    let endpoints = json!({"subsets": [
        {"addresses": [{"ip": "10.1.0.2"}, {"ip": "::1"}], "ports": [{"port": 80}, {"port": 81}]},
        {"addresses": [{"ip": "10.1.0.4"}]},
    ]});
    let expected = "web | 10.1.0.2:80,[::1]:80,10.1.0.2:81 + 2 more... | 74s";
    check(Resource::Endpoints, endpoints, expected);
    check(Resource::Endpoints, json!({}), "web | <none> | 74s");
}

#[test]
fn ingresses_and_their_classes() {
    let ingress = json!({
        "spec": {
            "ingressClassName": "switchyard",
            "rules": [{"host": "a.example"}, {"host": "b.example"}, {}],
            "tls": [{"secretName": "a"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb"}]}},
    });
    let expected = "web | switchyard | a.example,b.example | 192.0.2.1,lb | 80, 443 | 74s";
    check(Resource::Ingresses, ingress, expected);
    check(Resource::Ingresses, json!({}), "web | <none> | * |  | 80 | 74s");
    let class = json!({"spec": {"controller": "x.example/y"}});
    check(Resource::IngressClasses, class, "web | x.example/y | <none> | 74s");
    let parameters = json!({"apiGroup": "k8s.example", "kind": "P", "name": "n"});
    let class = json!({"spec": {"controller": "x.example/y", "parameters": parameters}});
    check(Resource::IngressClasses, class, "web | x.example/y | P.k8s.example/n | 74s");
}

#[test]
fn pods_and_nodes() {
    let pod = json!({
        "spec": {"nodeName": "n1", "containers": [{}, {}]},
        "status": {
            "phase": "Running",
            "podIP": "10.1.0.2",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    let rest = "74s | 10.1.0.2 | n1 | <none> | <none>";
    check(Resource::Pods, pod.clone(), &format!("web | 2/2 | Running | 0 | {rest}"));
    let mut told = pod;
    told["status"]["containerStatuses"] = json!([{"ready": true, "restartCount": 3}]);
    told["metadata"] = json!({"deletionTimestamp": NOW});
    check(Resource::Pods, told, &format!("web | 1/2 | Terminating | 3 | {rest}"));
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/edge": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "osImage": "Debian"},
        },
    });
    check(
        Resource::Nodes,
        node,
        "web | Ready,SchedulingDisabled | edge | 74s | v1.36.2 | 10.0.0.1 | <none> | Debian \
         | <unknown> | <unknown>",
    );
}

#[test]
fn the_other_kinds() {
    let secret = json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}});
    check(Resource::Secrets, secret, "web | Opaque | 2 | 74s");
    check(Resource::Namespaces, json!({"status": {"phase": "Active"}}), "web | Active | 74s");
    let event = json!({
        "involvedObject": {"kind": "Service", "name": "web"},
        "type": "Warning",
        "reason": "Rejected",
        "message": "web.yaml:3:5: error\n",
        "source": {"component": "switchyard"},
        "lastTimestamp": "2026-11-20T08:05:40Z",
        "firstTimestamp": "junk",
    });
    check(
        Resource::Events,
        event,
        "5s | Warning | Rejected | service/web |  | switchyard | web.yaml:3:5: error | <unknown> \
         | 1 | web",
    );
}

#[test]
fn ages_read_as_kubectl_prints_them() {
    let (minute, hour, day, year) = (60, 3600, 86_400, 365 * 86_400);
    for (seconds, expected) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (2 * minute, "2m"),
        (5 * minute + 10, "5m10s"),
        (10 * minute + 10, "10m"),
        (3 * hour - 1, "179m"),
        (3 * hour, "3h"),
        (7 * hour + 59 * minute, "7h59m"),
        (8 * hour + minute, "8h"),
        (2 * day - 1, "47h"),
        (2 * day, "2d"),
        (2 * day + 3 * hour, "2d3h"),
        (8 * day + 3 * hour, "8d"),
        (2 * year - 1, "729d"),
        (2 * year + 30 * day, "2y30d"),
        (8 * year + 30 * day, "8y"),
    ] {
        assert_eq!(age(seconds), expected, "{seconds}");
    }
}
