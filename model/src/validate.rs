//! Defaulting and validation: a decoded object → a [`Record`] that cannot be wrong.
//!
//! Pure, and the same for every source. Rules and messages are those of the API, so that an author
//! finds them in the Kubernetes documentation. Rules that differ (loopback endpoints, container
//! names as FQDN endpoints, no allocation of addresses) say so. There is one file for each kind.
//! Left out: checks across objects, such as duplicate node ports.

mod endpoints;
pub(crate) mod format;
mod ingress;
mod pod;
mod portable;
mod secret;
mod service;

pub use self::endpoints::SERVICE_LABEL;

use std::collections::HashSet;
use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::explanation::nearest;
use crate::model::{Details, Endpoint, Protocol};
use crate::name::{Kind, ObjectName};
use crate::object::{self, Text};
use crate::problem::Level;
use crate::record::Record;
use crate::tree::Step;

pub use endpoints::{endpoints, slice};
pub use ingress::{ingress, ingress_class};
pub use pod::{namespace, node, pod};
pub use secret::secret;
pub use service::service;

/// A validation result for a field.
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

/// Shared strings: node names, port names and label values are repeated ten thousand times.
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

    /// The shared object for these details.
    fn share(&mut self, details: Arc<Details>) -> Arc<Details> {
        match self.details.get(&details) {
            Some(known) => known.clone(),
            None => {
                self.details.insert(details.clone());
                details
            }
        }
    }

    /// Removes unused strings and details, once they may be half of all.
    pub fn shrink(&mut self) {
        const FEW: usize = 1000;
        if self.texts.len() + self.details.len() > 2 * self.in_use + FEW {
            // Details first, because they contain strings.
            self.details.retain(|details| Arc::strong_count(details) > 1);
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.in_use = self.texts.len() + self.details.len();
        }
    }
}

/// The limit of problems for one object; nobody would read more.
const MAX_COMPLAINTS: usize = 100;
/// The longest part of a value that a message quotes; a value may have megabytes.
const LONGEST_QUOTE: usize = 300;

/// The validation of one object.
pub struct Check<'i> {
    complaints: Vec<Complaint>,
    /// There was an error.
    failed: bool,
    interner: &'i mut Interner,
    /// A loopback endpoint was reported: once for each object is enough.
    loopback: bool,
    of_api: bool,
    /// Nothing of the object can be served, even if an API has accepted it.
    unusable: bool,
}

