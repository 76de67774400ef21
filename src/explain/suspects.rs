//! Causes that the feed knows but does not pass on as objects: manifests that it rejects, and
//! endpoint hosts that do not resolve. If one of them explains why a target is not served, it is
//! reported as the cause.

use std::cell::OnceCell;
use std::io::Read as _;

use model::{Explanation, LostHost, ObjectName, Rejected, Trouble};

use super::target::Target;

/// Rejections that are listed in addition to the cause; more would hide it.
const TOLD: usize = 5;
/// The part of a manifest that is searched for the target.
const MAX_READ: u64 = 4 << 20;

pub(super) struct Suspects {
    rejected: Vec<Suspect>,
    hosts: Vec<LostHost>,
}

struct Suspect {
    rejected: Rejected,
    /// What is wrong with it, and its document if it can be read; read once for all targets.
    text: OnceCell<String>,
}

impl Suspects {
    pub(super) fn new(rejected: Vec<Rejected>, hosts: Vec<LostHost>) -> Suspects {
        let suspect = |rejected| Suspect { rejected, text: OnceCell::new() };
        Suspects { rejected: rejected.into_iter().map(suspect).collect(), hosts }
    }

    /// Replaces the cause if a rejection or a host explains it, and adds rejections that mention
    /// the target's host, name, address or port.
    pub(super) fn look_at(&self, explanation: &mut Explanation, target: &Target) {
        let words = words_of(target);
        let culprit = explanation.trouble.as_ref().and_then(|_| self.culprit(explanation, &words));
        if let Some(suspect) = culprit {
            blame(explanation, trouble_of(&suspect.rejected));
        } else if let Some(host) = self.host(explanation) {
            let is_cause = explanation.trouble.is_some() && explanation.endpoints.is_empty();
            if is_cause {
                blame(explanation, trouble_of_host(host));
            } else {
                let LostHost { host, problem, .. } = host;
                let unused = format!("host {host}: {problem}, so it is not used as an endpoint");
                explanation.lost.push(unused);
            }
        }
        let is_culprit = |one: &Suspect| culprit.is_some_and(|by| by.rejected == one.rejected);
        let others = self.rejected.iter().filter(|one| !is_culprit(one));
        let service = explanation.service.as_ref();
        let told = others.filter(|one| {
            service.is_some_and(|service| is_of(&one.rejected, service))
                || words.iter().any(|word| one.has(word))
        });
        explanation.lost.extend(told.take(TOLD).map(|one| with_help(&one.rejected)));
    }

    /// The rejected manifest that is probably the cause.
    fn culprit(&self, explanation: &Explanation, words: &[String]) -> Option<&Suspect> {
        let find = |is: &dyn Fn(&Suspect, &str) -> bool| {
            let named =
                |one: &&Suspect| one.rejected.object.as_deref().is_some_and(|name| is(one, name));
            self.rejected.iter().find(named)
        };
        if let Some(service) = &explanation.service {
            let whole = format!("Service {service}");
            let found = find(&|_, name| name == whole);
            let found = found.or_else(|| find(&|one, _| is_of(&one.rejected, service)));
            if found.is_some() {
                return found;
            }
        }
        let is_unknown = explanation.service.is_none() && explanation.answer == "not served";
        let kind = match &*explanation.answer {
            "404" => "Ingress ",
            // An address that no Service has.
            "not served" if is_unknown => "Service ",
            _ => return self.nameless(words),
        };
        let has_word = |one: &Suspect, name: &str| {
            name.starts_with(kind) && words.iter().any(|word| one.has(word))
        };
        find(&has_word).or_else(|| self.nameless(words))
    }

    /// A document without a readable name that mentions the target.
    fn nameless(&self, words: &[String]) -> Option<&Suspect> {
        let mut nameless = self.rejected.iter().filter(|one| one.rejected.object.is_none());
        nameless.find(|one| words.iter().any(|word| one.has(word)))
    }

    fn host(&self, explanation: &Explanation) -> Option<&LostHost> {
        let service = explanation.service.as_ref()?.to_string();
        self.hosts.iter().find(|host| host.services.contains(&service))
    }
}

/// Words that a manifest about the target contains, in addition to its own name.
fn words_of(target: &Target) -> Vec<String> {
    match target {
        Target::Address(address, _) => {
            let port = (address.port() >= NODE_PORTS).then(|| address.port().to_string());
            [address.ip().to_string()].into_iter().chain(port).collect()
        }
        Target::Url(url) => {
            let host = url.host().unwrap_or_default().to_ascii_lowercase();
            let wildcard = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
            [host].into_iter().chain(wildcard).collect()
        }
        Target::Name(name) => vec![name.trim_end_matches('.').to_ascii_lowercase()],
    }
}

/// The first port of the default range of NodePorts. Lower ports are too common in manifests to
/// identify one.
const NODE_PORTS: u16 = 30_000;

/// Sets the cause; the cause so far becomes a consequence of it.
fn blame(explanation: &mut Explanation, trouble: Trouble) {
    if let Some(before) = explanation.trouble.replace(trouble) {
        explanation.because.push(format!("so {}", before.cause));
    }
}

