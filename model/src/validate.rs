//! Defaulting and validation: a decoded object → a [`Record`] that cannot be wrong.
//!
//! Pure, and the same for every source. The rules and the words are the API's own, so that an
//! author finds them in the Kubernetes documentation; where this project differs (loopback
//! endpoints, container names as FQDN endpoints, no allocation of addresses) the rule says so.
//! One file a kind. Left out: what takes more than one object to see, such as a node port that
//! is taken.

mod endpoints;
mod format;
mod ingress;
mod pod;
mod secret;
mod service;

use std::collections::HashSet;
use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::model::{Details, Endpoint, Protocol};
use crate::name::ObjectName;
use crate::object::{self, Text};
use crate::problem::Level;
use crate::record::{Record, RecordKind};
use crate::tree::Step;

pub use endpoints::{endpoints, slice};
pub use ingress::{ingress, ingress_class};
pub use pod::{namespace, node, pod};
pub use secret::secret;
pub use service::service;

/// What validation says of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub level: Level,
    pub path: Vec<Step>,
    /// How many steps at the end of the path the API leaves out of its message.
    pub unsaid: usize,
    /// Without the path.
    pub message: String,
    pub help: Option<String>,
}

/// One string a content: node names, port names and label values repeat ten thousand times.
#[derive(Debug, Default)]
pub struct Interner {
    texts: HashSet<Arc<str>, RandomState>,
    details: HashSet<Arc<Details>, RandomState>,
    /// How many were in use when last counted.
    in_use: usize,
}

impl Interner {
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// The one object of these details.
    fn share(&mut self, details: Arc<Details>) -> Arc<Details> {
        match self.details.get(&details) {
            Some(known) => known.clone(),
            None => {
                self.details.insert(details.clone());
                details
            }
        }
    }

    /// Forgets what nothing uses any more, once that may be half of all.
    pub fn shrink(&mut self) {
        const FEW: usize = 1000;
        if self.texts.len() + self.details.len() > 2 * self.in_use + FEW {
            // Details first, because they hold texts.
            self.details.retain(|details| Arc::strong_count(details) > 1);
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.in_use = self.texts.len() + self.details.len();
        }
    }
}

/// More of one object would not be read by anyone.
const MAX_COMPLAINTS: usize = 100;
/// Of a value that a message quotes: it may have megabytes.
const LONGEST_QUOTE: usize = 300;

/// The validation of one object.
pub struct Check<'i> {
    complaints: Vec<Complaint>,
    /// There was an error.
    failed: bool,
    interner: &'i mut Interner,
    /// A loopback endpoint was noted: once an object is enough.
    loopback: bool,
    of_api: bool,
}

/// Where validation stands: a path on the stack, made into one only for a complaint.
#[derive(Clone, Copy)]
pub struct At<'p> {
    above: Option<&'p At<'p>>,
    step: Here<'p>,
}

#[derive(Clone, Copy)]
enum Here<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

/// The object itself.
pub const ROOT: At<'static> = At { above: None, step: Here::Root };

impl<'p> At<'p> {
    fn key(&'p self, key: &'p str) -> At<'p> {
        At { above: Some(self), step: Here::Key(key) }
    }

    fn index(&'p self, index: usize) -> At<'p> {
        At { above: Some(self), step: Here::Index(index) }
    }

    fn path(&self) -> Vec<Step> {
        let mut path = self.above.map(At::path).unwrap_or_default();
        match self.step {
            Here::Root => {}
            Here::Key(key) => path.push(Step::Key(crate::tree::shortened(key))),
            Here::Index(index) => path.push(Step::Index(index)),
        }
        path
    }
}

