//! The query of a list or watch: text after `?` → options that make sense together.
//!
//! Pure. Rules and words are those of a kube-apiserver's validation of its ListOptions. Unknown
//! options are ignored, as there.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::selector::Selector;
use super::status::Status;
use model::{Kind, ObjectName};

/// Longer selectors are refused: each watch and list holds its own, and this one names hundreds
/// of values.
const MAX_SELECTOR: usize = 16 << 10;

/// Options of a list or a watch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) selector: Selector,
    pub(crate) verb: Verb,
    /// What a row of a table carries besides its cells.
    pub(crate) include: Include,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verb {
    List(List),
    Watch(Watch),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct List {
    /// At most so many objects; the rest by a continue token.
    pub(crate) limit: Option<usize>,
    pub(crate) from: ListFrom,
}

/// Which state a list is to show.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum ListFrom {
    /// The newest, and at least that of a version (0: any).
    #[default]
    Newest,
    AtLeast(u64),
    Exactly(u64),
    Continue(Continue),
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Continue {
    /// `None`: of whatever version is newest.
    pub(crate) version: Option<u64>,
    /// The last object that was sent.
    pub(crate) after: ObjectName,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Watch {
    pub(crate) start: Start,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Option<Duration>,
}

/// What a watch sends first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    /// All objects, then what happens; `at_least` is a version that must have been reached.
    Objects { at_least: u64 },
    /// What happened since a version.
    After(u64),
    /// What happens from now on.
    Now,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// The values of a query by name; of a name that stands twice, the first.
struct Values<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> Values<'q> {
    fn of(query: &'q str) -> Values<'q> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Values(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(decoded).collect())
    }

    fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The value, empty when it is not given.
    fn text(&self, name: &str) -> &str {
        self.given(name).unwrap_or_default()
    }

    /// A flag without a value counts as set.
    fn flag(&self, name: &str) -> bool {
        self.given(name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("{name}: Invalid value: {text:?}: not a number"))
            }),
        }
    }
}

fn decoded<'q>((name, value): (&'q str, &'q str)) -> (Cow<'q, str>, Cow<'q, str>) {
    let decode = |text: &'q str| match text.contains('+') {
        false => percent_decode_str(text).decode_utf8_lossy(),
        true => {
            let text = text.replace('+', " ");
            Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned())
        }
    };
    (decode(name), decode(value))
}

impl Options {
    /// Reads the options of a request for a resource.
    ///
    /// # Errors
    ///
    /// The answer to a request whose options cannot be read or do not go together.
    pub(crate) fn parse(resource: Kind, query: &str) -> Result<Options, Status> {
        let values = Values::of(query);
        let (labels, fields) = (values.text("labelSelector"), values.text("fieldSelector"));
        if labels.len() + fields.len() > MAX_SELECTOR {
            return Err(Status::bad_request("labelSelector and fieldSelector exceed 16 KiB"));
        }
        let selector = Selector::parse(resource, labels, fields)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let verb = match values.flag("watch") {
            true => Verb::Watch(watch(&values)?),
            false => Verb::List(list(&values)?),
        };
        Ok(Options { selector, verb, include: include(query) })
    }
}

/// Whether a write is only to be tried. `dryRun` may be given several times.
///
/// # Errors
///
/// When it has another value than `All`.
pub(crate) fn is_dry_run(query: &str) -> Result<bool, Status> {
    let values = Values::of(query);
    let mut given = values.0.iter().filter(|(name, value)| name == "dryRun" && !value.is_empty());
    match given.find(|(_, value)| value != "All") {
        Some((_, other)) => {
            let known = "supported values: \"All\"";
            Err(Status::bad_request(format!("dryRun: Unsupported value: {other:?}: {known}")))
        }
        None => Ok(values.given("dryRun").is_some_and(|value| !value.is_empty())),
    }
}

/// What rows of a table carry besides their cells; a single object may be asked for so too.
pub(crate) fn include(query: &str) -> Include {
    match Values::of(query).text("includeObject") {
        "None" => Include::None,
        "Object" => Include::Object,
        _ => Include::Metadata,
    }
}

const MATCH: &str = "resourceVersionMatch";

fn forbidden(field: &str, why: &str) -> Status {
    Status::invalid_option("FieldValueForbidden", field, &format!("Forbidden: {why}"))
}

