//! An Ingress of our class, read once: its policy, hosts, backends and TLS entries, and what of it
//! is a mistake whatever else there is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use model::problem::Level;
use model::{
    BackendPort, Ingress, IngressBackend, IngressPath, IngressRule, IngressTls, Kind, Model,
    ObjectName, PathType,
};

use super::backend::BackendKey;
use super::certificate::{self, BadSecret, Certificate};
use super::client_rules::{ClientRules, UNUSABLE, authority_secret, client_rules};
use super::policy::{Balancing, Policy, RefusedBy, Refusing, ToHttps, Unmet};
use super::problem::{About, Field, Problem};
use super::special::Special;
use crate::credentials::Credentials;
use crate::route::HostKey;

/// The oldest Ingress wins, then the first by namespace and name; one without a creation time
/// is as young as can be.
pub(super) type Rank = (i64, ObjectName);

/// An Ingress of our class.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) ingress: Arc<Ingress>,
    pub(super) policy: Policy,
    /// What its routes do beside forwarding.
    pub(super) special: Option<Arc<Special>>,
    /// How requests to its backends are spread, if it says so.
    pub(super) balancing: Option<Arc<Balancing>>,
    /// The Service port that serves in the place of errors.
    pub(super) error_backend: Option<BackendKey>,
    pub(super) problems: Vec<Problem>,
    pub(super) rank: Rank,
    pub(super) hosts: BTreeSet<HostKey>,
    pub(super) tls: Vec<TlsUse>,
    /// The positions of each host's rules in the Ingress, and of its uses in `tls`: a host is
    /// compiled without a look at those of all others.
    rules_of: HashMap<HostKey, Vec<usize>>,
    tls_of: HashMap<HostKey, Vec<usize>>,
    /// The hosts that TLS entries name; an entry without hosts names all.
    tls_names: HashSet<HostKey>,
}

