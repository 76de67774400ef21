//! Objects as `kubectl get` prints them: the columns of each kind and the cells of a row.
//!
//! Pure: objects and the time go in. Columns, cells and their order are those of a
//! kube-apiserver, so that people and scripts find what they know.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::resource::Resource;

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";
const UNSET: &str = "<unset>";

/// Addresses, ports and hosts that fit a cell.
const SHOWN: usize = 3;

/// The names of the columns; those with a `+` show only with `-o wide`.
fn columns(resource: Resource) -> &'static [&'static str] {
    match resource {
        Resource::Namespaces => &["Name", "Status", "Age"],
        Resource::Nodes => &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "+Internal-IP",
            "+External-IP",
            "+OS-Image",
            "+Kernel-Version",
            "+Container-Runtime",
        ],
        Resource::IngressClasses => &["Name", "Controller", "Parameters", "Age"],
        Resource::Secrets => &["Name", "Type", "Data", "Age"],
        Resource::Services => {
            &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"]
        }
        Resource::Pods => &[
            "Name",
            "Ready",
            "Status",
            "Restarts",
            "Age",
            "+IP",
            "+Node",
            "+Nominated Node",
            "+Readiness Gates",
        ],
        Resource::Endpoints => &["Name", "Endpoints", "Age"],
        Resource::EndpointSlices => &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        Resource::Ingresses => &["Name", "Class", "Hosts", "Address", "Ports", "Age"],
        Resource::Events => &[
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "+Subobject",
            "+Source",
            "Message",
            "+First Seen",
            "+Count",
            "+Name",
        ],
    }
}

/// The column definitions of a table.
pub(crate) fn definitions(resource: Resource) -> Value {
    let definition = |column: &&str| {
        let name = column.trim_start_matches('+');
        json!({
            "name": name,
            "type": if matches!(name, "Data" | "Count") { "integer" } else { "string" },
            "format": if name == "Name" { "name" } else { "" },
            "description": format!("{name} of the {}", resource.kind()),
            "priority": u8::from(column.starts_with('+')),
        })
    };
    columns(resource).iter().map(definition).collect()
}

/// The cells of an object's row, one a column.
pub(crate) fn cells(resource: Resource, object: &Value, now: Timestamp) -> Value {
    let object = Object(object);
    let name = object.text("/metadata/name");
    let age = since(object.text("/metadata/creationTimestamp"), now);
    match resource {
        Resource::Namespaces => json!([name, object.text("/status/phase"), age]),
        Resource::Nodes => node(object, &age),
        Resource::IngressClasses => {
            json!([name, object.text("/spec/controller"), parameters(object), age])
        }
        Resource::Secrets => {
            let data = object.0.get("data").and_then(Value::as_object).map_or(0, |map| map.len());
            json!([name, object.text("/type"), data, age])
        }
        Resource::Services => service(object, &age),
        Resource::Pods => pod(object, &age),
        Resource::Endpoints => json!([name, endpoints(object), age]),
        Resource::EndpointSlices => {
            let ports = object.list("/ports").map(|port| {
                let name = Object(port).text("/name");
                let number = Object(port).plain("/port");
                number.unwrap_or_else(|| if name.is_empty() { "*" } else { name }.to_owned())
            });
            let endpoints = object.list("/endpoints").map(Object);
            let addresses = endpoints.flat_map(|endpoint| endpoint.texts("/addresses"));
            let kind = object.text("/addressType");
            json!([name, kind, first(ports, UNSET), first(addresses, UNSET), age])
        }
        Resource::Ingresses => ingress(object, &age),
        Resource::Events => event(object, now),
    }
}

/// An object whose fields may be absent.
#[derive(Clone, Copy)]
struct Object<'a>(&'a Value);

impl<'a> Object<'a> {
    fn text(self, pointer: &str) -> &'a str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn or(self, pointer: &str, otherwise: &'a str) -> &'a str {
        Some(self.text(pointer)).filter(|text| !text.is_empty()).unwrap_or(otherwise)
    }

    /// A number as text.
    fn plain(self, pointer: &str) -> Option<String> {
        self.0.pointer(pointer).and_then(Value::as_u64).map(|number| number.to_string())
    }

    fn list(self, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.0.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
    }

    fn texts(self, pointer: &str) -> impl Iterator<Item = String> + use<'a> {
        self.list(pointer).filter_map(Value::as_str).map(str::to_owned)
    }

    /// A condition's status, `""` when it is not there.
    fn condition(self, kind: &str) -> &'a str {
        let found = self.list("/status/conditions").find(|c| Object(c).text("/type") == kind);
        found.map_or("", |condition| Object(condition).text("/status"))
    }
}

