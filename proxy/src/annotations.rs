//! Annotations of a Service under `switchyard.dev/`: what they ask for, and which are mistakes.
//!
//! Pure. The resolver asks here for each frontend; `/status`, the log, `check` and Events tell of
//! the mistakes.

use std::fmt;

use model::Service;
use model::nearest;

const PREFIX: &str = "switchyard.dev/";

/// Endpoints are told who their client is.
const PROXY_PROTOCOL: &str = "proxy-protocol";

/// The same with its prefix, as the data path's snapshot looks for it.
const PROXY_PROTOCOL_KEY: &str = "switchyard.dev/proxy-protocol";

/// How endpoints are chosen. Nothing reads it, because round robin is the only way.
const LOAD_BALANCE: &str = "load-balance";

/// Every name that is known, with its values.
const KNOWN: [(&str, &[&str]); 2] = [(LOAD_BALANCE, &["round-robin"]), (PROXY_PROTOCOL, &["v2"])];

/// An annotation that is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    pub key: String,
    pub reason: String,
    /// What to do, if the reason does not say so itself.
    pub help: Option<String>,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {} is ignored: {}", self.key, self.reason)
    }
}

/// Whether connections to the Service's endpoints begin with a PROXY header.
pub(crate) fn has_proxy_header(service: &Service) -> bool {
    service.annotations.get(PROXY_PROTOCOL_KEY).is_some_and(|version| &**version == "v2")
}

/// The annotations of a Service that are ignored, because of their name or value.
pub(crate) fn ignored(service: &Service) -> Vec<Ignored> {
    let from = (std::ops::Bound::Included(PREFIX), std::ops::Bound::Unbounded);
    let ours = service.annotations.range::<str, _>(from);
    let ours = ours.take_while(|(key, _)| key.starts_with(PREFIX));
    let ignored = ours.filter_map(|(key, value)| {
        let (reason, help) = mistake(&key[PREFIX.len()..], value)?;
        Some(Ignored { key: key.to_string(), reason, help })
    });
    ignored.collect()
}

fn mistake(name: &str, value: &str) -> Option<(String, Option<String>)> {
    let Some((_, values)) = KNOWN.iter().find(|(known, _)| *known == name) else {
        let like = nearest(name, KNOWN.iter().map(|(known, _)| *known));
        let help = like.map(|like| format!("did you mean {PREFIX}{like}?"));
        return Some(("a Service has no such annotation".to_owned(), help));
    };
    if values.contains(&value) {
        return None;
    }
    let reason = format!("{value:?} is not supported (supported: {})", values.join(", "));
    Some((reason, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::service;

    fn check(annotations: &[(&str, &str)], expected: &[&str]) {
        let mut service = service("web", &[], Vec::new());
        let pairs = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        service.annotations = pairs.collect();
        let lines = ignored(&service).into_iter().map(|ignored| match &ignored.help {
            Some(help) => format!("{ignored} ({help})"),
            None => ignored.to_string(),
        });
        assert_eq!(lines.collect::<Vec<_>>(), expected, "{annotations:?}");
    }

    #[test]
    fn a_misspelt_name_or_value_is_reported() {
        check(&[("switchyard.dev/proxy-protocol", "v2"), ("other.example/x", "y")], &[]);
        check(
            &[("switchyard.dev/proxy-protocl", "v2")],
            &["annotation switchyard.dev/proxy-protocl is ignored: a Service has no such \
               annotation (did you mean switchyard.dev/proxy-protocol?)"],
        );
        check(
            &[("switchyard.dev/proxy-protocol", "v9")],
            &["annotation switchyard.dev/proxy-protocol is ignored: \"v9\" is not supported \
               (supported: v2)"],
        );
        check(&[("switchyard.dev/load-balance", "round-robin")], &[]);
        check(
            &[("switchyard.dev/load-balance", "hash")],
            &["annotation switchyard.dev/load-balance is ignored: \"hash\" is not supported \
               (supported: round-robin)"],
        );
        check(
            &[("switchyard.dev/color", "red")],
            &["annotation switchyard.dev/color is ignored: a Service has no such annotation"],
        );
    }
}
