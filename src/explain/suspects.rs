//! What the feed knows and does not pass on: manifests that it rejects, and hosts of endpoints
//! that nobody finds. If a target is not served and one of them is why, that is the cause.

use std::io::Read as _;

use feed::{Explanation, LostHost, Rejected, Trouble};

use super::Target;

/// Rejections that are told of beside the cause; more would hide it.
const TOLD: usize = 5;
/// A manifest is read this far to see whether it speaks of the target.
const MAX_READ: u64 = 4 << 20;

pub(super) struct Suspects {
    pub(super) rejected: Vec<Rejected>,
    pub(super) hosts: Vec<LostHost>,
}

impl Suspects {
    /// Puts the blame where it belongs, and names the rejections that speak of the target; where
    /// something is wrong, all of them.
    pub(super) fn look_at(&self, explanation: &mut Explanation, target: &Target) {
        let words = words_of(explanation, target);
        let culprit = explanation.trouble.as_ref().and_then(|_| self.culprit(explanation, &words));
        if let Some(rejected) = culprit {
            blame(explanation, trouble_of(rejected));
        } else if let Some(host) = self.host(explanation) {
            let is_cause = explanation.trouble.is_some() && explanation.endpoints.is_empty();
            if is_cause {
                blame(explanation, trouble_of_host(host));
            } else {
                let LostHost { host, problem, .. } = host;
                explanation.lost.push(format!("host {host}: {problem}, so it is no endpoint"));
            }
        }
        let all = explanation.trouble.is_some();
        let others = self.rejected.iter().filter(|one| culprit.is_none_or(|by| !by.eq(one)));
        let told = others.filter(|rejected| all || words.iter().any(|w| speaks_of(rejected, w)));
        explanation.lost.extend(told.take(TOLD).map(with_help));
    }

    /// The rejected manifest without which the target would be served, as far as can be seen.
    fn culprit(&self, explanation: &Explanation, words: &[String]) -> Option<&Rejected> {
        let find = |is: &dyn Fn(&Rejected, &str) -> bool| {
            let named = |one: &&Rejected| one.object.as_deref().is_some_and(|name| is(one, name));
            self.rejected.iter().find(named)
        };
        if let Some(service) = &explanation.service {
            let whole = format!("Service {service}");
            let of_endpoints = ["EndpointSlice", "Endpoints", "Pod"];
            let starts = of_endpoints.map(|kind| format!("{kind} {service}"));
            // Slices have the name of their Service and more.
            let begins = |name: &str, start: &String| {
                name.strip_prefix(start)
                    .is_some_and(|more| more.is_empty() || more.starts_with('-'))
            };
            let is_part = |_: &Rejected, name: &str| starts.iter().any(|s| begins(name, s));
            let found = find(&|_, name| name == whole).or_else(|| find(&is_part));
            if found.is_some() {
                return found;
            }
        }
        if explanation.answer == "404" {
            let is_rule = |one: &Rejected, name: &str| {
                name.starts_with("Ingress ") && words.iter().any(|word| may_hold(one, word))
            };
            return find(&is_rule).or_else(|| self.nameless(words));
        }
        // Of an address that no Service has.
        let is_unknown = explanation.service.is_none() && explanation.answer == "not served";
        let has_address = |one: &Rejected, name: &str| {
            name.starts_with("Service ") && words.iter().any(|w| holds(one, w) == Some(true))
        };
        let service = is_unknown.then(|| find(&has_address)).flatten();
        service.or_else(|| self.nameless(words))
    }

    /// A document that could not be read so far that it has a name, in a file that speaks of the
    /// target.
    fn nameless(&self, words: &[String]) -> Option<&Rejected> {
        let mut nameless = self.rejected.iter().filter(|one| one.object.is_none());
        nameless.find(|one| words.iter().any(|word| holds(one, word) == Some(true)))
    }

    fn host(&self, explanation: &Explanation) -> Option<&LostHost> {
        let service = explanation.service.as_ref()?.to_string();
        self.hosts.iter().find(|host| host.services.contains(&service))
    }
}

/// What a manifest that is about the target has in it.
fn words_of(explanation: &Explanation, target: &Target) -> Vec<String> {
    let mut words = match target {
        Target::Address(address, _) => vec![address.ip().to_string()],
        Target::Url(url) => vec![url.host().unwrap_or_default().to_owned()],
        Target::Name(_) => Vec::new(),
    };
    if let Target::Address(address, _) = target
        && address.port() >= NODE_PORTS
    {
        words.push(address.port().to_string());
    }
    words.extend(explanation.service.as_ref().map(|service| service.name.to_string()));
    words
}

/// The first port of the usual range of NodePorts: lower ones are in every other manifest.
const NODE_PORTS: u16 = 30_000;

/// Makes something the cause; what it was until now followed from it.
fn blame(explanation: &mut Explanation, trouble: Trouble) {
    if let Some(before) = explanation.trouble.replace(trouble) {
        explanation.because.push(format!("so {}", before.cause));
    }
}

fn trouble_of_host(lost: &LostHost) -> Trouble {
    let LostHost { host, problem, services } = lost;
    let services = services.join(", ");
    Trouble {
        cause: format!("host {host}, an endpoint of Service {services}: {problem}"),
        fix:
            "start what has that name, or name another in the EndpointSlice; --host-resolver says \
              who is asked"
                .to_owned(),
    }
}

fn trouble_of(rejected: &Rejected) -> Trouble {
    let usual = "mend the manifest; `switchyard check` shows the lines".to_owned();
    Trouble { cause: line(rejected), fix: rejected.help.clone().unwrap_or(usual) }
}

fn line(rejected: &Rejected) -> String {
    let object = rejected.object.as_deref().unwrap_or("a document");
    let place = rejected.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
    format!("{object} is rejected: {place}{}", rejected.problem)
}

fn with_help(rejected: &Rejected) -> String {
    let help = rejected.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    line(rejected) + &help
}

fn speaks_of(rejected: &Rejected, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let text = [rejected.object.as_deref().unwrap_or_default(), &rejected.problem];
    let mut words = text.iter().flat_map(|text| text.split(|c| !is_part(c)));
    words.any(|other| other.trim_matches('.') == word)
}

/// Whether its file has the word in it; nothing of a file that is on another machine.
fn holds(rejected: &Rejected, word: &str) -> Option<bool> {
    let path = rejected.place.as_ref()?.rsplitn(3, ':').nth(2)?;
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_READ).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).contains(word))
}

fn may_hold(rejected: &Rejected, word: &str) -> bool {
    speaks_of(rejected, word) || holds(rejected, word).unwrap_or(true)
}
