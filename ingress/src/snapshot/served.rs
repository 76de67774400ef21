//! An Ingress of our class, read once: its policy, hosts, backends and TLS entries, and what of it
//! is a mistake whatever else there is.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::problem::Level;
use model::{Ingress, IngressBackend, IngressPath, IngressRule, Kind, ObjectName, PathType};

use super::backend::BackendKey;
use super::certificate::{self, BadSecret, Certificate};
use super::policy::{Policy, Redirect, Unmet};
use super::problem::{About, Field, Problem};
use crate::route::HostKey;

/// The oldest Ingress wins, then the first by namespace and name; one without a creation time
/// is as young as can be.
pub(super) type Rank = (i64, ObjectName);

/// An Ingress of our class.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) ingress: Arc<Ingress>,
    pub(super) policy: Policy,
    pub(super) problems: Vec<Problem>,
    pub(super) rank: Rank,
    pub(super) hosts: BTreeSet<HostKey>,
    pub(super) tls: Vec<TlsUse>,
}

/// A host and Secret of an Ingress's TLS entry.
#[derive(Debug)]
pub(super) struct TlsUse {
    pub(super) host: HostKey,
    pub(super) secret: ObjectName,
    /// The entry, `spec.tls[0]`.
    field: String,
}

impl Served {
    pub(super) fn of(ingress: Arc<Ingress>) -> Served {
        let (policy, unmet) = Policy::of(&ingress.annotations);
        let name = &ingress.name;
        let problem = |unmet: Unmet| {
            let problem = Problem::new(name, Field::annotation(&unmet.key), unmet.message);
            Problem { help: unmet.help, ..problem.at(unmet.level) }
        };
        let mut problems: Vec<_> = unmet.into_iter().map(problem).collect();
        let mut hosts: BTreeSet<_> =
            ingress.rules.iter().map(|rule| HostKey::of(rule.host.as_ref())).collect();
        if ingress.default_backend.is_some() {
            hosts.insert(HostKey::Any);
        } else {
            let empty = rules(&ingress).filter(|(_, rule)| rule.paths.is_empty());
            problems.extend(empty.map(|(field, rule)| {
                let host = HostKey::of(rule.host.as_ref());
                let what =
                    format!("host {host} has no path and the Ingress has no default backend");
                Problem::new(name, Field::of(&field), what).about(About::Host(host))
            }));
        }
        problems.extend(patterns(&ingress));
        let mut tls = Vec::new();
        for (at, entry) in ingress.tls.iter().enumerate() {
            let Some(secret) = &entry.secret_name else { continue };
            let secret = ObjectName { namespace: name.namespace.clone(), name: secret.clone() };
            let keys: BTreeSet<_> = if entry.hosts.is_empty() {
                hosts.clone()
            } else {
                entry.hosts.iter().map(|host| HostKey::of(Some(host))).collect()
            };
            let field = format!("spec.tls[{at}]");
            let of = |host| TlsUse { host, secret: secret.clone(), field: field.clone() };
            tls.extend(keys.into_iter().map(of));
        }
        if policy.is_canary {
            hosts.clear();
            tls.clear();
        }
        let rank = (ingress.created_unix.unwrap_or(i64::MAX), name.clone());
        Served { policy, problems, rank, hosts, tls, ingress }
    }

    pub(super) fn tls_hosts(&self) -> BTreeSet<&HostKey> {
        self.tls.iter().map(|tls| &tls.host).collect()
    }

    /// Each backend of the Ingress with its field; none of a canary, which has no routes.
    pub(super) fn backends(&self) -> impl Iterator<Item = (String, &IngressBackend)> {
        let ingress = if self.policy.is_canary { None } else { Some(&*self.ingress) };
        ingress.into_iter().flat_map(|ingress| {
            let of_rules = rules(ingress).flat_map(|(field, rule)| {
                let paths = rule.paths.iter().enumerate();
                paths.map(move |(at, path)| {
                    (format!("{field}.http.paths[{at}].backend"), &path.backend)
                })
            });
            let default = ingress.default_backend.iter();
            of_rules.chain(default.map(|backend| ("spec.defaultBackend".to_owned(), backend)))
        })
    }

    /// A key for each place in the Ingress that names a backend.
    pub(super) fn backend_keys(&self) -> Vec<BackendKey> {
        self.backends().map(|(_, backend)| backend_key(&self.ingress, backend)).collect()
    }

    /// Whether plain HTTP for the host is redirected.
    pub(super) fn redirects(&self, host: &HostKey) -> bool {
        match self.policy.redirect {
            Redirect::Never => false,
            Redirect::Always => true,
            Redirect::WhereTls => self.ingress.tls.iter().any(|entry| {
                entry.hosts.is_empty()
                    || entry.hosts.iter().any(|tls| host.is_within(&HostKey::of(Some(tls))))
            }),
        }
    }
}