fn list(values: &Values<'_>) -> Result<List, Status> {
    let version = values.text("resourceVersion");
    let version_match = values.text(MATCH);
    if values.given("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for list";
        return Err(forbidden("sendInitialEvents", why));
    }
    // The API takes a negative limit for none.
    let limit = match values.text("limit").parse::<i64>() {
        Ok(..=0) => None,
        _ => values.number("limit")?,
    };
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let token = values.text("continue");
    if !token.is_empty() {
        if !version_match.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            return Err(forbidden(MATCH, why));
        }
        if !matches!(version, "" | "0") {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(why));
        }
        return Ok(List { limit, from: ListFrom::Continue(Continue::decode(token)?) });
    }
    if version.is_empty() {
        if !version_match.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(forbidden(MATCH, why));
        }
        return Ok(List { limit, from: ListFrom::Newest });
    }
    let number = version.parse().map_err(|_| Status::bad_version(version, false))?;
    let from = match version_match {
        "Exact" if number == 0 => {
            let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
            return Err(forbidden(MATCH, why));
        }
        "Exact" => ListFrom::Exactly(number),
        // Without a match, a limited list shows exactly the version: so says the API's
        // documentation of resource versions.
        "" if limit.is_some() && number > 0 => ListFrom::Exactly(number),
        "" | "NotOlderThan" => ListFrom::AtLeast(number),
        other => return Err(unsupported_match(other)),
    };
    Ok(List { limit, from })
}

fn unsupported_match(value: &str) -> Status {
    let known = "supported values: \"Exact\", \"NotOlderThan\"";
    let message = format!("Unsupported value: {value:?}: {known}");
    Status::invalid_option("FieldValueNotSupported", MATCH, &message)
}

fn watch(values: &Values<'_>) -> Result<Watch, Status> {
    let version = values.text("resourceVersion");
    let version_match = values.text(MATCH);
    let initial = values.given("sendInitialEvents").map(|_| values.flag("sendInitialEvents"));
    if initial.is_some() && version_match != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(forbidden(MATCH, why));
    }
    if initial.is_none() && !version_match.is_empty() {
        let why =
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        return Err(forbidden(MATCH, why));
    }
    let number = match version {
        "" => 0,
        text => text.parse().map_err(|_| Status::bad_version(text, true))?,
    };
    let start = match initial {
        Some(true) => Start::Objects { at_least: number },
        None if number == 0 => Start::Objects { at_least: 0 },
        Some(false) if number == 0 => Start::Now,
        _ => Start::After(number),
    };
    let timeout = values.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    Ok(Watch {
        start,
        bookmarks: values.flag("allowWatchBookmarks"),
        timeout: timeout.map(Duration::from_secs),
    })
}

