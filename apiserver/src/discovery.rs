//! What the server says of itself: its version, API groups and resources.
//!
//! Pure. The older of the two forms of discovery: every client falls back to it.

use serde_json::{Value, json};

use model::Kind;

/// The Kubernetes release whose API this is.
const MINOR: &str = "36";

/// The same as a version.
pub(crate) const RELEASE: &str = "v1.36.0";

/// `/version`.
pub(crate) fn version() -> Value {
    let git = format!("v1.{MINOR}.0+switchyard.{}", env!("CARGO_PKG_VERSION"));
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": git,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`: the versions of the core group. `address` is where the client reached this server.
pub(crate) fn core_versions(address: &str) -> Value {
    let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
    json!({
        "kind": "APIVersions",
        "versions": [Kind::VERSION],
        "serverAddressByClientCIDRs": addresses,
    })
}

/// `/apis`: all groups but the core group.
pub(crate) fn groups() -> Value {
    let named = Kind::groups().into_iter().filter(|group| !group.is_empty());
    let groups: Vec<_> = named.filter_map(description).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub(crate) fn group(name: &str) -> Option<Value> {
    let mut group = description(name)?;
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// `/api/v1` and `/apis/{group}/v1`.
pub(crate) fn resources(group: &str) -> Option<Value> {
    let of_group = Kind::ALL.into_iter().filter(|resource| resource.group() == group);
    let resources: Vec<_> = of_group.map(resource).collect();
    let group_version = Kind::ALL.into_iter().find(|r| r.group() == group)?.api_version();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn description(name: &str) -> Option<Value> {
    if name.is_empty() || !Kind::groups().contains(&name) {
        return None;
    }
    let version = json!({
        "groupVersion": format!("{name}/{}", Kind::VERSION),
        "version": Kind::VERSION,
    });
    Some(json!({"name": name, "versions": [&version], "preferredVersion": version}))
}

fn resource(resource: Kind) -> Value {
    let mut description = json!({
        "name": resource.plural(),
        "singularName": resource.singular(),
        "namespaced": resource.is_namespaced(),
        "kind": resource.as_str(),
        "verbs": ["get", "list", "watch"],
    });
    if !resource.short_names().is_empty() {
        description["shortNames"] = json!(resource.short_names());
    }
    if !resource.categories().is_empty() {
        description["categories"] = json!(resource.categories());
    }
    description
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_resources_are_found() {
        assert_eq!(
            groups()["groups"],
            json!([
                {
                    "name": "discovery.k8s.io",
                    "versions": [{"groupVersion": "discovery.k8s.io/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": "discovery.k8s.io/v1", "version": "v1"},
                },
                {
                    "name": "networking.k8s.io",
                    "versions": [{"groupVersion": "networking.k8s.io/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": "networking.k8s.io/v1", "version": "v1"},
                },
            ])
        );
        assert_eq!(group("discovery.k8s.io").unwrap()["kind"], "APIGroup");
        assert_eq!(group("apps"), None);
        assert_eq!(group(""), None);
        assert_eq!(resources("apps"), None);
        let core = resources("").unwrap();
        assert_eq!(core["groupVersion"], "v1");
        let resources = core["resources"].as_array().unwrap();
        assert_eq!(resources.len(), 7);
        let of_all = resources.iter().filter(|resource| resource["categories"] == json!(["all"]));
        let of_all: Vec<_> = of_all.map(|resource| resource["name"].clone()).collect();
        assert_eq!(of_all, ["services", "pods"]);
    }

    #[test]
    fn a_resource_is_described_as_the_api_does() {
        assert_eq!(
            resources("discovery.k8s.io").unwrap(),
            json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": "discovery.k8s.io/v1",
                "resources": [{
                    "name": "endpointslices",
                    "singularName": "endpointslice",
                    "namespaced": true,
                    "kind": "EndpointSlice",
                    "verbs": ["get", "list", "watch"],
                }],
            })
        );
    }
}
