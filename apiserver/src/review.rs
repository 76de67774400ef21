//! Reviews: what a client asks of itself. Who am I, may I do this, what may I do?
//!
//! Pure. They are posted as objects and answered as objects; nothing is kept. `kubectl auth can-i`
//! and `kubectl auth whoami` ask them. The answers follow from the same rules by which requests are
//! let in: everyone who is let in may read all but Secrets, and those as [`super::access`] says.
//! Newer clients post them in protobuf only, so these few messages are read in it.

mod protobuf;

pub(crate) use protobuf::MAGIC as PROTOBUF_MAGIC;

use serde_json::{Map, Value, json};

use super::status::Status;
use super::values::{self, text};
use model::Kind;

/// A kind of review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// May I do this?
    Access,
    /// What may I do?
    Rules,
    /// Who am I?
    User,
}

/// What is true of a client.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    pub(crate) user: String,
    /// It showed a token that is known.
    pub(crate) is_known: bool,
    /// Why it may not read Secrets.
    pub(crate) secrets: Result<(), String>,
}

const READING: [&str; 3] = ["get", "list", "watch"];
const READ_ONLY: &str = "this feed is read-only: change the manifests in its folder";

/// Paths that are no objects: with `*` for whatever follows.
const PATHS: [&str; 12] = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
    "/healthz/",
];

impl Review {
    pub(crate) const ALL: [Review; 3] = [Review::User, Review::Access, Review::Rules];

    pub(crate) fn of(group: &str, plural: &str) -> Option<Review> {
        Review::ALL.into_iter().find(|r| r.group() == group && r.plural() == plural)
    }

    pub(crate) fn group(self) -> &'static str {
        match self {
            Review::User => "authentication.k8s.io",
            Review::Access | Review::Rules => "authorization.k8s.io",
        }
    }

    pub(crate) fn kind(self) -> &'static str {
        match self {
            Review::User => "SelfSubjectReview",
            Review::Access => "SelfSubjectAccessReview",
            Review::Rules => "SelfSubjectRulesReview",
        }
    }

    pub(crate) fn plural(self) -> &'static str {
        match self {
            Review::User => "selfsubjectreviews",
            Review::Access => "selfsubjectaccessreviews",
            Review::Rules => "selfsubjectrulesreviews",
        }
    }

    /// The review that a body holds, answered.
    ///
    /// # Errors
    ///
    /// When the body is no such review.
    pub(crate) fn answer(self, body: &[u8], rights: &Rights) -> Result<Value, Status> {
        let spec = self.spec(body)?;
        let status = match self {
            Review::User => {
                let group = if rights.is_known { "authenticated" } else { "unauthenticated" };
                let groups = json!([format!("system:{group}")]);
                json!({"userInfo": {"username": rights.user, "groups": groups}})
            }
            Review::Access => match allowed(&spec, rights)? {
                Ok(()) => json!({"allowed": true}),
                Err(why) => json!({"allowed": false, "reason": why}),
            },
            Review::Rules => rules(rights),
        };
        let api_version = format!("{}/{}", self.group(), Kind::VERSION);
        let mut review = json!({
            "kind": self.kind(),
            "apiVersion": api_version,
            "metadata": {"creationTimestamp": null},
            "status": status,
        });
        if self != Review::User {
            review["spec"] = spec;
        }
        Ok(review)
    }

    fn spec(self, body: &[u8]) -> Result<Value, Status> {
        if let Some(message) = body.strip_prefix(PROTOBUF_MAGIC) {
            let unreadable = || Status::bad_request("the review cannot be read: bad protobuf");
            return self.spec_of_protobuf(message).ok_or_else(unreadable);
        }
        let review: Value = values::read(body)
            .map_err(|error| Status::bad_request(format!("the review cannot be read: {error}")))?;
        match review["kind"].as_str() {
            None | Some("") => {}
            Some(kind) if kind == self.kind() => {}
            Some(kind) => {
                let message = format!("a {kind} was sent where {} is expected", self.kind());
                return Err(Status::bad_request(message));
            }
        }
        Ok(review["spec"].clone())
    }
}

/// Messages and numbers of fields are those of Kubernetes: `runtime.Unknown` has the object in its
/// second field, and a review its spec.
const RAW: u64 = 2;
const SPEC: u64 = 2;

/// Texts of `ResourceAttributes`, by the numbers of their fields.
const RESOURCE: [(u64, &str); 7] = [
    (1, "namespace"),
    (2, "verb"),
    (3, "group"),
    (4, "version"),
    (5, "resource"),
    (6, "subresource"),
    (7, "name"),
];
/// Texts of `NonResourceAttributes`.
const PATH: [(u64, &str); 2] = [(1, "path"), (2, "verb")];