/// The rules of an Ingress, with their fields.
pub(super) fn rules(ingress: &Ingress) -> impl Iterator<Item = (String, &IngressRule)> {
    ingress.rules.iter().enumerate().map(|(at, rule)| (format!("spec.rules[{at}]"), rule))
}

/// The paths of a rule, with their fields. A rule without paths sends all of its host to the
/// default backend.
pub(super) fn paths<'a>(
    ingress: &'a Ingress,
    field: &'a str,
    rule: &'a IngressRule,
) -> impl Iterator<Item = (String, PathType, Arc<str>, &'a IngressBackend)> {
    let of = move |(at, path): (usize, &'a IngressPath)| {
        let field = format!("{field}.http.paths[{at}].path");
        (field, path.path_type, path.path.clone(), &path.backend)
    };
    let whole = ingress.default_backend.iter().filter(|_| rule.paths.is_empty());
    let whole = whole.map(move |all| (field.to_owned(), PathType::Prefix, "/".into(), all));
    rule.paths.iter().enumerate().map(of).chain(whole)
}

/// Paths that look like patterns: each character of a path stands for itself.
fn patterns(ingress: &Ingress) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (field, rule) in rules(ingress) {
        for (field, _, path, _) in paths(ingress, &field, rule) {
            let is_regex = path.contains(['(', '[', '^', '$', '|', '\\']) || path.contains(".*");
            let (what, help) = match path.strip_suffix('*') {
                _ if is_regex => {
                    let help = "write the part before the pattern with pathType: Prefix";
                    ("a regular expression", help.to_owned())
                }
                Some(before) if !before.contains('*') => {
                    let before = before.trim_end_matches('/');
                    let before = if before.is_empty() { "/" } else { before };
                    ("a wildcard", format!("write path: {before} with pathType: Prefix"))
                }
                _ if path.contains('*') => (
                    "a wildcard",
                    "write the part before the first * with pathType: Prefix".to_owned(),
                ),
                _ => continue,
            };
            let host = HostKey::of(rule.host.as_ref());
            let message = format!("path {path} looks like {what}, but it is matched literally");
            let problem = Problem::new(&ingress.name, Field::of(&field), message).help(help);
            problems.push(problem.about(About::Host(host)));
        }
    }
    problems
}

impl TlsUse {
    pub(super) fn problem(&self, ingress: &ObjectName, what: &str) -> Problem {
        let host = &self.host;
        let field = Field::of(&format!("{}.secretName", self.field));
        Problem::new(ingress, field, format!("TLS for {host}: {what}"))
            .about(About::Certificate(host.clone()))
    }

    pub(super) fn bad_secret(&self, ingress: &ObjectName, bad: &BadSecret) -> Problem {
        let problem = self.problem(ingress, &bad.to_string());
        match bad {
            BadSecret::Missing(name) => problem.missing(Kind::Secret, name).help(
                "clients get the fallback certificate; an Ingress uses Secrets of its own \
                       namespace",
            ),
            _ => problem.at(Level::Error).help(
                "clients get the fallback certificate; write a PEM certificate chain as tls.crt, \
                 and its private key as tls.key",
            ),
        }
    }

    pub(super) fn out_of_date(
        &self,
        ingress: &ObjectName,
        certificate: &Certificate,
        now_unix: i64,
    ) -> Option<Problem> {
        let what = match now_unix {
            now if now < certificate.not_before_unix => {
                format!("is not valid before {}", certificate::date(certificate.not_before_unix))
            }
            now if now > certificate.not_after_unix => {
                format!("expired on {}", certificate::date(certificate.not_after_unix))
            }
            _ => return None,
        };
        let what = format!("the certificate of Secret {} {what}", self.secret);
        Some(self.problem(ingress, &what).help("clients reject it; renew it"))
    }

    /// What clients will not accept of a certificate that is shown for the host.
    pub(super) fn unfit(&self, ingress: &ObjectName, certificate: &Certificate) -> Option<Problem> {
        let secret = &self.secret;
        let names = certificate.names.join(", ");
        if !certificate.covers(&self.host) {
            let names = if names.is_empty() { "no name" } else { &names };
            let what = format!("the certificate of Secret {secret} is for {names}");
            let help = "clients reject it; write one whose subject alternative names have the host";
            return Some(self.problem(ingress, &what).help(help));
        }
        if !certificate.has_alt_names {
            let what = format!(
                "the certificate of Secret {secret} has no subject alternative name, so browsers \
                 reject it"
            );
            return Some(self.problem(ingress, &what).help(format!("it is for: {names}")));
        }
        None
    }
}

pub(super) fn backend_key(ingress: &Ingress, backend: &IngressBackend) -> BackendKey {
    let namespace = ingress.name.namespace.clone();
    BackendKey {
        service: ObjectName { namespace, name: backend.service.clone() },
        port: backend.port.clone(),
    }
}