/// What a further name of a host stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Alias {
    pub(super) host: HostKey,
    /// Requests are redirected to the host.
    pub(super) redirects: bool,
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
    pub(super) fn of(ingress: Arc<Ingress>, before: Option<&Served>, model: &Model) -> Served {
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
        if policy.canary.is_canary {
            // Those of the main Ingress hold.
            tls.clear();
        }
        let rank = (ingress.created_unix.unwrap_or(i64::MAX), name.clone());
        let rules_of = positions(ingress.rules.iter().map(|r| HostKey::of(r.host.as_ref())));
        let tls_of = positions(tls.iter().map(|tls| tls.host.clone()));
        let tls_names = tls_names(&ingress);
        let before = before.and_then(|before| before.special.as_deref());
        let mut policy = policy;
        let credentials = credentials(&ingress, &mut policy, before, model, &mut problems);
        let rules = before.and_then(|before| before.client.as_deref());
        let client = client_rules(&ingress, &mut policy, rules, model, &mut problems);
        let special = Special { client, ..Special::of(&policy, credentials, before) };
        let special = special.is_any().then(|| Arc::new(special));
        let error_backend = error_backend(&ingress, &policy, model, &mut problems);
        let balancing = policy.balance.balancing().map(Arc::new);
        Served {
            policy,
            special,
            error_backend,
            balancing,
            problems,
            rank,
            hosts,
            tls,
            rules_of,
            tls_of,
            tls_names,
            ingress,
        }
    }

    /// The Service that serves in the place of errors.
    pub(super) fn error_service(&self) -> Option<ObjectName> {
        error_service(&self.ingress, &self.policy)
    }

    /// The Secrets that its routes are compiled from: of credentials, and of client certificates.
    pub(super) fn secrets(&self) -> BTreeSet<ObjectName> {
        let of_clients = authority_secret(&self.ingress, &self.policy);
        auth_secret(&self.ingress, &self.policy).into_iter().chain(of_clients).collect()
    }

    /// What it asks of the clients of its hosts; `Err` if that cannot be used.
    pub(super) fn client_rules(&self) -> Option<Result<&Arc<ClientRules>, RefusedBy>> {
        if let Some(rules) = self.special.as_deref().and_then(|special| special.client.as_ref()) {
            return Some(Ok(rules));
        }
        let is_asked = self.policy.client_tls.secret.is_some() && !self.policy.canary.is_canary;
        is_asked.then_some(Err(UNUSABLE))
    }

    /// Whether endpoints of its backends are to be checked.
    pub(super) fn asks_for_checks(&self) -> bool {
        self.balancing.as_ref().is_some_and(|balancing| balancing.health.is_some())
    }

    /// Whether it says how requests are spread over the endpoints of its backends.
    pub(super) fn spreads(&self) -> bool {
        self.balancing.is_some() || self.leads_by_cookie()
    }

    /// Whether cookies lead clients to endpoints by consistent hashing.
    pub(super) fn leads_by_cookie(&self) -> bool {
        self.policy.affinity.affinity().is_some_and(|affinity| !affinity.is_persistent)
    }

    pub(super) fn tls_hosts(&self) -> BTreeSet<&HostKey> {
        self.tls_of.keys().collect()
    }

    pub(super) fn has_tls_host(&self, host: &HostKey) -> bool {
        self.tls_of.contains_key(host)
    }

    /// The rules of a host, with their fields.
    pub(super) fn rules_of(&self, host: &HostKey) -> impl Iterator<Item = (String, &IngressRule)> {
        let positions = self.rules_of.get(host).into_iter().flatten();
        positions.map(|at| (rule_field(*at), &self.ingress.rules[*at]))
    }

    /// The uses of Secrets for a host.
    pub(super) fn tls_of(&self, host: &HostKey) -> impl Iterator<Item = &TlsUse> {
        self.tls_of.get(host).into_iter().flatten().map(|at| &self.tls[*at])
    }

    /// Each backend of the Ingress with its field.
    pub(super) fn backends(&self) -> impl Iterator<Item = (String, &IngressBackend)> {
        let ingress = &*self.ingress;
        let of_rules = rules(ingress).flat_map(|(field, rule)| {
            let paths = rule.paths.iter().enumerate();
            paths
                .map(move |(at, path)| (format!("{field}.http.paths[{at}].backend"), &path.backend))
        });
        let default = ingress.default_backend.iter();
        of_rules.chain(default.map(|backend| ("spec.defaultBackend".to_owned(), backend)))
    }

    /// A key for each place in the Ingress that names a backend.
    pub(super) fn backend_keys(&self) -> Vec<BackendKey> {
        let of_rules = self.backends().map(|(_, backend)| backend_key(&self.ingress, backend));
        of_rules.chain(self.error_backend.clone()).collect()
    }

    /// Names that are served like hosts of the Ingress, or redirected to them.
    pub(super) fn aliases(&self) -> Vec<(HostKey, Alias)> {
        let mut aliases = Vec::new();
        if self.policy.canary.is_canary {
            return aliases;
        }
        for host in self.hosts.iter().filter(|host| **host != HostKey::Any) {
            let of = |redirects| Alias { host: host.clone(), redirects };
            let names = self.policy.rewriting.aliases.iter();
            aliases.extend(names.map(|name| (name.clone(), of(false))));
            if self.policy.redirects.www
                && let HostKey::Exact(name) = host
            {
                let other = match name.strip_prefix("www.") {
                    Some(short) => short.into(),
                    None => format!("www.{name}").into(),
                };
                aliases.push((HostKey::Exact(other), of(true)));
            }
        }
        aliases
    }

    /// Whether plain HTTP for the host is redirected.
    pub(super) fn redirects(&self, host: &HostKey) -> bool {
        match self.policy.redirects.to_https {
            ToHttps::Never => false,
            ToHttps::Always => true,
            ToHttps::WhereTls => host.covering().any(|key| self.tls_names.contains(&key)),
        }
    }
}

fn error_service(ingress: &Ingress, policy: &Policy) -> Option<ObjectName> {
    let name = policy.errors.backend.clone()?;
    Some(ObjectName { namespace: ingress.name.namespace.clone(), name })
}

