//! Errors as the API tells them: a `v1` Status and its HTTP code.
//!
//! Pure. The words, reasons and codes are a kube-apiserver's where it has the same error, because
//! clients act on them.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::history::VersionError;
use model::Kind;

/// What a client sent is repeated up to this length: longer texts would be kept for each of its
/// requests until it takes the answers, and no name is longer.
const REPEATED: usize = 1024;

/// An answer that is no object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
    /// A token with which an expired list may go on.
    continue_token: Option<String>,
    /// Seconds after which the client may ask again.
    retry_after: Option<u32>,
}

impl Status {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Status {
        let mut message = message.into();
        if message.len() > REPEATED {
            message.truncate(message.floor_char_boundary(REPEATED));
            message.push('…');
        }
        Status { code, reason, message, details: None, continue_token: None, retry_after: None }
    }

    fn with_details(self, details: Value) -> Status {
        Status { details: Some(details), ..self }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Status {
        Status::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Status {
        Status::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// `user` may not do `verb`; `place` is `at the cluster scope` or `in the namespace "x"`.
    pub(crate) fn forbidden(resource: Kind, name: &str, sentence: &str, why: &str) -> Status {
        let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let message = format!("{}{named} is forbidden: {sentence}: {why}", resource.qualified());
        Status::new(StatusCode::FORBIDDEN, "Forbidden", message)
            .with_details(details(resource, name))
    }

    pub(crate) fn foreign_host() -> Status {
        let message = "foreign Host or Origin header: this address answers to localhost and to \
                       IP addresses only";
        Status::new(StatusCode::FORBIDDEN, "Forbidden", message).with_details(json!({}))
    }

    pub(crate) fn not_found(resource: Kind, name: &str) -> Status {
        let message = format!("{} {name:?} not found", resource.qualified());
        Status::new(StatusCode::NOT_FOUND, "NotFound", message)
            .with_details(details(resource, name))
    }

    pub(crate) fn unknown_resource() -> Status {
        let message = "the server could not find the requested resource";
        Status::new(StatusCode::NOT_FOUND, "NotFound", message).with_details(json!({}))
    }

    /// A resource to which objects are only posted.
    pub(crate) fn only_posted() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .with_details(json!({}))
    }

    pub(crate) fn already_exists(resource: Kind, name: &str) -> Status {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Status::new(StatusCode::CONFLICT, "AlreadyExists", message)
            .with_details(details(resource, name))
    }

    /// The object is no longer the one that the client has seen.
    pub(crate) fn conflict(resource: Kind, name: &str) -> Status {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please \
             apply your changes to the latest version and try again",
            resource.qualified()
        );
        Status::new(StatusCode::CONFLICT, "Conflict", message).with_details(details(resource, name))
    }

    /// An object with these errors, each with its field first, and as the API lists causes.
    pub(crate) fn invalid(
        resource: Kind,
        name: &str,
        errors: &[String],
        causes: Vec<Value>,
    ) -> Status {
        let (kind, group) = (resource.as_str(), resource.group());
        let qualified = if group.is_empty() { kind.into() } else { format!("{kind}.{group}") };
        let all = match errors {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{qualified} {name:?} is invalid: {all}");
        let mut details = details(resource, name);
        details["kind"] = kind.into();
        details["causes"] = causes.into();
        Status::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_details(details)
    }

    /// `kubectl` sends some objects, and one form of patches, as nothing here reads them.
    pub(crate) fn unsupported_media_type() -> Status {
        let message = "the body is in a format that is not read here: write the object as YAML \
                       (kubectl create … --dry-run=client -o yaml) and send that (kubectl create \
                       --dry-run=server -f -). Accepted are application/json, application/yaml, \
                       application/apply-patch+yaml, application/merge-patch+json and \
                       application/strategic-merge-patch+json";
        Status::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
            .with_details(json!({}))
    }

    pub(crate) fn too_large(limit: usize) -> Status {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
            .with_details(json!({}))
    }

    pub(crate) fn too_many_writes() -> Status {
        Status::too_many("too many dry runs and reviews at once: try again later")
    }

    pub(crate) fn too_many_bodies() -> Status {
        Status::too_many("too many bodies of requests are being sent at once: try again later")
    }

    fn too_many(message: &str) -> Status {
        let status = Status::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        Status { retry_after: Some(1), ..status }.with_details(json!({"retryAfterSeconds": 1}))
    }

    /// The answer to a request that the end of the process cut off.
    pub(crate) fn shutting_down() -> Status {
        let message = "the server is shutting down: try again later";
        let status = Status::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
        Status { retry_after: Some(1), ..status }.with_details(json!({"retryAfterSeconds": 1}))
    }

    /// Nothing can be written here.
    pub(crate) fn read_only() -> Status {
        let message = "this feed is read-only: it serves a folder of manifests; change the \
                       manifests in the folder, and the change is served at once";
        Status::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .with_details(json!({}))
    }

    pub(crate) fn not_acceptable() -> Status {
        let message = "406: Not Acceptable\n\nAvailable representations: application/json, \
                       application/yaml, application/json;stream=watch";
        Status::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).with_details(json!({}))
    }

    /// An option of a request that cannot stand where or as it does.
    pub(crate) fn invalid_option(cause: &'static str, field: &str, message: &str) -> Status {
        let text = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {message}");
        let causes = json!([{"reason": cause, "message": message, "field": field}]);
        let details = json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": causes});
        Status::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text).with_details(details)
    }

