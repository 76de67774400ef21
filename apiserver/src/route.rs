//! Paths of the API: text → what is asked for.
//!
//! Pure.

use percent_encoding::percent_decode_str;

use super::discovery;
use super::review::Review;
use model::Kind;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Route {
    /// `/`: which paths there are.
    Root,
    Version,
    Health,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/v1`
    Resources(String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiV3Index,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/{group}/v1`
    OpenApiV3(String),
    Collection {
        resource: Kind,
        namespace: Option<String>,
    },
    Object {
        resource: Kind,
        namespace: String,
        name: String,
    },
    /// `…/status` of an object.
    Status {
        resource: Kind,
        namespace: String,
        name: String,
    },
    /// `/apis/authentication.k8s.io/v1/selfsubjectreviews` and the like
    Review(Review),
    /// A path below a group and version that are served.
    UnknownResource,
    Unknown,
}

impl Route {
    pub(crate) fn of(path: &str) -> Route {
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let path = path.strip_prefix('/').unwrap_or(path);
        let parts: Vec<String> = path.trim_end_matches('/').split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            [""] => Route::Root,
            ["version"] => Route::Version,
            ["healthz" | "livez" | "readyz"] => Route::Health,
            ["api"] => Route::CoreVersions,
            ["apis"] => Route::Groups,
            ["openapi", "v2"] => Route::OpenApiV2,
            ["openapi", "v3"] => Route::OpenApiV3Index,
            ["openapi", "v3", "api", Kind::VERSION] => Route::OpenApiV3(String::new()),
            ["openapi", "v3", "apis", group, Kind::VERSION] if has_kinds(group) => {
                Route::OpenApiV3(group.to_owned())
            }
            ["api", Kind::VERSION, ref rest @ ..] => in_group("", rest),
            ["apis", group] if is_served(group) => Route::Group(group.to_owned()),
            ["apis", group, Kind::VERSION, ref rest @ ..] if is_served(group) => {
                in_group(group, rest)
            }
            _ => Route::Unknown,
        }
    }
}

fn is_served(group: &str) -> bool {
    discovery::named_groups().contains(&group)
}

fn has_kinds(group: &str) -> bool {
    !group.is_empty() && Kind::groups().contains(&group)
}

fn in_group(group: &str, parts: &[&str]) -> Route {
    let named = |plural| Kind::of_plural(group, plural);
    if let [object @ .., "status"] = parts
        && let Route::Object { resource, namespace, name } = in_group(group, object)
        && resource.structure().field("status").is_some()
    {
        return Route::Status { resource, namespace, name };
    }
    match parts {
        [] => Route::Resources(group.to_owned()),
        [plural] => match named(plural) {
            Some(resource) => Route::Collection { resource, namespace: None },
            None => Review::of(group, plural).map_or(Route::UnknownResource, Route::Review),
        },
        ["namespaces", namespace, plural, name @ ..] if name.len() <= 1 => match named(plural) {
            Some(resource) if resource.is_namespaced() => {
                let namespace = (*namespace).to_owned();
                match name {
                    [name] => Route::Object { resource, namespace, name: (*name).to_owned() },
                    _ => Route::Collection { resource, namespace: Some(namespace) },
                }
            }
            _ => Route::UnknownResource,
        },
        [plural, name] => match named(plural) {
            Some(resource) if !resource.is_namespaced() => {
                Route::Object { resource, namespace: String::new(), name: (*name).to_owned() }
            }
            _ => Route::UnknownResource,
        },
        _ => Route::UnknownResource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    fn check(path: &str, expected: Route) {
        assert_eq!(Route::of(path), expected, "{path}");
    }

    fn collection(resource: Kind, namespace: Option<&str>) -> Route {
        Route::Collection { resource, namespace: namespace.map(str::to_owned) }
    }

    fn object(resource: Kind, namespace: &str, name: &str) -> Route {
        Route::Object { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn paths_of_the_api() {
        check("", Route::Root);
        check("/", Route::Root);
        check("/version", Route::Version);
        check("/version/", Route::Version);
        check("/healthz", Route::Health);
        check("/api", Route::CoreVersions);
        check("/api/", Route::CoreVersions);
        check("/apis", Route::Groups);
        check("/apis/discovery.k8s.io", Route::Group("discovery.k8s.io".to_owned()));
        check("/api/v1", Route::Resources(String::new()));
        let networking = "/apis/networking.k8s.io/v1";
        check(networking, Route::Resources("networking.k8s.io".to_owned()));
        let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        check(review, Route::Review(Review::Access));
        check("/apis/authentication.k8s.io/v1", Route::Resources("authentication.k8s.io".into()));
        check("/openapi/v2", Route::OpenApiV2);
        check("/openapi/v3", Route::OpenApiV3Index);
        check("/openapi/v3/api/v1", Route::OpenApiV3(String::new()));
        let slices = Route::OpenApiV3("discovery.k8s.io".to_owned());
        check("/openapi/v3/apis/discovery.k8s.io/v1", slices);
        check("/openapi/v3/apis/apps/v1", Route::Unknown);
        check("/api/v1/services", collection(Kind::Service, None));
        check("/api/v1/nodes/n1", object(Kind::Node, "", "n1"));
        check("/api/v1/namespaces", collection(Kind::Namespace, None));
        check("/api/v1/namespaces/shop", object(Kind::Namespace, "", "shop"));
        let services = "/api/v1/namespaces/shop/services";
        check(services, collection(Kind::Service, Some("shop")));
        check(&format!("{services}/web"), object(Kind::Service, "shop", "web"));
        let status = |resource, namespace: &str, name: &str| Route::Status {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        check(&format!("{services}/web/status"), status(Kind::Service, "shop", "web"));
        check(&format!("{services}/status"), object(Kind::Service, "shop", "status"));
        check("/api/v1/nodes/n1/status", status(Kind::Node, "", "n1"));
        check("/api/v1/namespaces/shop/status", status(Kind::Namespace, "", "shop"));
        check(&format!("{services}/w%65b"), object(Kind::Service, "shop", "web"));
        let slices = "/apis/discovery.k8s.io/v1/endpointslices";
        check(slices, collection(Kind::EndpointSlice, None));
    }

    #[test]
    fn other_paths() {
        for path in [
            "/apis/apps",
            "/apis/apps/v1/deployments",
            "/api/v2",
            "//api",
            "/apis//v1",
            "/index.html",
        ] {
            check(path, Route::Unknown);
        }
        for path in [
            "/api/v1/widgets",
            "/api/v1/services/web",
            "/api/v1/namespaces/shop/nodes",
            "/api/v1/namespaces/shop/pods/a/log",
            "/apis/networking.k8s.io/v1/services",
            "/api/v1/namespaces/shop/secrets/key/status",
            "/api/v1/nodes/n1/status/status",
        ] {
            check(path, Route::UnknownResource);
        }
    }
}