/// The first port of the Service that serves in the place of errors.
fn error_backend(
    ingress: &Ingress,
    policy: &Policy,
    model: &Model,
    problems: &mut Vec<Problem>,
) -> Option<BackendKey> {
    if policy.canary.is_canary {
        return None;
    }
    let field = Field::of("metadata.annotations");
    let Some(service) = error_service(ingress, policy) else {
        if !policy.errors.codes.is_empty() {
            let message = "custom-http-errors needs default-backend: errors are passed on";
            problems.push(Problem::new(&ingress.name, field, message.to_owned()));
        }
        return None;
    };
    let port = model.service(&service).and_then(|entry| entry.service.ports.first().cloned());
    if port.is_none() {
        let message = format!("default-backend: Service {service} does not exist or has no port");
        let problem = Problem::new(&ingress.name, field, message);
        problems.push(problem.help("errors are passed on").missing(Kind::Service, &service));
    }
    port.map(|port| BackendKey { service, port: BackendPort::Number(port.port) })
}

/// The Secret with the credentials that an Ingress asks for.
fn auth_secret(ingress: &Ingress, policy: &Policy) -> Option<ObjectName> {
    let (namespace, name) = policy.basic.secret.as_ref().filter(|_| policy.basic.on)?;
    let namespace = namespace.as_ref().unwrap_or(&ingress.name.namespace);
    Some(ObjectName { namespace: namespace.clone(), name: name.clone() })
}

/// The credentials that an Ingress asks for. Without them its routes answer 503.
fn credentials(
    ingress: &Ingress,
    policy: &mut Policy,
    before: Option<&Special>,
    model: &Model,
    problems: &mut Vec<Problem>,
) -> Option<Arc<Credentials>> {
    if !policy.basic.on {
        return None;
    }
    let is_map = policy.basic.is_map;
    let named = auth_secret(ingress, policy);
    let found = match &named {
        None => Err("auth-type needs auth-secret".to_owned()),
        Some(name) if name.namespace != ingress.name.namespace => {
            Err(format!("Secret {name} is in another namespace"))
        }
        Some(name) => match model.secret(name) {
            None => Err(format!("Secret {name} does not exist")),
            Some(secret) => {
                let kept = before.and_then(|before| before.basic.as_ref());
                let kept = kept.filter(|basic| basic.credentials.is_of(secret, is_map));
                match kept {
                    Some(basic) => Ok(basic.credentials.clone()),
                    None => Credentials::of(secret, is_map)
                        .map(Arc::new)
                        .map_err(|what| format!("Secret {name}: {what}")),
                }
            }
        },
    };
    let field = Field::of("metadata.annotations");
    match found {
        Ok(credentials) => {
            if let [first, ..] = &*credentials.unsupported {
                let count = credentials.unsupported.len();
                let message = format!(
                    "{count} users of Secret {} have a password hash that is not supported and \
                     cannot log in: {first}, …",
                    credentials.secret.name
                );
                let help = "write bcrypt hashes: htpasswd -B";
                problems.push(Problem::new(&ingress.name, field, message).help(help));
            }
            Some(credentials)
        }
        Err(what) => {
            let by = RefusedBy { name: "auth-secret", why: Refusing::Unusable };
            policy.refused.get_or_insert(by);
            let message = format!("{what}: its routes answer 503");
            let problem = Problem::new(&ingress.name, field, message).at(Level::Error);
            let help = "write a Secret with the key auth, as htpasswd writes it, in the namespace \
                        of the Ingress";
            let problem = problem.help(help);
            problems.push(match &named {
                Some(name) if model.secret(name).is_none() => problem.missing(Kind::Secret, name),
                _ => problem,
            });
            None
        }
    }
}

/// The rules of an Ingress, with their fields.
pub(super) fn rules(ingress: &Ingress) -> impl Iterator<Item = (String, &IngressRule)> {
    ingress.rules.iter().enumerate().map(|(at, rule)| (rule_field(at), rule))
}

fn rule_field(at: usize) -> String {
    format!("spec.rules[{at}]")
}

fn tls_names(ingress: &Ingress) -> HashSet<HostKey> {
    let of_entry = |entry: &IngressTls| match entry.hosts.is_empty() {
        true => vec![HostKey::Any],
        false => entry.hosts.iter().map(|host| HostKey::of(Some(host))).collect(),
    };
    ingress.tls.iter().flat_map(of_entry).collect()
}

/// The positions of each host, in order.
fn positions(hosts: impl Iterator<Item = HostKey>) -> HashMap<HostKey, Vec<usize>> {
    let mut positions: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, host) in hosts.enumerate() {
        positions.entry(host).or_default().push(at);
    }
    positions
}