impl Review {
    fn spec_of_protobuf(self, message: &[u8]) -> Option<Value> {
        let spec = protobuf::message(protobuf::message(message, RAW)?, SPEC)?;
        Some(match self {
            Review::User => Value::Null,
            Review::Rules => protobuf::texts(spec, &[(1, "namespace")])?,
            Review::Access => {
                let mut attributes = Map::new();
                for (number, bytes) in protobuf::fields(spec)? {
                    let (name, known) = match number {
                        1 => ("resourceAttributes", &RESOURCE[..]),
                        2 => ("nonResourceAttributes", &PATH[..]),
                        _ => continue,
                    };
                    attributes.insert(name.to_owned(), protobuf::texts(bytes, known)?);
                }
                attributes.into()
            }
        })
    }
}

/// Whether a client may do what a review's spec asks; `Err` inside: why not.
fn allowed(spec: &Value, rights: &Rights) -> Result<Result<(), String>, Status> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), path.is_object()) {
        (true, false) => Ok(may_access(resource, rights)),
        (false, true) => Ok(may_ask(path)),
        _ => {
            let message = "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec: \
                           exactly one of nonResourceAttributes or resourceAttributes must be \
                           specified";
            Err(Status::bad_request(message))
        }
    }
}

fn may_access(asked: &Value, rights: &Rights) -> Result<(), String> {
    let (group, resource) = (text(asked, "group"), text(asked, "resource"));
    if Review::of(group, resource).is_some() && text(asked, "verb") == "create" {
        return Ok(());
    }
    if !READING.contains(&text(asked, "verb")) {
        return Err(READ_ONLY.to_owned());
    }
    let subresource = text(asked, "subresource");
    if !matches!(subresource, "") {
        return Err(format!("{resource}/{subresource} is not served here"));
    }
    if resource == "*" && matches!(group, "*" | "") {
        return rights.secrets.clone();
    }
    let is_asked = |kind: &Kind| {
        (group == "*" || kind.group() == group) && (resource == "*" || kind.plural() == resource)
    };
    let mut kinds = Kind::ALL.into_iter().filter(is_asked).peekable();
    if kinds.peek().is_none() {
        return Err(format!("{resource} of API group {group:?} is not served here"));
    }
    match kinds.any(|kind| kind == Kind::Secret) {
        true => rights.secrets.clone(),
        false => Ok(()),
    }
}

/// Paths that are no objects.
fn may_ask(asked: &Value) -> Result<(), String> {
    if text(asked, "verb") != "get" {
        return Err(READ_ONLY.to_owned());
    }
    let path = text(asked, "path");
    let holds = |known: &&str| match known.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == *known,
    };
    PATHS.iter().find(|known| holds(known)).map(|_| ()).ok_or("not served here".to_owned())
}