/// The current field: a path on the stack, converted to a list only for a problem.
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
    pub(crate) fn key(&'p self, key: &'p str) -> At<'p> {
        At { above: Some(self), step: Here::Key(key) }
    }

    pub(crate) fn index(&'p self, index: usize) -> At<'p> {
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
        Check {
            complaints: Vec::new(),
            failed: false,
            interner,
            loopback: false,
            of_api: false,
            unusable: false,
        }
    }

    /// The validation of an object that an API has accepted: all entries that can be served are
    /// served. Errors name the entries that are left out.
    pub fn of_api(interner: &'i mut Interner) -> Check<'i> {
        Check { of_api: true, ..Check::new(interner) }
    }

    /// What was found. The object may be served if none of it is an error.
    pub fn finish(self) -> Vec<Complaint> {
        self.complaints
    }

    /// Validates one entry of a list, or one field that the rest can do without. `None`: it has an
    /// error, and the object is one that an API has accepted, so only this entry is left out.
    fn entry<T>(&mut self, validate: impl FnOnce(&mut Check<'i>) -> T) -> Option<T> {
        let failed = std::mem::take(&mut self.failed);
        let value = validate(self);
        let is_out = self.failed && self.of_api;
        self.failed = failed || self.failed && !self.of_api;
        (!is_out).then_some(value)
    }

    /// No entry of a list is left: the last good state stays in use.
    fn needs_entries(&mut self, are_left: bool, were_given: bool) {
        self.unusable |= were_given && !are_left;
    }

    /// An error that leaves nothing to serve.
    fn fatal(&mut self, at: At<'_>, message: String) {
        self.unusable = true;
        self.error(at, message);
    }

    fn say(&mut self, level: Level, at: At<'_>, message: String, help: Option<&str>) {
        self.failed |= level == Level::Error;
        // A warning must not displace an error.
        let most = if level == Level::Error { 2 * MAX_COMPLAINTS } else { MAX_COMPLAINTS };
        if self.complaints.len() >= most {
            return;
        }
        let help = help.map(str::to_owned);
        self.complaints.push(Complaint { level, path: at.path(), unsaid: 0, message, help });
    }

    pub(crate) fn error(&mut self, at: At<'_>, message: String) {
        self.say(Level::Error, at, message, None);
    }

    fn warn(&mut self, at: At<'_>, message: impl Into<String>, help: &str) {
        self.say(Level::Warning, at, message.into(), Some(help));
    }

    fn note(&mut self, at: At<'_>, message: impl Into<String>, help: &str) {
        self.say(Level::Note, at, message.into(), Some(help));
    }

    /// Warns about something that is served here but refused by a Kubernetes API. Not for objects
    /// that come from an API.
    fn not_portable(&mut self, at: At<'_>, why: impl Display) {
        if !self.of_api {
            self.warn(at, format!("{why}: not portable"), "a Kubernetes API refuses it");
        }
    }

    /// Adds help to the problems after the first `before` ones that have none.
    fn advise(&mut self, before: usize, help: &str) {
        for complaint in self.complaints.iter_mut().skip(before) {
            complaint.help.get_or_insert_with(|| help.to_owned());
        }
    }

    pub(crate) fn invalid(&mut self, at: At<'_>, value: impl Debug, why: impl Display) {
        self.error(at, format!("Invalid value: {}: {why}", quoted(value)));
    }

    pub(crate) fn required(&mut self, at: At<'_>, why: &str) {
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
        let same = supported.iter().copied().find(|name| name.eq_ignore_ascii_case(value));
        let meant = same.or_else(|| only_near(value, supported));
        let help = meant.map(|meant| format!("did you mean {meant}?"));
        let message = format!("Unsupported value: {}: supported values: {list}", quoted(value));
        self.say(Level::Error, at, message, help.as_deref());
    }

    /// Reports an error unless a format's rule accepts the value.
    pub(crate) fn expect(
        &mut self,
        at: At<'_>,
        value: &str,
        rule: fn(&str) -> Result<(), String>,
    ) -> bool {
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
        let Some(text) = protocol.map(|text| &**text).filter(|text| !text.is_empty()) else {
            return Protocol::Tcp;
        };
        text.parse().unwrap_or_else(|_| {
            self.unsupported(at.key("protocol"), text, &["SCTP", "TCP", "UDP"]);
            Protocol::Tcp
        })
    }

    /// An IP address. Leading zeros are refused: they mean octal to some and decimal to others
    /// (CVE-2021-29923). IPv4-mapped IPv6 addresses are refused too, because they would be a second
    /// name for an IPv4 endpoint.
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
    pub(crate) fn name(
        &mut self,
        meta: Option<&object::Meta<'_>>,
        kind: Kind,
        rule: fn(&str) -> Result<(), String>,
    ) -> ObjectName {
        let none = object::Meta::default();
        let meta = meta.unwrap_or(&none);
        let at = ROOT.key("metadata");
        match meta.name.as_deref() {
            None | Some("") => {
                self.unusable = true;
                self.required(at.key("name"), "name is required");
            }
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

/// The only value that a misspelt one is similar to.
fn only_near<'a>(value: &str, supported: &[&'a str]) -> Option<&'a str> {
    let near = nearest(value, supported.iter().copied())?;
    let others = supported.iter().copied().filter(|other| *other != near);
    nearest(value, others).is_none().then_some(near)
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

/// The object's name as written; the namespace is `default` if absent.
pub fn object_name(meta: &object::Meta<'_>, kind: Kind) -> ObjectName {
    let in_namespace = match meta.namespace.as_deref() {
        _ if !kind.is_namespaced() => "",
        None | Some("") => "default",
        Some(given) => given,
    };
    ObjectName::new(in_namespace, meta.name.as_deref().unwrap_or_default())
}

/// A record, unless the checks found an error that prevents it.
pub(crate) fn accept(check: &Check<'_>, record: impl FnOnce() -> Record) -> Option<Record> {
    let is_refused = if check.of_api { check.unusable } else { check.failed };
    (!is_refused).then(record)
}

#[cfg(test)]
mod tests;
