//! The served zone as JSON, for `/snapshot`.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::wire::Name;
use crate::zone::{Service, ServiceKind, Zone};

/// A summary of each Service, ordered by namespace and name.
pub(crate) fn page(zone: &Zone, generation: u64) -> Value {
    let mut services: Vec<&Service> = zone.services().collect();
    services.sort_unstable_by_key(|s| (s.namespace_label(), s.name_label()));
    json!({
        "generation": generation,
        "synced": zone.is_synced(),
        "domain": zone.domain().to_string(),
        "serial": zone.serial(),
        "names": zone.names(),
        "services": services.into_iter().map(service).collect::<Vec<_>>(),
    })
}

fn service(service: &Service) -> Value {
    let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
    let ports = service.ports.iter().map(|port| {
        json!({ "name": text(&port.name), "protocol": port.protocol.as_str(), "port": port.number })
    });
    let mut summary = json!({
        "namespace": text(service.namespace_label()),
        "name": text(service.name_label()),
    });
    match &service.kind {
        ServiceKind::External(target) => {
            let mut name = Name::root();
            let is_name = name.read(target, 0).is_some();
            summary["externalName"] = json!(is_name.then(|| name.to_string()));
        }
        kind => {
            let addresses: Vec<IpAddr> = match kind {
                ServiceKind::Cluster => service.cluster_ips.to_vec(),
                _ => service.endpoints.iter().map(|endpoint| endpoint.ip).collect(),
            };
            summary["headless"] = json!(matches!(kind, ServiceKind::Headless));
            summary["addresses"] = json!(addresses);
            summary["endpoints"] = json!(service.endpoints.len());
            summary["ports"] = ports.collect();
        }
    }
    summary
}
