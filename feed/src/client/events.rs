//! What a `switchyard feed` says of the manifests that it rejects: its Events, read once.
//!
//! For `explain`, which has no folder to look into. Processes follow no Events: what is rejected
//! changes nothing for them.

use std::collections::BTreeMap;
use std::time::Duration;

use daemon::Failure;
use serde::Deserialize;
use tokio::time::timeout;

use super::credentials::ApiSource;
use super::machine::Patience;
use super::transport::Transport;
use model::{HELP, Rejected, bracketed};

/// The newest of them are enough to say what is wrong, and fit into what is read at once.
const PATH: &str = "/api/v1/events?limit=100";
/// The objects have been listed by then: a feed that answers does so at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the feed server calls itself in its Events.
const COMPONENT: &str = "switchyard-feed";

#[derive(Deserialize)]
struct List {
    items: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    metadata: Metadata,
    involved_object: Involved,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reporting_component: String,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Involved {
    kind: String,
    name: String,
    namespace: String,
}

/// The rejected manifests of the feed at a place; none of a cluster, or where they may not be
/// read.
pub(super) async fn rejected(place: ApiSource) -> Result<Vec<Rejected>, Failure> {
    let unusable = |error| Failure::failed("cannot read the Events of the feed", error);
    let config = place.configuration().map_err(unusable)?;
    let transport = Transport::new(place, config, Patience::default());
    let ask = async {
        let mut link = transport.connect().await.ok().filter(|link| link.server().is_ours)?;
        link.get_all(PATH).await.ok()
    };
    let body = timeout(PATIENCE, ask).await.ok().flatten();
    Ok(body.map(|body| read(&body)).unwrap_or_default())
}

/// The rejections in a list of Events.
fn read(body: &[u8]) -> Vec<Rejected> {
    let list = serde_json::from_slice::<List>(body);
    let events = list.map(|list| list.items).unwrap_or_default().into_iter();
    let of_ours =
        events.filter(|event| event.reporting_component == COMPONENT && event.reason == "Rejected");
    of_ours.map(Event::into_rejected).collect()
}

impl Event {
    fn into_rejected(self) -> Rejected {
        let Involved { kind, name, namespace } = self.involved_object;
        // A document that is not read so far that it has a name.
        let object = (kind != "Manifest").then(|| format!("{kind} {namespace}/{name}"));
        let (place, whole) = self.message.split_once(": error: ").unwrap_or(("", &self.message));
        let help = self.metadata.annotations.get(HELP);
        let problem = whole.strip_suffix(&bracketed(help.map(|help| &**help)));
        Rejected {
            object,
            place: Some(place.to_owned()).filter(|place| !place.is_empty()),
            problem: problem.unwrap_or(whole).to_owned(),
            help: help.cloned(),
            ..Rejected::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_feed_and_of_nobody_else() {
        let event = |kind: &str, component: &str, reason: &str| {
            serde_json::json!({
                "involvedObject": {"kind": kind, "name": "web", "namespace": "shop"},
                "reason": reason, "reportingComponent": component,
                "message": "shop.yaml:3:9: error: spec.ports[0]: no port (write one)",
            })
        };
        let list = serde_json::json!({"items": [
            event("Service", COMPONENT, "Rejected"),
            event("Manifest", COMPONENT, "Rejected"),
            event("Pod", "kubelet", "Rejected"),
            event("Service", COMPONENT, "Else"),
            {"involvedObject": {"kind": "Node", "name": "a", "namespace": ""}},
        ]});
        let mut with_help = event("Service", COMPONENT, "Rejected");
        with_help["metadata"] = serde_json::json!({"annotations": {HELP: "write one"}});
        let found = read(list.to_string().as_bytes());
        let rejected = |object: Option<&str>| Rejected {
            object: object.map(Into::into),
            place: Some("shop.yaml:3:9".into()),
            problem: "spec.ports[0]: no port (write one)".into(),
            ..Rejected::default()
        };
        assert_eq!(found, [rejected(Some("Service shop/web")), rejected(None)]);
        let found = read(serde_json::json!({"items": [with_help]}).to_string().as_bytes());
        assert_eq!(found[0].problem, "spec.ports[0]: no port");
        assert_eq!(found[0].help.as_deref(), Some("write one"));
        assert_eq!(read(b"no JSON"), []);
        assert_eq!(read(b"{}"), []);
    }
}
