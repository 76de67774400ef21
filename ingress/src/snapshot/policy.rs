//! Annotations of an Ingress: how its routes are to be served.
//!
//! Pure. Read under our own prefix and under that of ingress-nginx, whose users need a new home;
//! ours wins where both are set. What is not served is reported, never silently dropped. An
//! annotation that restricts access or changes where requests go, and is not served or has an
//! invalid value, takes its routes out of service: to serve them without it would open what its
//! author closed.
//!
//! Annotations that belong together are a group, with a file of its own that reads them.

mod access;
mod affinity;
mod balance;
mod canary;
mod client_tls;
mod cors;
mod credentials;
mod endpoints;
mod errors;
mod external_auth;
mod headers;
mod health;
mod mirror;
mod recording;
mod redirect;
mod retry;
mod rewrite;
mod transfer;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use model::nearest;
use model::problem::Level;

pub(crate) use self::access::Access;
use self::affinity::AffinityAnnotations;
pub(crate) use self::affinity::{Affinity, SameSite};
use self::balance::BalanceAnnotations;
pub(crate) use self::balance::{Balancing, Method};
use self::canary::CanaryAnnotations;
pub(crate) use self::canary::{CanaryRules, Side};
pub(crate) use self::client_tls::{ClientTls, VerifyClient};
pub(crate) use self::cors::{Cors, Origins};
pub(crate) use self::credentials::BasicAuth;
pub(crate) use self::endpoints::Endpoints;
pub(crate) use self::errors::Errors;
pub(crate) use self::external_auth::{AuthUrl, ExternalAuth};
pub(crate) use self::headers::Headers;
pub(crate) use self::health::{HealthCheck, Probe};
pub(crate) use self::mirror::Mirror;
use self::mirror::MirrorAnnotations;
pub(crate) use self::recording::Recording;
pub(crate) use self::redirect::{Redirects, ToHttps};
pub(crate) use self::retry::Retry;
use self::retry::RetryAnnotations;
pub(crate) use self::rewrite::Rewriting;
pub(crate) use self::transfer::Transfer;
use self::value::{Read, Unserved};
use super::annotation::{ANNOTATIONS, Effect, FALSE, Support, restricts, support};

pub(super) const OURS: &str = "switchyard.dev/";
pub(super) const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// How the routes of one Ingress are served.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policy {
    pub(crate) redirects: Redirects,
    pub(crate) rewriting: Rewriting,
    pub(crate) access: Access,
    pub(crate) basic: BasicAuth,
    pub(crate) external_auth: ExternalAuth,
    pub(crate) client_tls: ClientTls,
    pub(crate) cors: Cors,
    pub(crate) headers: Headers,
    pub(crate) errors: Errors,
    pub(crate) transfer: Transfer,
    pub(crate) balance: BalanceAnnotations,
    pub(crate) retry: RetryAnnotations,
    pub(crate) affinity: AffinityAnnotations,
    pub(crate) canary: CanaryAnnotations,
    pub(crate) mirror: MirrorAnnotations,
    pub(crate) endpoints: Endpoints,
    pub(crate) recording: Recording,
    /// Why the routes answer 503.
    pub(crate) refused: Option<RefusedBy>,
}

/// An annotation because of which routes are not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefusedBy {
    /// Without its prefix.
    pub(crate) name: &'static str,
    pub(crate) why: Refusing,
}

/// Why routes are not served because of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusing {
    /// It is not supported.
    Unsupported(Effect),
    /// Its value is invalid.
    Invalid,
    /// What it names does not exist, or cannot be used.
    Unusable,
}

impl Refusing {
    /// What is wrong with the annotation.
    pub(crate) fn words(self) -> String {
        match self {
            Refusing::Unsupported(effect) => {
                format!("{}, which is not supported", effect.words())
            }
            Refusing::Invalid => "is invalid".to_owned(),
            Refusing::Unusable => "names what does not exist or cannot be used".to_owned(),
        }
    }

    /// What to do.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Refusing::Unsupported(Effect::Snippet) => {
                "write fields as switchyard.dev/request-headers and response-headers, and \
                 redirects as permanent-redirect; see docs/migrate-ingress-nginx.md"
            }
            Refusing::Unsupported(_) => {
                "remove the annotation if the routes may be served without it"
            }
            Refusing::Invalid => "correct it; see docs/annotations.md",
            Refusing::Unusable => "see the problems of the Ingress in /status",
        }
    }
}