fn join(parts: impl Iterator<Item = String>, separator: &str, empty: &str) -> String {
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() { empty.to_owned() } else { parts.join(separator) }
}

/// The first few, and how many more there are.
fn first(parts: impl Iterator<Item = String>, empty: &str) -> String {
    let parts: Vec<_> = parts.collect();
    match parts.len() {
        0 => empty.to_owned(),
        count if count > SHOWN => {
            format!("{} + {} more...", parts[..SHOWN].join(","), count - SHOWN)
        }
        _ => parts.join(","),
    }
}

fn service(object: Object<'_>, age: &str) -> Value {
    let service_type = object.text("/spec/type");
    let cluster_ip = object.or("/spec/clusterIPs/0", object.or("/spec/clusterIP", NONE));
    let ports = object.list("/spec/ports").map(Object).map(|port| {
        let number = port.plain("/port").unwrap_or_default();
        let protocol = port.or("/protocol", "TCP");
        match port.plain("/nodePort").filter(|node_port| node_port != "0") {
            Some(node_port) => format!("{number}:{node_port}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    });
    let selector = object.0.pointer("/spec/selector").and_then(Value::as_object);
    let selector = selector.into_iter().flatten();
    let selector =
        selector.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    json!([
        object.text("/metadata/name"),
        service_type,
        cluster_ip,
        external_ip(object, service_type),
        join(ports, ",", NONE),
        age,
        join(selector, ",", NONE),
    ])
}

fn external_ip(object: Object<'_>, service_type: &str) -> String {
    let external = object.texts("/spec/externalIPs");
    match service_type {
        "ExternalName" => object.text("/spec/externalName").to_owned(),
        "LoadBalancer" => join(balancers(object).chain(external), ",", "<pending>"),
        _ => join(external, ",", NONE),
    }
}

/// Addresses in `status.loadBalancer`.
fn balancers(object: Object<'_>) -> impl Iterator<Item = String> + use<'_> {
    let ingress = object.list("/status/loadBalancer/ingress").map(Object);
    ingress.map(|one| one.or("/ip", one.text("/hostname")).to_owned())
}

fn endpoints(object: Object<'_>) -> String {
    let subsets = object.list("/subsets").map(Object);
    let all = subsets.flat_map(|subset| {
        let addresses: Vec<_> =
            subset.list("/addresses").map(|address| Object(address).text("/ip")).collect();
        let ports: Vec<_> =
            subset.list("/ports").filter_map(|port| Object(port).plain("/port")).collect();
        if ports.is_empty() {
            return addresses.into_iter().map(str::to_owned).collect::<Vec<_>>();
        }
        let join = |ip: &str, port: &str| match ip.contains(':') {
            true => format!("[{ip}]:{port}"),
            false => format!("{ip}:{port}"),
        };
        ports.iter().flat_map(|port| addresses.iter().map(move |ip| join(ip, port))).collect()
    });
    first(all, NONE)
}

fn pod(object: Object<'_>, age: &str) -> Value {
    let total = object.list("/spec/containers").count();
    let statuses: Vec<_> = object.list("/status/containerStatuses").map(Object).collect();
    let ready = match statuses.is_empty() {
        // A Pod written by hand says only whether it is ready.
        true if object.condition("Ready") == "True" => total,
        true => 0,
        false => statuses.iter().filter(|s| s.0.pointer("/ready") == Some(&json!(true))).count(),
    };
    let restarts = statuses.iter().filter_map(|s| s.0.pointer("/restartCount")?.as_u64());
    let phase = object.or("/status/reason", object.or("/status/phase", "Unknown"));
    let terminating = !object.text("/metadata/deletionTimestamp").is_empty();
    let gates = object.list("/spec/readinessGates").count();
    json!([
        object.text("/metadata/name"),
        format!("{ready}/{total}"),
        if terminating { "Terminating" } else { phase },
        restarts.sum::<u64>().to_string(),
        age,
        object.or("/status/podIP", object.or("/status/podIPs/0/ip", NONE)),
        object.or("/spec/nodeName", NONE),
        object.or("/status/nominatedNodeName", NONE),
        if gates == 0 { NONE.to_owned() } else { format!("?/{gates}") },
    ])
}

fn node(object: Object<'_>, age: &str) -> Value {
    let mut status = match object.condition("Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    }
    .to_owned();
    if object.0.pointer("/spec/unschedulable") == Some(&json!(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = object.0.pointer("/metadata/labels").and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(key, value)| match key.as_str() {
        "kubernetes.io/role" => value.as_str().map(str::to_owned),
        key => key.strip_prefix("node-role.kubernetes.io/").map(str::to_owned),
    });
    let address = |kind: &str| {
        let mut addresses = object.list("/status/addresses").map(Object);
        addresses.find(|address| address.text("/type") == kind).map_or(NONE, |a| a.text("/address"))
    };
    let info = |field: &str| object.or(&format!("/status/nodeInfo/{field}"), UNKNOWN);
    json!([
        object.text("/metadata/name"),
        status,
        join(roles, ",", NONE),
        age,
        object.text("/status/nodeInfo/kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ])
}

fn ingress(object: Object<'_>, age: &str) -> Value {
    let rules = object.list("/spec/rules").map(|rule| Object(rule).text("/host"));
    let hosts = rules.filter(|host| !host.is_empty()).map(str::to_owned);
    let tls = object.list("/spec/tls").next().is_some();
    json!([
        object.text("/metadata/name"),
        object.or("/spec/ingressClassName", NONE),
        first(hosts, "*"),
        join(balancers(object), ",", ""),
        if tls { "80, 443" } else { "80" },
        age,
    ])
}

fn parameters(object: Object<'_>) -> String {
    let parameters = match object.0.pointer("/spec/parameters") {
        Some(parameters) if parameters.is_object() => Object(parameters),
        _ => return NONE.to_owned(),
    };
    let (kind, name) = (parameters.text("/kind"), parameters.text("/name"));
    match parameters.text("/apiGroup") {
        "" => format!("{kind}/{name}"),
        group => format!("{kind}.{group}/{name}"),
    }
}

fn event(object: Object<'_>, now: Timestamp) -> Value {
    let involved = object.text("/involvedObject/kind").to_lowercase();
    let source = object.or("/source/component", object.text("/reportingComponent"));
    let host = object.text("/source/host");
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    let time = |pointer: &str| since(object.or(pointer, object.text("/eventTime")), now);
    json!([
        time("/lastTimestamp"),
        object.text("/type"),
        object.text("/reason"),
        format!("{involved}/{}", object.text("/involvedObject/name")),
        object.text("/involvedObject/fieldPath"),
        source,
        object.text("/message").trim(),
        time("/firstTimestamp"),
        object.0.pointer("/count").and_then(Value::as_u64).unwrap_or(1),
        object.text("/metadata/name"),
    ])
}

/// The time since a timestamp, as short as a person wants it.
fn since(timestamp: &str, now: Timestamp) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => age(now.as_second() - then.as_second()),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// Seconds as `74s`, `5m10s`, `3h4m`, `26h`, `5d3h`, `340d`, `2y30d`.
fn age(seconds: i64) -> String {
    /// A unit, and how long the next smaller one is told beside it, in the unit.
    fn in_units(seconds: i64, (unit, sign): (i64, char), (next, next_sign): (i64, char)) -> String {
        let rest = seconds % unit / next;
        let whole = seconds / unit;
        if rest == 0 { format!("{whole}{sign}") } else { format!("{whole}{sign}{rest}{next_sign}") }
    }
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        // Clocks differ a little.
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => in_units(s, (MINUTE, 'm'), (1, 's')),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => in_units(s, (HOUR, 'h'), (MINUTE, 'm')),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => in_units(s, (DAY, 'd'), (HOUR, 'h')),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => in_units(s, (YEAR, 'y'), (DAY, 'd')),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests;