    pub(crate) fn too_many_streams() -> Status {
        Status::too_many("too many watches and lists: try again later")
    }

    /// A version that cannot be parsed: lists and watches have different codes for it.
    pub(crate) fn bad_version(text: &str, watch: bool) -> Status {
        let why = format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: \
             invalid syntax"
        );
        if watch {
            return Status::new(StatusCode::INTERNAL_SERVER_ERROR, "", why);
        }
        Status::bad_request(format!("invalid resource version: {why}"))
    }

    /// A list that must be at least as new as a version that was not reached.
    pub(crate) fn future_version(asked: u64, current: u64) -> Status {
        let error = VersionError::Future { asked, current };
        let status =
            Status::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {error}"));
        let message = "Too large resource version";
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": message}]);
        Status { retry_after: Some(1), ..status }
            .with_details(json!({"causes": causes, "retryAfterSeconds": 1}))
    }

    /// A watch cannot go on from a version: the client must list again.
    ///
    /// For a version above ours a kube-apiserver stays silent; but such a client has seen
    /// another server's versions, and would wait for ever.
    pub(crate) fn expired_watch(error: VersionError) -> Status {
        Status::new(StatusCode::GONE, "Expired", error.to_string())
    }

    /// A list of a version that is forgotten.
    pub(crate) fn expired_list() -> Status {
        let message = "The resourceVersion for the provided list is too old.";
        Status::new(StatusCode::GONE, "Expired", message)
    }

    /// The rest of a list whose version is forgotten; `token` goes on without consistency.
    pub(crate) fn expired_continue(token: String) -> Status {
        let message = "The provided continue parameter is too old: what changed since the first \
                       part of the list is forgotten. Start a new list without it, or use the \
                       token in this answer to go on with a list that is not consistent.";
        let status = Status::new(StatusCode::GONE, "Expired", message);
        Status { continue_token: Some(token), ..status }
    }

    pub(crate) fn code(&self) -> StatusCode {
        self.code
    }

    pub(crate) fn retry_after(&self) -> Option<u32> {
        self.retry_after
    }

    pub(crate) fn to_json(&self) -> String {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), token.as_str().into());
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status.to_string()
    }

    /// The line of a watch stream that ends it.
    pub(crate) fn to_frame(&self) -> String {
        format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", self.to_json())
    }
}

fn details(resource: Kind, name: &str) -> Value {
    let mut details = json!({"kind": resource.plural()});
    if !name.is_empty() {
        details["name"] = name[..name.floor_char_boundary(REPEATED)].into();
    }
    if !resource.group().is_empty() {
        details["group"] = resource.group().into();
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_not_repeated_whole() {
        let long = "ä".repeat(30_000);
        for status in [
            Status::bad_request(long.clone()),
            Status::not_found(Kind::Service, &long),
            Status::forbidden(Kind::Secret, &long, "sentence", "why"),
        ] {
            let json = status.to_json();
            assert!(json.len() < 3 * REPEATED, "{}", json.len());
            assert!(json.contains("ää") && json.contains('…'), "{json}");
        }
    }
}