/// An annotation that is not served as its author may expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unmet {
    pub(crate) key: Arc<str>,
    pub(crate) level: Level,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Policy {
    /// The policy that the annotations ask for, and those that are not served as written.
    pub(crate) fn of(annotations: &BTreeMap<Arc<str>, Arc<str>>) -> (Policy, Vec<Unmet>) {
        let mut policy = Policy::default();
        let mut unmet = Vec::new();
        let annotations = effective(annotations);
        // Explicitly none, whatever the settings of the canary that it may have been.
        let is_off = |(_, value): &(_, &Arc<str>)| FALSE.contains(&&***value);
        let no_canary = annotations.get("canary").is_some_and(is_off);
        // It decides what becomes of all others.
        policy.canary.is_canary = annotations.contains_key("canary") && !no_canary;
        for (name, (key, value)) in annotations {
            if no_canary && name.starts_with("canary") {
                continue;
            }
            if policy.canary.is_canary && !is_read_of_canaries(name, value) {
                unmet.push(Unmet {
                    key: key.clone(),
                    level: Level::Note,
                    message: format!("annotation {key} has no effect on a canary"),
                    help: Some("the annotations of the main Ingress hold for it".to_owned()),
                });
                continue;
            }
            if let Err((level, message, help)) = policy.apply(name, value) {
                let message = format!("annotation {key} {message}");
                unmet.push(Unmet { key: key.clone(), level, message, help });
            }
        }
        (policy, unmet)
    }

    /// Takes one annotation over; `Err` says what of it is not served.
    fn apply(&mut self, name: &str, value: &str) -> Result<(), NotServed> {
        match support(name) {
            Some(_) if value.is_empty() => Ok(()),
            Some((name, Support::Served)) => {
                self.serve(name, value).map_err(|unserved| self.not_served(name, unserved))
            }
            Some((_, Support::Refused(_, nothing))) if nothing.contains(&value) => Ok(()),
            Some((name, Support::Refused(effect, _))) => Err(self.refuse(name, effect, "")),
            Some((_, Support::Unserved(missing))) => {
                let message = "is not supported and ignored".to_owned();
                Err((Level::Warning, message, Some(format!("missing: {missing}"))))
            }
            Some((_, Support::NoEffect(why))) => {
                Err((Level::Note, "has no effect".to_owned(), Some(why.to_owned())))
            }
            None => Err(self.unknown(name)),
        }
    }

    fn refuse(&mut self, name: &'static str, effect: Effect, what: &str) -> NotServed {
        let (words, outcome, help) = {
            let why = Refusing::Unsupported(effect);
            self.refused.get_or_insert(RefusedBy { name, why });
            (effect.words(), "its routes answer 503", why.help())
        };
        let message = format!("{what}{words}, which is not supported: {outcome}");
        (Level::Error, message, Some(help.to_owned()))
    }

    /// A name that is not known. A misspelling of one that restricts access restricts it too.
    fn unknown(&mut self, name: &str) -> NotServed {
        let Some(like) = nearest(name, ANNOTATIONS.iter().map(|(known, _)| *known)) else {
            let message = "is unknown and ignored".to_owned();
            return (Level::Warning, message, Some("see docs/annotations.md".to_owned()));
        };
        let help = Some(format!("did you mean {like}?"));
        match support(like) {
            Some((like, Support::Refused(effect, _))) => {
                let what = format!("is unknown, and similar to {like}, which ");
                let (level, message, _) = self.refuse(like, effect, &what);
                (level, message, help)
            }
            Some((like, Support::Served)) if restricts(like) => {
                let why = Refusing::Unsupported(Effect::Restricts);
                self.refused.get_or_insert(RefusedBy { name: like, why });
                let message = format!(
                    "is unknown, and similar to {like}, which restricts access: its routes answer \
                     503"
                );
                (Level::Error, message, help)
            }
            // An Ingress that may have been meant to be a canary is never a plain one.
            Some(("canary", _)) => {
                self.canary.is_canary = true;
                let message = "is unknown, and similar to canary: the Ingress is taken for one";
                (Level::Error, message.to_owned(), help)
            }
            _ => (Level::Warning, "is unknown and ignored".to_owned(), help),
        }
    }

    fn serve(&mut self, name: &str, value: &str) -> Read {
        let read = self.read(name, value);
        read.unwrap_or_else(|| unreachable!("every annotation that is served is read: {name}"))
    }

    /// Takes an annotation over by the group that it belongs to; `None` if no group reads it.
    fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        None.or_else(|| self.redirects.read(name, value))
            .or_else(|| self.rewriting.read(name, value))
            .or_else(|| self.access.read(name, value))
            .or_else(|| self.basic.read(name, value))
            .or_else(|| self.external_auth.read(name, value))
            .or_else(|| self.client_tls.read(name, value))
            .or_else(|| self.cors.read(name, value))
            .or_else(|| self.headers.read(name, value))
            .or_else(|| self.errors.read(name, value))
            .or_else(|| self.transfer.read(name, value))
            .or_else(|| self.balance.read(name, value))
            .or_else(|| self.endpoints.read(name, value))
            .or_else(|| self.retry.read(name, value))
            .or_else(|| self.affinity.read(name, value))
            .or_else(|| self.canary.read(name, value))
            .or_else(|| self.mirror.read(name, value))
            .or_else(|| self.recording.read(name, value))
    }

    fn not_served(&mut self, name: &'static str, unserved: Unserved) -> NotServed {
        match unserved {
            Unserved::Ignored(what) => (Level::Warning, format!("is ignored: {what}"), None),
            Unserved::Partly(what) => (Level::Warning, what, None),
            Unserved::Refused(what) => {
                let why = Refusing::Invalid;
                self.refused.get_or_insert(RefusedBy { name, why });
                let message = format!("is invalid: {what}: its routes answer 503");
                (Level::Error, message, Some(why.help().to_owned()))
            }
        }
    }
}