impl<'i> Check<'i> {
    pub fn new(interner: &'i mut Interner) -> Check<'i> {
        Check { complaints: Vec::new(), failed: false, interner, loopback: false, of_api: false }
    }

    /// The validation of an object that an API has accepted: what its operator may have set
    /// otherwise is not held against it.
    pub fn of_api(interner: &'i mut Interner) -> Check<'i> {
        Check { of_api: true, ..Check::new(interner) }
    }

    /// What was found. The object may be served if none of it is an error.
    pub fn finish(self) -> Vec<Complaint> {
        self.complaints
    }

    fn say(&mut self, level: Level, at: At<'_>, message: String, help: Option<&str>) {
        self.failed |= level == Level::Error;
        // A warning must not keep an error out.
        let most = if level == Level::Error { 2 * MAX_COMPLAINTS } else { MAX_COMPLAINTS };
        if self.complaints.len() >= most {
            return;
        }
        let help = help.map(str::to_owned);
        self.complaints.push(Complaint { level, path: at.path(), unsaid: 0, message, help });
    }

    fn error(&mut self, at: At<'_>, message: String) {
        self.say(Level::Error, at, message, None);
    }

    fn warn(&mut self, at: At<'_>, message: impl Into<String>, help: &str) {
        self.say(Level::Warning, at, message.into(), Some(help));
    }

    fn note(&mut self, at: At<'_>, message: impl Into<String>, help: &str) {
        self.say(Level::Note, at, message.into(), Some(help));
    }

    /// Something under our own prefix that nothing here understands.
    fn annotation(&mut self, at: At<'_>, message: &str, help: &str) {
        let level = if self.of_api { Level::Warning } else { Level::Error };
        self.say(level, at, message.to_owned(), Some(help));
    }

    fn invalid(&mut self, at: At<'_>, value: impl Debug, why: impl Display) {
        self.error(at, format!("Invalid value: {}: {why}", quoted(value)));
    }

    fn required(&mut self, at: At<'_>, why: &str) {
        let colon = if why.is_empty() { "" } else { ": " };
        self.error(at, format!("Required value{colon}{why}"));
    }

    fn forbidden(&mut self, at: At<'_>, why: &str) {
        self.error(at, format!("Forbidden: {why}"));
    }

    fn duplicate(&mut self, at: At<'_>, value: impl Debug) {
        self.error(at, format!("Duplicate value: {}", quoted(value)));
    }

    fn unsupported(&mut self, at: At<'_>, value: &str, supported: &[&str]) {
        let list: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let list = list.join(", ");
        let value = quoted(value);
        self.error(at, format!("Unsupported value: {value}: supported values: {list}"));
    }

    /// Complains unless a format's rule accepts the value.
    fn expect(&mut self, at: At<'_>, value: &str, rule: fn(&str) -> Result<(), String>) -> bool {
        match rule(value) {
            Ok(()) => true,
            Err(why) => {
                self.invalid(at, value, why);
                false
            }
        }
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        self.interner.intern(text)
    }

    fn optional(&mut self, text: Option<&Text<'_>>) -> Option<Arc<str>> {
        text.filter(|text| !text.is_empty()).map(|text| self.interner.intern(text))
    }

    fn share(&mut self, endpoint: &mut Endpoint) {
        endpoint.share(|details| self.interner.share(details));
    }

    fn port(&mut self, at: At<'_>, port: i64) -> Option<NonZeroU16> {
        let valid = u16::try_from(port).ok().and_then(NonZeroU16::new);
        if valid.is_none() {
            self.invalid(at, port, "must be between 1 and 65535, inclusive");
        }
        valid
    }

    fn protocol(&mut self, at: At<'_>, protocol: Option<&Text<'_>>) -> Protocol {
        match protocol.map(|text| &**text) {
            None | Some("" | "TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(other) => {
                self.unsupported(at.key("protocol"), other, &["SCTP", "TCP", "UDP"]);
                Protocol::Tcp
            }
        }
    }

    /// An IP address. Leading zeros are refused: they mean octal to some and decimal to others
    /// (CVE-2021-29923). So is IPv4 in IPv6, which is one endpoint under two names.
    fn ip(&mut self, at: At<'_>, text: &str) -> Option<IpAddr> {
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
                self.invalid(at, text, "must not be an IPv4-mapped IPv6 address");
                None
            }
            Ok(ip) => Some(ip),
            Err(_) => {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                self.invalid(at, text, why);
                None
            }
        }
    }

    /// Name and namespace of an object; an absent namespace is `default`.
    fn name(
        &mut self,
        meta: Option<&object::Meta<'_>>,
        kind: RecordKind,
        rule: fn(&str) -> Result<(), String>,
    ) -> ObjectName {
        let none = object::Meta::default();
        let meta = meta.unwrap_or(&none);
        let at = ROOT.key("metadata");
        match meta.name.as_deref() {
            None | Some("") => self.required(at.key("name"), "name is required"),
            Some(name) => {
                self.expect(at.key("name"), name, rule);
            }
        }
        self.labels(&at, meta);
        let name = object_name(meta, kind);
        if kind.is_namespaced() {
            self.expect(at.key("namespace"), &name.namespace, format::dns_label);
        }
        ObjectName { namespace: self.text(&name.namespace), name: name.name }
    }

    fn labels(&mut self, at: &At<'_>, meta: &object::Meta<'_>) {
        let labels = at.key("labels");
        for (key, value) in meta.labels.iter().flat_map(|map| &map.0) {
            self.expect(labels, key, format::qualified_name);
            self.expect(labels.key(key), value, format::label_value);
        }
        let annotations = at.key("annotations");
        for (key, _) in meta.annotations.iter().flat_map(|map| &map.0) {
            let lower = key.to_lowercase();
            self.expect(annotations, &lower, format::qualified_name);
        }
    }
}

/// A value as the API prints it, cut if it is long.
fn quoted(value: impl Debug) -> String {
    struct Cut(String);
    impl std::fmt::Write for Cut {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let room = LONGEST_QUOTE.saturating_sub(self.0.len());
            let (end, fits) = match text.char_indices().find(|(i, c)| i + c.len_utf8() > room) {
                Some((end, _)) => (end, false),
                None => (text.len(), true),
            };
            self.0.push_str(&text[..end]);
            fits.then_some(()).ok_or(std::fmt::Error)
        }
    }
    let mut cut = Cut(String::new());
    if std::fmt::write(&mut cut, format_args!("{value:?}")).is_err() {
        cut.0.push('…');
    }
    cut.0
}

/// The object's name as it is written, its namespace by default `default`.
pub fn object_name(meta: &object::Meta<'_>, kind: RecordKind) -> ObjectName {
    let namespace = match meta.namespace.as_deref() {
        _ if !kind.is_namespaced() => "",
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    ObjectName::new(namespace, meta.name.as_deref().unwrap_or_default())
}

/// A record, unless the checks found an error.
fn accept(check: &Check<'_>, record: impl FnOnce() -> Record) -> Option<Record> {
    (!check.failed).then(record)
}

#[cfg(test)]
mod tests;