impl Continue {
    /// A token that holds this, for the client to send back.
    pub(crate) fn encode(&self) -> String {
        let version = self.version.map_or(json!(-1), Value::from);
        let ObjectName { namespace, name } = &self.after;
        let start = format!("{namespace}/{name}\0");
        let token = json!({"v": "meta.k8s.io/v1", "rv": version, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(token: &str) -> Result<Continue, Status> {
        let invalid = || {
            let why = "invalid continue token: continue key is not valid: it was not issued by \
                       this server";
            Status::bad_request(why)
        };
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| invalid())?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        let start = token["start"].as_str().and_then(|start| start.strip_suffix('\0'));
        let (namespace, name) = start.and_then(|s| s.split_once('/')).ok_or_else(invalid)?;
        let version = match token["rv"].as_i64() {
            Some(-1) => None,
            _ => Some(token["rv"].as_u64().ok_or_else(invalid)?),
        };
        Ok(Continue { version, after: ObjectName::new(namespace, name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: &Verb) {
        let options = Options::parse(Kind::Service, query).unwrap();
        assert_eq!(options.verb, *expected, "{query}");
    }

    #[track_caller]
    fn check_error(query: &str, code: u16, words: &str) {
        let status = Options::parse(Kind::Service, query).unwrap_err();
        let json = status.to_json();
        assert_eq!(status.code().as_u16(), code, "{query}: {json}");
        assert!(json.contains(words), "{query}: {json}");
    }

    fn listing(limit: Option<usize>, from: ListFrom) -> Verb {
        Verb::List(List { limit, from })
    }

    #[test]
    fn lists() {
        check("", &listing(None, ListFrom::Newest));
        check("watch=false&watch=1", &listing(None, ListFrom::Newest));
        check("limit=500&pretty=true", &listing(Some(500), ListFrom::Newest));
        check("limit=0&resourceVersion=", &listing(None, ListFrom::Newest));
        check("limit=-1", &listing(None, ListFrom::Newest));
        check("resourceVersion=0&limit=500", &listing(Some(500), ListFrom::AtLeast(0)));
        check("resourceVersion=7", &listing(None, ListFrom::AtLeast(7)));
        check("resourceVersion=7&limit=2", &listing(Some(2), ListFrom::Exactly(7)));
        let match_exact = "resourceVersion=7&resourceVersionMatch=Exact";
        check(match_exact, &listing(None, ListFrom::Exactly(7)));
        let at_least = "limit=2&resourceVersion=7&resourceVersionMatch=NotOlderThan";
        check(at_least, &listing(Some(2), ListFrom::AtLeast(7)));
    }

    #[test]
    fn watches() {
        let watch = |start, bookmarks, seconds| {
            Verb::Watch(Watch {
                start,
                bookmarks,
                timeout: Option::map(seconds, Duration::from_secs),
            })
        };
        check("watch=1", &watch(Start::Objects { at_least: 0 }, false, None));
        check("watch", &watch(Start::Objects { at_least: 0 }, false, None));
        check("watch=true&resourceVersion=0", &watch(Start::Objects { at_least: 0 }, false, None));
        let resumed = "watch=true&resourceVersion=9&allowWatchBookmarks=true&timeoutSeconds=290";
        check(resumed, &watch(Start::After(9), true, Some(290)));
        let streaming = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        check(streaming, &watch(Start::Objects { at_least: 0 }, false, None));
        let newer = format!("{streaming}&resourceVersion=9");
        check(&newer, &watch(Start::Objects { at_least: 9 }, false, None));
        let without = "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        check(without, &watch(Start::Now, false, None));
    }

    #[test]
    fn selectors_are_decoded() {
        let options = Options::parse(Kind::Service, "labelSelector=app+in+%28a%2Cb%29").unwrap();
        let same = Selector::parse(Kind::Service, "app in (a,b)", "").unwrap();
        assert_eq!(options.selector, same);
        check_error("labelSelector=%3D", 400, "found '=', expected: identifier");
        check_error("fieldSelector=spec.foo%3D1", 400, "is not a known field selector");
    }

    #[test]
    fn a_selector_has_a_greatest_length() {
        let of = |length: usize| format!("labelSelector=a+in+({})", "b,".repeat(length / 2));
        check(&of(MAX_SELECTOR - 100), &listing(None, ListFrom::Newest));
        check_error(&of(MAX_SELECTOR), 400, "exceed 16 KiB");
    }

    #[test]
    fn what_does_not_go_together() {
        check_error("resourceVersion=abc", 400, "strconv.ParseUint");
        check_error("watch=1&resourceVersion=abc", 500, "resourceVersion: Invalid value");
        check_error("resourceVersion=-1", 400, "invalid syntax");
        check_error("limit=many", 400, "limit: Invalid value");
        check_error("resourceVersionMatch=Exact", 422, "unless resourceVersion is provided");
        check_error("resourceVersion=0&resourceVersionMatch=Exact", 422, "forbidden for");
        check_error("resourceVersion=1&resourceVersionMatch=Odd", 422, "Unsupported value");
        check_error("sendInitialEvents=true", 422, "forbidden for list");
        check_error("watch=1&sendInitialEvents=true", 422, "to NotOlderThan");
        check_error(
            "watch=1&resourceVersion=1&resourceVersionMatch=NotOlderThan",
            422,
            "unless sendInitialEvents is provided",
        );
        check_error("continue=x&resourceVersion=7", 400, "not allowed when using continue");
        check_error("continue=x&resourceVersionMatch=Exact", 422, "when continue is provided");
        check_error("continue=invalid", 400, "invalid continue token");
        check_error("continue=eyJydiI6MX0", 400, "invalid continue token");
    }

    #[test]
    fn a_token_comes_back_as_it_was() {
        for version in [Some(230), None, Some(u64::MAX >> 1)] {
            let token = Continue { version, after: ObjectName::new("shop", "headless") };
            assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        }
        let cluster = Continue { version: Some(1), after: ObjectName::new("", "a.b") };
        assert_eq!(Continue::decode(&cluster.encode()).unwrap(), cluster);
        // As a kube-apiserver writes it.
        let foreign = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiZGVmYXVsdC9rdWJlcm5ldGVz\
                       XHUwMDAwIn0";
        let read = Continue::decode(foreign).unwrap();
        assert_eq!((read.version, &*read.after.name), (None, "kubernetes"));
    }
}
