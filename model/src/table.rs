//! Objects as `kubectl get` prints them: the columns of each kind and the cells of a row.
//!
//! Pure: objects and the time go in. Columns, cells and their order are those of a kube-apiserver,
//! so that people and scripts get the output that they expect.

use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";
const UNSET: &str = "<unset>";

/// Addresses, ports and hosts that fit a cell.
const SHOWN: usize = 3;

/// One object and the time, from which a row is made.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) object: Fields<'a>,
    pub(crate) now: Timestamp,
}

impl<'a> Row<'a> {
    pub(crate) fn name(self) -> &'a str {
        self.object.text("/metadata/name")
    }

    /// The time since the object was created.
    pub(crate) fn age(self) -> String {
        since(self.object.text("/metadata/creationTimestamp"), self.now)
    }
}

pub(crate) fn namespace(row: Row<'_>) -> Value {
    json!([row.name(), row.object.text("/status/phase"), row.age()])
}

pub(crate) fn ingress_class(row: Row<'_>) -> Value {
    let controller = row.object.text("/spec/controller");
    json!([row.name(), controller, parameters(row.object), row.age()])
}

pub(crate) fn secret(row: Row<'_>) -> Value {
    let data = row.object.0.get("data").and_then(Value::as_object).map_or(0, |map| map.len());
    json!([row.name(), row.object.text("/type"), data, row.age()])
}

pub(crate) fn endpoints(row: Row<'_>) -> Value {
    json!([row.name(), joined_subsets(row.object), row.age()])
}

pub(crate) fn slice(row: Row<'_>) -> Value {
    let ports = row.object.list("/ports").map(|port| {
        let name = Fields(port).text("/name");
        let number = Fields(port).plain("/port");
        number.unwrap_or_else(|| if name.is_empty() { "*" } else { name }.to_owned())
    });
    let endpoints = row.object.list("/endpoints").map(Fields);
    let addresses = endpoints.flat_map(|endpoint| endpoint.texts("/addresses"));
    let kind = row.object.text("/addressType");
    json!([row.name(), kind, first(ports, UNSET), first(addresses, UNSET), row.age()])
}

/// An object whose fields may be absent.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a Value);

impl<'a> Fields<'a> {
    pub(crate) fn text(self, pointer: &str) -> &'a str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn or(self, pointer: &str, otherwise: &'a str) -> &'a str {
        Some(self.text(pointer)).filter(|text| !text.is_empty()).unwrap_or(otherwise)
    }

    /// A number as text.
    pub(crate) fn plain(self, pointer: &str) -> Option<String> {
        self.0.pointer(pointer).and_then(Value::as_u64).map(|number| number.to_string())
    }

    pub(crate) fn list(self, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.0.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
    }

    pub(crate) fn texts(self, pointer: &str) -> impl Iterator<Item = String> + use<'a> {
        self.list(pointer).filter_map(Value::as_str).map(str::to_owned)
    }

    /// A condition's status, `""` if it is missing.
    pub(crate) fn condition(self, kind: &str) -> &'a str {
        let found = self.list("/status/conditions").find(|c| Fields(c).text("/type") == kind);
        found.map_or("", |condition| Fields(condition).text("/status"))
    }
}

pub(crate) fn join(parts: impl Iterator<Item = String>, separator: &str, empty: &str) -> String {
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

pub(crate) fn service(row: Row<'_>) -> Value {
    let (object, age) = (row.object, row.age());
    let service_type = object.text("/spec/type");
    let cluster_ip = object.or("/spec/clusterIPs/0", object.or("/spec/clusterIP", NONE));
    let ports = object.list("/spec/ports").map(Fields).map(|port| {
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

fn external_ip(object: Fields<'_>, service_type: &str) -> String {
    let external = object.texts("/spec/externalIPs");
    match service_type {
        "ExternalName" => object.text("/spec/externalName").to_owned(),
        "LoadBalancer" => join(balancers(object).chain(external), ",", "<pending>"),
        _ => join(external, ",", NONE),
    }
}

/// Addresses in `status.loadBalancer`.
fn balancers(object: Fields<'_>) -> impl Iterator<Item = String> + use<'_> {
    let ingress = object.list("/status/loadBalancer/ingress").map(Fields);
    ingress.map(|one| one.or("/ip", one.text("/hostname")).to_owned())
}

fn joined_subsets(object: Fields<'_>) -> String {
    let subsets = object.list("/subsets").map(Fields);
    let all = subsets.flat_map(|subset| {
        let addresses: Vec<_> =
            subset.list("/addresses").map(|address| Fields(address).text("/ip")).collect();
        let ports: Vec<_> =
            subset.list("/ports").filter_map(|port| Fields(port).plain("/port")).collect();
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

pub(crate) fn pod(row: Row<'_>) -> Value {
    let (object, age) = (row.object, row.age());
    let total = object.list("/spec/containers").count();
    let statuses: Vec<_> = object.list("/status/containerStatuses").map(Fields).collect();
    let ready = match statuses.is_empty() {
        // A Pod written by hand has only the condition Ready.
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

pub(crate) fn node(row: Row<'_>) -> Value {
    let (object, age) = (row.object, row.age());
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
        let mut addresses = object.list("/status/addresses").map(Fields);
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

pub(crate) fn ingress(row: Row<'_>) -> Value {
    let (object, age) = (row.object, row.age());
    let rules = object.list("/spec/rules").map(|rule| Fields(rule).text("/host"));
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

fn parameters(object: Fields<'_>) -> String {
    let parameters = match object.0.pointer("/spec/parameters") {
        Some(parameters) if parameters.is_object() => Fields(parameters),
        _ => return NONE.to_owned(),
    };
    let (kind, name) = (parameters.text("/kind"), parameters.text("/name"));
    match parameters.text("/apiGroup") {
        "" => format!("{kind}/{name}"),
        group => format!("{kind}.{group}/{name}"),
    }
}

pub(crate) fn event(row: Row<'_>) -> Value {
    let Row { object, now } = row;
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

/// The time since a timestamp, in short form.
fn since(timestamp: &str, now: Timestamp) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => age(now.as_second() - then.as_second()),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// Seconds as `74s`, `5m10s`, `3h4m`, `26h`, `5d3h`, `340d`, `2y30d`.
fn age(seconds: i64) -> String {
    /// A unit, and up to which value the next smaller unit is added.
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
        // Clocks of different machines differ a little.
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