/// All that a client may do.
fn rules(rights: &Rights) -> Value {
    let mut rules = Vec::new();
    let mut groups: Vec<_> = Review::ALL.map(Review::group).to_vec();
    groups.dedup();
    for group in groups {
        let reviews = Review::ALL.into_iter().filter(|review| review.group() == group);
        let plurals: Vec<_> = reviews.map(Review::plural).collect();
        rules.push(json!({"verbs": ["create"], "apiGroups": [group], "resources": plurals}));
    }
    for group in Kind::groups() {
        let is_open = |kind: &Kind| *kind != Kind::Secret || rights.secrets.is_ok();
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.group() == group);
        let plurals: Vec<_> = kinds.filter(is_open).map(Kind::plural).collect();
        rules.push(json!({"verbs": READING, "apiGroups": [group], "resources": plurals}));
    }
    json!({
        "resourceRules": rules,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": PATHS}],
        "incomplete": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(secrets: bool) -> Rights {
        let secrets = if secrets { Ok(()) } else { Err("no token".to_owned()) };
        Rights { user: "token on line 3".to_owned(), is_known: true, secrets }
    }

    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    fn asked(attributes: Value, secrets: bool) -> (bool, String) {
        let body = json!({"kind": "SelfSubjectAccessReview", "spec": attributes}).to_string();
        let review = Review::Access.answer(body.as_bytes(), &rights(secrets)).unwrap();
        assert_eq!(review["spec"], attributes);
        let status = &review["status"];
        (status["allowed"].as_bool().unwrap(), text(status, "reason").to_owned())
    }

    fn of_resource(verb: &str, group: &str, resource: &str, secrets: bool) -> (bool, String) {
        let attributes = json!({"verb": verb, "group": group, "resource": resource});
        asked(json!({"resourceAttributes": attributes}), secrets)
    }

    #[test]
    fn reading_is_allowed_and_secrets_as_the_token_says() {
        for verb in READING {
            assert!(of_resource(verb, "", "services", false).0);
            assert!(of_resource(verb, "networking.k8s.io", "ingresses", false).0);
            assert_eq!(of_resource(verb, "", "secrets", false), (false, "no token".to_owned()));
            assert!(of_resource(verb, "", "secrets", true).0);
        }
        assert!(!of_resource("get", "*", "*", false).0, "Secrets are among them");
        assert!(!of_resource("get", "", "*", false).0, "Secrets are among them");
        assert!(of_resource("get", "*", "*", true).0);
        assert!(of_resource("get", "discovery.k8s.io", "*", false).0);
        assert!(of_resource("create", "authorization.k8s.io", "selfsubjectaccessreviews", false).0);
    }

    #[test]
    fn writing_and_what_is_not_served_are_not() {
        for verb in ["create", "update", "patch", "delete", "*", "impersonate", ""] {
            let (allowed, why) = of_resource(verb, "", "services", true);
            assert!(!allowed && why.contains("read-only"), "{verb}: {why}");
        }
        let (allowed, why) = of_resource("get", "apps", "deployments", true);
        assert!(!allowed && why.contains("is not served here"), "{why}");
        assert!(!of_resource("get", "apps", "services", true).0);
        let log = json!({"verb": "get", "resource": "pods", "subresource": "log"});
        assert!(!asked(json!({"resourceAttributes": log}), true).0);
    }

    #[test]
    fn paths_are_asked_for_too() {
        let of_path = |verb: &str, path: &str| {
            asked(json!({"nonResourceAttributes": {"verb": verb, "path": path}}), false).0
        };
        for path in ["/version", "/healthz", "/apis/discovery.k8s.io", "/openapi/v3/api/v1"] {
            assert!(of_path("get", path), "{path}");
        }
        assert!(!of_path("get", "/logs") && !of_path("get", "/metrics"));
        assert!(!of_path("post", "/version"));
    }

    #[test]
    fn rules_are_all_that_is_allowed() {
        let of = |secrets| {
            let review = Review::Rules.answer(b"{}", &rights(secrets)).unwrap();
            review["status"]["resourceRules"].to_string()
        };
        assert!(of(true).contains("\"secrets\"") && !of(false).contains("secrets"));
        assert!(of(false).contains("\"endpointslices\"") && !of(false).contains('*'));
    }

    #[test]
    fn a_client_is_told_who_it_is() {
        let user = |is_known| {
            let rights = Rights { is_known, ..rights(true) };
            Review::User.answer(b"{}", &rights).unwrap()["status"]["userInfo"].clone()
        };
        let groups = |name: &str| json!([name]);
        assert_eq!(user(true)["username"], "token on line 3");
        assert_eq!(user(true)["groups"], groups("system:authenticated"));
        assert_eq!(user(false)["groups"], groups("system:unauthenticated"));
    }

    #[test]
    fn what_is_no_review_is_refused() {
        for (body, words) in [
            (&b"nonsense"[..], "cannot be read"),
            (br#"{"kind": "Service"}"#, "where SelfSubjectAccessReview is expected"),
            (br#"{"spec": {}}"#, "exactly one of"),
            (b"k8s\0\x0a\xff", "bad protobuf"),
        ] {
            let status = Review::Access.answer(body, &rights(true)).unwrap_err();
            assert_eq!(status.code(), 400);
            assert!(status.to_json().contains(words), "{}", status.to_json());
        }
    }

    /// Newer versions of `kubectl` post in protobuf and do not fall back.
    #[test]
    fn a_review_in_protobuf_is_read() {
        fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
            [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
        }
        let attributes = [
            field(1, b"shop"),
            field(2, b"list"),
            field(5, b"secrets"),
            // A number, which is passed over.
            vec![0x78, 0x81, 0x01],
        ];
        let spec = field(1, &attributes.concat());
        let review = [field(1, b""), field(2, &spec)].concat();
        let unknown = [field(1, b"\x0a\x02v1"), field(2, &review)].concat();
        let body = [protobuf::MAGIC, &unknown].concat();
        let answer = Review::Access.answer(&body, &rights(false)).unwrap();
        let asked = json!({"namespace": "shop", "verb": "list", "resource": "secrets"});
        assert_eq!(answer["spec"], json!({"resourceAttributes": asked}));
        assert_eq!(answer["status"]["allowed"], false);
    }
}
