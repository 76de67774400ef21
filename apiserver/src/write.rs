//! Requests that would write: which of them are answered, without anything being stored.
//!
//! Pure. Reviews, which a client asks of itself, and dry runs. All others are refused: the server
//! reads a folder.

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use serde_json::Value;

use super::dry_run::{Action, DryRun};
use super::query;
use super::review::Review;
use super::route::Route;
use super::status::Status;
use super::values;
use model::Kind;

/// A request whose body is to be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    Review(Review),
    DryRun(DryRun),
    /// A deletion. Only its body says whether it is a dry run ([`is_dry_deletion`]).
    Delete(DryRun),
}

impl Write {
    /// What a request would write.
    ///
    /// # Errors
    ///
    /// The answer to one that is refused whatever its body is.
    pub(crate) fn of(request: &Request<()>, route: Route) -> Result<Write, Status> {
        let method = request.method();
        let (resource, namespace, name) = match route {
            Route::Review(review) if method == Method::POST => return Ok(Write::Review(review)),
            Route::Collection { resource, namespace } => {
                let fits = resource.is_namespaced() == namespace.is_some();
                match fits && method == Method::POST {
                    true => (resource, namespace.unwrap_or_default(), String::new()),
                    false => return Err(Status::read_only()),
                }
            }
            Route::Object { resource, namespace, name } if method != Method::POST => {
                (resource, namespace, name)
            }
            Route::UnknownResource => return Err(Status::unknown_resource()),
            _ => return Err(Status::read_only()),
        };
        let is_dry = query::is_dry_run(request.uri().query().unwrap_or_default())?;
        // Events are the server's own.
        if resource.reader().is_none() {
            return Err(Status::read_only());
        }
        let run = |action| DryRun { resource, namespace, name, action };
        if method == Method::DELETE {
            let run = run(Action::Delete);
            return Ok(if is_dry { Write::DryRun(run) } else { Write::Delete(run) });
        }
        if !is_dry {
            return Err(Status::read_only());
        }
        let content = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content = content.map_or("", |value| value.split(';').next().unwrap_or_default());
        Ok(Write::DryRun(run(action(method, content.trim())?)))
    }

    /// The verb, as rights name it.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Write::Review(_) => "create",
            Write::DryRun(run) | Write::Delete(run) => run.verb(),
        }
    }

    /// Kind, namespace and name of the object.
    pub(crate) fn about(&self) -> Option<(Kind, &str, &str)> {
        match self {
            Write::Review(_) => None,
            Write::DryRun(run) | Write::Delete(run) => {
                Some((run.resource, &run.namespace, &run.name))
            }
        }
    }
}

fn action(method: &Method, content: &str) -> Result<Action, Status> {
    let is_object = matches!(content, "" | "application/json" | "application/yaml");
    match (method, content) {
        (&Method::POST, _) if is_object => Ok(Action::Create),
        (&Method::PUT, _) if is_object => Ok(Action::Replace),
        (&Method::PATCH, "application/merge-patch+json") => Ok(Action::MergePatch),
        (&Method::PATCH, "application/strategic-merge-patch+json") => Ok(Action::StrategicPatch),
        (&Method::PATCH, "application/apply-patch+yaml") => Ok(Action::Apply),
        (&Method::POST | &Method::PUT | &Method::PATCH, _) => Err(Status::unsupported_media_type()),
        _ => Err(Status::read_only()),
    }
}

/// Whether the options of a deletion, which are its body, ask for a dry run.
pub(crate) fn is_dry_deletion(options: &[u8]) -> bool {
    let options: Value = values::read(options).unwrap_or_default();
    let values = options["dryRun"].as_array();
    values.is_some_and(|values| !values.is_empty() && values.iter().all(|value| value == "All"))
}

