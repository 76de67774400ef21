//! What the server says of itself: its version, API groups and resources.
//!
//! Pure. The older of the two forms of discovery: every client falls back to it.

use serde_json::{Value, json};

use super::review::Review;
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

/// `/`: which paths there are.
pub(crate) fn paths() -> Value {
    let mut paths: Vec<_> = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.push(format!("/api/{}", Kind::VERSION));
    for group in named_groups() {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{}", Kind::VERSION));
    }
    paths.sort_unstable();
    json!({"paths": paths})
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
    let groups: Vec<_> = named_groups().into_iter().filter_map(description).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// The groups that have a name, sorted: of kinds, and of reviews.
pub(crate) fn named_groups() -> Vec<&'static str> {
    let mut groups = Kind::groups();
    groups.extend(Review::ALL.map(Review::group));
    groups.retain(|group| !group.is_empty());
    groups.sort_unstable();
    groups.dedup();
    groups
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
    let reviews = Review::ALL.into_iter().filter(|review| review.group() == group);
    let resources: Vec<_> = of_group.map(resource).chain(reviews.map(review)).collect();
    if resources.is_empty() {
        return None;
    }
    let group_version = match group {
        "" => Kind::VERSION.to_owned(),
        group => format!("{group}/{}", Kind::VERSION),
    };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn description(name: &str) -> Option<Value> {
    if !named_groups().contains(&name) {
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

fn review(review: Review) -> Value {
    json!({
        "name": review.plural(),
        "singularName": review.plural().trim_end_matches('s'),
        "namespaced": false,
        "kind": review.kind(),
        "verbs": ["create"],
    })
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
                    "name": "authentication.k8s.io",
                    "versions": [{"groupVersion": "authentication.k8s.io/v1", "version": "v1"}],
                    "preferredVersion": {
                        "groupVersion": "authentication.k8s.io/v1", "version": "v1",
                    },
                },
                {
                    "name": "authorization.k8s.io",
                    "versions": [{"groupVersion": "authorization.k8s.io/v1", "version": "v1"}],
                    "preferredVersion": {
                        "groupVersion": "authorization.k8s.io/v1", "version": "v1",
                    },
                },
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
        let reviews = resources("authorization.k8s.io").unwrap();
        assert_eq!(reviews["resources"][0]["name"], "selfsubjectaccessreviews");
        assert_eq!(reviews["resources"][0]["verbs"], json!(["create"]));
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