fn trouble_of_host(lost: &LostHost) -> Trouble {
    let LostHost { host, problem, services } = lost;
    let services = services.join(", ");
    let fix = match problem.starts_with("no answer from") {
        true => "check that this resolver answers, or set another with --host-resolver",
        false => {
            "start the container or host with this name, or use another name in the EndpointSlice; \
             --host-resolver sets the servers to ask"
        }
    };
    let cause = format!("host {host}, an endpoint of Service {services}: {problem}");
    Trouble { cause, fix: fix.to_owned() }
}

fn trouble_of(rejected: &Rejected) -> Trouble {
    let usual = match rejected.place {
        Some(_) => "fix the manifest; `switchyard check` shows the lines".to_owned(),
        None => "change the object so that it does not use what is not supported".to_owned(),
    };
    Trouble { cause: line(rejected), fix: rejected.help.clone().unwrap_or(usual) }
}

fn line(rejected: &Rejected) -> String {
    let object = rejected.object.as_deref().unwrap_or("a document");
    let place = rejected.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
    let what = if rejected.is_partial { "served in part" } else { "rejected" };
    format!("{object} is {what}: {place}{}", rejected.problem)
}

fn with_help(rejected: &Rejected) -> String {
    let help = rejected.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    line(rejected) + &help
}

/// Whether it is this Service or has its endpoints: the names of slices begin with the Service's.
fn is_of(rejected: &Rejected, service: &ObjectName) -> bool {
    const KINDS: [&str; 4] = ["Service ", "EndpointSlice ", "Endpoints ", "Pod "];
    let object = rejected.object.as_deref().unwrap_or_default();
    KINDS.iter().any(|kind| {
        let name = object.strip_prefix(kind);
        let more = name.and_then(|name| name.strip_prefix(&service.to_string()));
        more.is_some_and(|more| more.is_empty() || (more.starts_with('-') && *kind != KINDS[0]))
    })
}

impl Suspect {
    /// Whether its document, its hosts or its problem contain the word. For a file on another
    /// machine, the document is not known.
    fn has(&self, word: &str) -> bool {
        let text = self.text.get_or_init(|| {
            let document = document(&self.rejected).unwrap_or_default();
            let Rejected { problem, hosts, .. } = &self.rejected;
            format!("{problem}\n{}\n{document}", hosts.join("\n"))
        });
        has_word(text, word)
    }
}

/// The document of its file that contains the object.
fn document(rejected: &Rejected) -> Option<String> {
    let mut place = rejected.place.as_ref()?.rsplitn(3, ':');
    let line: usize = place.nth(1)?.parse().ok()?;
    let mut text = Vec::new();
    std::fs::File::open(place.next()?).ok()?.take(MAX_READ).read_to_end(&mut text).ok()?;
    Some(document_at(&String::from_utf8_lossy(&text), line))
}

/// The document of a text that contains a line, counted from 1.
fn document_at(text: &str, line: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let (above, below) = lines.split_at(line.saturating_sub(1).min(lines.len()));
    let ends = |line: &&&str| line.starts_with("---");
    let above = above.iter().rev().take_while(|line| !ends(line)).collect::<Vec<_>>();
    // The line itself may be the first line of the document.
    let first = below.iter().take(1);
    let rest = below.iter().skip(1).take_while(|line| !ends(line));
    let all = above.into_iter().rev().chain(first).chain(rest);
    all.copied().collect::<Vec<_>>().join("\n")
}

/// Whether a text contains the word as a whole word.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let text = text.to_ascii_lowercase();
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + word.len()..].chars();
        let next = after.next();
        // A dot may end a sentence.
        let ends = match next {
            Some('.') => !after.next().is_some_and(is_part),
            next => !next.is_some_and(is_part),
        };
        ends && !before.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_no_parts_of_them() {
        let table = [
            ("host: shop.example", "shop.example", true),
            ("host: \"*.shop.example\"", "shop.example", false),
            ("host: \"*.shop.example\"", "*.shop.example", true),
            ("host: my-shop.example", "shop.example", false),
            ("host: shop.example.org", "shop.example", false),
            ("of shop.example.", "shop.example", true),
            ("[{nodePort: 30080}]", "30080", true),
            ("Invalid value: 30080: taken", "30080", true),
            ("130080", "30080", false),
            ("10.96.0.10", "10.96.0.1", false),
            ("", "a", false),
        ];
        for (text, word, expected) in table {
            assert_eq!(has_word(text, word), expected, "{word} in {text}");
        }
    }

    #[test]
    fn a_document_ends_where_the_next_begins() {
        let text = "a: 1\nb: 2\n---\nc: 3\n---\nd: 4";
        let table = [(1, "a: 1\nb: 2"), (2, "a: 1\nb: 2"), (4, "c: 3"), (6, "d: 4"), (9, "d: 4")];
        for (line, expected) in table {
            assert_eq!(document_at(text, line), expected, "{line}");
        }
    }

    #[test]
    fn objects_of_a_service() {
        let service = ObjectName::new("shop", "web");
        let table = [
            ("Service shop/web", true),
            ("EndpointSlice shop/web-1", true),
            ("Pod shop/web-7f", true),
            ("Service shop/web-2", false),
            ("Service shop/spare", false),
            ("EndpointSlice shop/webs", false),
            ("Ingress shop/web", false),
        ];
        for (object, expected) in table {
            let rejected = Rejected { object: Some(object.to_owned()), ..Rejected::default() };
            assert_eq!(is_of(&rejected, &service), expected, "{object}");
        }
    }
}