/// A warning as a header.
pub(crate) fn warning(text: &str) -> HeaderValue {
    /// Longer ones are cut: all headers of an answer have a limit.
    const LONGEST: usize = 500;
    let text = &text[..text.floor_char_boundary(LONGEST)];
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace(char::is_control, " ");
    let value = format!("299 - \"{escaped}\"");
    HeaderValue::from_bytes(value.as_bytes())
        .unwrap_or(HeaderValue::from_static("299 - \"a warning that no header can hold\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, path_and_query: &str, content: &str) -> Result<Write, Status> {
        let request = Request::builder().method(method).uri(path_and_query);
        let request = request.header(CONTENT_TYPE, content).body(()).unwrap();
        let route = Route::of(request.uri().path());
        Write::of(&request, route)
    }

    #[track_caller]
    fn check(method: &str, path: &str, content: &str, action: Action) {
        match of(method, &format!("{path}?dryRun=All&fieldManager=kubectl"), content).unwrap() {
            Write::DryRun(run) => assert_eq!(run.action, action),
            other => panic!("{other:?}"),
        }
        match of(method, path, content) {
            Ok(Write::Delete(_)) => assert_eq!(action, Action::Delete),
            Ok(other) => panic!("{method} {path} without dryRun: {other:?}"),
            Err(status) => assert_eq!(status, Status::read_only(), "{method} {path}"),
        }
    }

    const WEB: &str = "/api/v1/namespaces/shop/services/web";
    const SHOP: &str = "/api/v1/namespaces/shop/services";

    #[test]
    fn only_what_says_that_it_is_a_dry_run_is_answered() {
        check("POST", SHOP, "application/json", Action::Create);
        check("POST", "/api/v1/namespaces", "application/yaml; charset=utf-8", Action::Create);
        check("PUT", WEB, "application/json", Action::Replace);
        check("PATCH", WEB, "application/merge-patch+json", Action::MergePatch);
        check("PATCH", WEB, "application/strategic-merge-patch+json", Action::StrategicPatch);
        check("PATCH", WEB, "application/apply-patch+yaml", Action::Apply);
        check("DELETE", WEB, "application/json", Action::Delete);
    }

    #[test]
    fn everything_else_is_refused() {
        for (method, path) in [
            ("POST", "/api/v1/services?dryRun=All"),
            ("DELETE", "/api/v1/namespaces/shop/services?dryRun=All"),
            ("POST", "/api/v1/namespaces/shop/events?dryRun=All"),
            ("POST", "/api/v1/namespaces/shop/services/web?dryRun=All"),
            ("OPTIONS", "/api/v1/namespaces/shop/services/web?dryRun=All"),
            ("POST", "/version?dryRun=All"),
        ] {
            let status = of(method, path, "application/json").unwrap_err();
            assert_eq!(status, Status::read_only(), "{method} {path}");
        }
        for query in ["dryRun=None", "dryRun=all", "dryRun=All&dryRun=x"] {
            let path = format!("{WEB}?{query}");
            let status = of("PUT", &path, "application/json").unwrap_err();
            assert_eq!(status.code(), 400, "{query}");
        }
        for (method, content) in [
            ("PATCH", "application/json-patch+json"),
            ("PUT", "application/vnd.kubernetes.protobuf"),
        ] {
            let status = of(method, &format!("{WEB}?dryRun=All"), content).unwrap_err();
            assert_eq!(status.code(), 415, "{content}");
        }
    }

    #[test]
    fn a_deletion_says_in_its_body_that_it_is_dry() {
        assert!(is_dry_deletion(br#"{"dryRun": ["All"]}"#));
        for options in ["", "{}", r#"{"dryRun": []}"#, r#"{"dryRun": ["None"]}"#] {
            assert!(!is_dry_deletion(options.as_bytes()), "{options}");
        }
    }

    #[test]
    fn a_warning_fits_a_header() {
        assert_eq!(warning("say \"x\\y\"\r\n"), r#"299 - "say \"x\\y\"  ""#);
        assert!(warning(&"ä".repeat(10_000)).len() < 600);
    }
}