/// The paths of a rule, with their fields. A rule without paths sends all of its host to the
/// default backend.
pub(super) fn paths<'a, 'f>(
    ingress: &'a Ingress,
    field: &'f str,
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

/// Paths of a host that look like patterns where each character of a path stands for itself.
pub(super) fn patterns(ingress: &Ingress, of: &HostKey) -> Vec<Problem> {
    let mut problems = Vec::new();
    let rules = rules(ingress).filter(|(_, rule)| HostKey::of(rule.host.as_ref()) == *of);
    for (field, rule) in rules {
        for (field, _, path, _) in paths(ingress, &field, rule) {
            let is_regex = path.contains(['(', '[', '^', '$', '|', '\\']) || path.contains(".*");
            let (what, help) = match path.strip_suffix('*') {
                _ if is_regex => {
                    let help = "set switchyard.dev/use-regex: \"true\", or write the part \
                                before the pattern with pathType: Prefix";
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

    /// A Secret that cannot be served as it is; whether its last good certificate stays in use.
    pub(super) fn bad_secret(
        &self,
        ingress: &ObjectName,
        bad: &BadSecret,
        keeps_last: bool,
    ) -> Problem {
        let problem = self.problem(ingress, &bad.to_string());
        match bad {
            BadSecret::Missing(name) => problem.missing(Kind::Secret, name).help(
                "clients get the fallback certificate; an Ingress uses Secrets of its own \
                       namespace",
            ),
            _ if keeps_last => problem.at(Level::Error).help(
                "clients get the Secret's last good certificate; write a PEM certificate chain as \
                 tls.crt, and its private key as tls.key",
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const HOSTS: [&str; 7] =
        ["a.example", "b.example", "*.example", "c.a.example", "*.a.example", "example", "*"];

    fn ingress(rules: &[&str], tls: &[&str]) -> Served {
        let rule = |host: &&str| IngressRule { host: Some((*host).into()), paths: Vec::new() };
        let entry = |host: &&str| IngressTls {
            hosts: vec![(*host).into()],
            secret_name: Some(format!("of-{}", host.len()).into()),
        };
        let mut served = Served::of(
            Arc::new(Ingress {
                name: ObjectName::new("default", "web"),
                class: None,
                annotations: BTreeMap::default(),
                created_unix: None,
                default_backend: None,
                rules: rules.iter().map(rule).collect(),
                tls: tls.iter().map(entry).collect(),
            }),
            None,
            &Model::default(),
        );
        served.policy.redirects.to_https = ToHttps::WhereTls;
        served
    }

    /// All rules were looked at again for each host: seconds for an Ingress with 3,000.
    #[test]
    fn each_host_has_its_own_rules_and_secrets_in_their_order() {
        let served = ingress(&["b.example", "a.example", "b.example", ""], &HOSTS);
        let fields = |host: &str| {
            let host = HostKey::of(Some(&host.into()));
            served.rules_of(&host).map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert_eq!(fields("b.example"), ["spec.rules[0]", "spec.rules[2]"]);
        assert_eq!(fields("a.example"), ["spec.rules[1]"]);
        assert_eq!(fields("*"), ["spec.rules[3]"]);
        assert!(fields("c.example").is_empty());
        for host in HOSTS.map(|host| HostKey::of(Some(&host.into()))) {
            assert!(served.has_tls_host(&host));
            let scanned: Vec<_> = served.tls.iter().filter(|tls| tls.host == host).collect();
            let found: Vec<_> = served.tls_of(&host).collect();
            assert!(found.iter().zip(&scanned).all(|(a, b)| std::ptr::eq(*a, *b)));
            assert_eq!((found.len(), scanned.len()), (1, 1));
        }
    }

    #[test]
    fn a_host_is_redirected_where_a_tls_entry_covers_it() {
        for tls in HOSTS {
            let served = ingress(&[], &[tls]);
            let entry = HostKey::of(Some(&tls.into()));
            for host in HOSTS.map(|host| HostKey::of(Some(&host.into()))) {
                assert_eq!(served.redirects(&host), host.is_within(&entry), "{host} by {tls}");
            }
        }
        assert!(!ingress(&HOSTS, &[]).redirects(&HostKey::Any));
    }
}