/// Whether an annotation has its effect on a canary too. The others of the main Ingress hold for
/// both.
fn is_read_of_canaries(name: &str, value: &str) -> bool {
    let is_known = support(name).is_some();
    let is_of_backend = BalanceAnnotations::default().read(name, value).is_some();
    !is_known || is_of_backend || name.starts_with("canary") || name == "affinity-canary-behavior"
}

/// How bad it is, what happens, and what to do or what is missing.
type NotServed = (Level, String, Option<String>);

/// The annotations by name without their prefix; ours in the place of those of ingress-nginx.
fn effective(annotations: &BTreeMap<Arc<str>, Arc<str>>) -> BTreeMap<&str, (&Arc<str>, &Arc<str>)> {
    let below = |prefix: &'static str| {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let range = annotations.range::<str, _>(from);
        let range = range.take_while(move |(key, _)| key.starts_with(prefix));
        range.map(move |(key, value)| (&key[prefix.len()..], (key, value)))
    };
    below(NGINX).chain(below(OURS)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn https(to_https: ToHttps) -> Policy {
        let redirects = Redirects { to_https, ..Redirects::default() };
        Policy { redirects, ..Policy::default() }
    }

    fn check(annotations: &[(&str, &str)], expected: &Policy, problems: &[&str]) {
        let map = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let (policy, found) = Policy::of(&map);
        assert_eq!(policy, *expected, "{annotations:?}");
        assert_eq!(found.len(), problems.len(), "{annotations:?}: {found:?}");
        for (found, problem) in found.iter().zip(problems) {
            let found = format!("{}: {}", found.level, found.message);
            assert!(found.contains(problem), "{annotations:?}: {found}");
        }
    }

    fn refused(name: &'static str, effect: Effect) -> Policy {
        let why = Refusing::Unsupported(effect);
        Policy { refused: Some(RefusedBy { name, why }), ..Policy::default() }
    }

    #[test]
    fn annotations_that_are_served() {
        let none = Policy::default;
        check(&[("other.example/ssl-redirect", "true")], &none(), &[]);
        check(
            &[("nginx.ingress.kubernetes.io/ssl-redirect", "true")],
            &https(ToHttps::WhereTls),
            &[],
        );
        check(
            &[
                ("switchyard.dev/force-ssl-redirect", "true"),
                ("switchyard.dev/ssl-redirect", "true"),
            ],
            &https(ToHttps::Always),
            &[],
        );
        check(
            &[
                ("nginx.ingress.kubernetes.io/ssl-redirect", "true"),
                ("switchyard.dev/ssl-redirect", "false"),
            ],
            &none(),
            &[],
        );
        check(
            &[
                ("nginx.ingress.kubernetes.io/proxy-body-size", "8m"),
                ("nginx.ingress.kubernetes.io/proxy-read-timeout", "90"),
                ("nginx.ingress.kubernetes.io/proxy-send-timeout", "2m"),
                ("switchyard.dev/proxy-connect-timeout", "3s"),
            ],
            &Policy {
                transfer: Transfer {
                    max_body: Some(Some(8 << 20)),
                    read_timeout: Some(Duration::from_secs(90)),
                    send_timeout: Some(Duration::from_secs(120)),
                    connect_timeout: Some(Duration::from_secs(3)),
                },
                ..none()
            },
            &[],
        );
        check(
            &[("switchyard.dev/proxy-body-size", "0")],
            &Policy {
                transfer: Transfer { max_body: Some(None), ..Transfer::default() },
                ..none()
            },
            &[],
        );
    }

    #[test]
    fn annotations_that_are_not_served_are_reported() {
        let none = Policy::default;
        check(&[("switchyard.dev/ssl-redirect", "yes")], &none(), &["\"yes\" is not \"true\""]);
        check(&[("switchyard.dev/proxy-body-size", "8 m")], &none(), &["not a valid size"]);
        let too_large = "99999999999g";
        check(&[("switchyard.dev/proxy-body-size", too_large)], &none(), &["not a valid size"]);
        check(&[("switchyard.dev/proxy-read-timeout", "0")], &none(), &["not a valid timeout"]);
        check(&[("switchyard.dev/sl-redirect", "true")], &none(), &["warning: annotation"]);
        check(&[("switchyard.dev/colour", "red")], &none(), &["is unknown and ignored"]);
        let nginx = "nginx.ingress.kubernetes.io/proxy-http-version";
        check(&[(nginx, "1.0")], &none(), &["warning: annotation nginx"]);
        check(&[("switchyard.dev/proxy-buffering", "on")], &none(), &["note: annotation"]);
    }

    /// Each of these was served as if the annotation were not there.
    #[test]
    fn an_annotation_that_restricts_or_diverts_never_leaves_a_plain_route() {
        let restricting = [("enable-modsecurity", "true"), ("enable-owasp-core-rules", "true")];
        let diverting = [("ssl-passthrough", "true")];
        let snippets =
            ["configuration-snippet", "server-snippet", "auth-snippet", "modsecurity-snippet"];
        let snippets = snippets.map(|name| (name, "deny all;"));
        let of = |effect| move |(name, value)| (name, value, effect);
        let all = restricting.map(of(Effect::Restricts)).into_iter();
        let all = all.chain(diverting.map(of(Effect::Diverts)));
        for (name, value, effect) in all.chain(snippets.map(of(Effect::Snippet))) {
            for prefix in [NGINX, OURS] {
                let key = format!("{prefix}{name}");
                let words = format!("{key} {}, which is not supported", effect.words());
                check(&[(&key, value)], &refused(name, effect), &[&words]);
            }
        }
        let misspelt = [("nginx.ingress.kubernetes.io/whitlist-source-range", "10.0.0.0/8")];
        let expected = refused("whitelist-source-range", Effect::Restricts);
        check(&misspelt, &expected, &["similar to whitelist-source-range, which restricts"]);
    }

    #[test]
    fn a_canary_is_no_plain_route_and_one_that_is_off_is() {
        let key = |name: &str| format!("{NGINX}{name}");
        let canary = |annotations: &[(&str, &str)]| {
            let map = annotations.iter().map(|(k, v)| (key(k).into(), (*v).into())).collect();
            let (policy, unmet) = Policy::of(&map);
            (policy.canary.is_canary, unmet.len())
        };
        assert_eq!(canary(&[("canary", "true"), ("canary-weight", "0")]), (true, 0));
        assert_eq!(canary(&[("canary", "yes")]), (true, 1));
        assert_eq!(canary(&[("canry", "true")]), (true, 1));
        // As for ingress-nginx, an ordinary Ingress.
        assert_eq!(canary(&[("canary-weight", "0")]), (false, 1));
        assert_eq!(canary(&[("canary", "false"), ("canary-weight", "20")]), (false, 0));
        // What the main Ingress decides for both.
        assert_eq!(canary(&[("canary", "true"), ("auth-type", "basic")]), (true, 1));
        assert_eq!(canary(&[("canary", "true"), ("affinity", "cookie")]), (true, 1));
        assert_eq!(canary(&[("canary", "true"), ("load-balance", "ewma")]), (true, 0));
    }

    #[test]
    fn an_annotation_that_asks_for_nothing_is_served() {
        let nothing = [("ssl-passthrough", "false"), ("enable-modsecurity", "false")];
        for (name, value) in nothing {
            check(&[(&format!("{NGINX}{name}"), value)], &Policy::default(), &[]);
        }
    }

    #[test]
    fn every_annotation_that_is_served_is_read() {
        for (name, _) in ANNOTATIONS.iter().filter(|(_, support)| *support == Support::Served) {
            assert!(Policy::default().read(name, "1").is_some(), "{name}");
        }
    }
}
