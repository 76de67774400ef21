//! Annotations that say by which patterns requests match, and as what they reach the endpoint.
//!
//! Pure.

use std::sync::Arc;

use super::value::{OrElse as _, Read, Unserved, boolean, list};
use crate::route::{HostKey, host_of};
use crate::template::Template;

/// What one Ingress changes of host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewriting {
    pub(crate) use_regex: bool,
    /// What the whole path is replaced by.
    pub(crate) target: Option<Template>,
    pub(crate) forwarded_prefix: Option<Template>,
    /// Where `/` of the host is redirected to.
    pub(crate) app_root: Option<Arc<str>>,
    /// The Host that endpoints get.
    pub(crate) upstream_host: Option<Template>,
    /// Further names of its hosts.
    pub(crate) aliases: Vec<HostKey>,
}

impl Rewriting {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "use-regex" => boolean(value).or_default().map(|on| self.use_regex = on),
            "rewrite-target" => target(value).or_refuse().map(|target| self.target = Some(target)),
            "x-forwarded-prefix" => {
                target(value).or_default().map(|prefix| self.forwarded_prefix = Some(prefix))
            }
            "app-root" => path(value).or_default().map(|path| self.app_root = Some(path)),
            "upstream-vhost" => {
                upstream_host(value).or_refuse().map(|host| self.upstream_host = Some(host))
            }
            "server-alias" => self.read_aliases(value),
            _ => return None,
        })
    }

    /// Whether the paths of this Ingress's hosts are patterns.
    pub(crate) fn needs_patterns(&self) -> bool {
        self.use_regex || self.target.is_some()
    }

    fn read_aliases(&mut self, value: &str) -> Read {
        let mut bad = Vec::new();
        for alias in list(value) {
            match host_key(alias) {
                Some(key) => self.aliases.push(key),
                None => bad.push(alias),
            }
        }
        match &*bad {
            [] => Ok(()),
            bad => Err(Unserved::Partly(format!(
                "has names that are not served: {}; names and wildcards like *.example.com are",
                bad.join(", ")
            ))),
        }
    }
}

/// A name or wildcard as rules have them; `None` for regular expressions and what is no name.
fn host_key(alias: &str) -> Option<HostKey> {
    let name = alias.strip_prefix("*.").unwrap_or(alias);
    let host = host_of(name).ok().filter(|host| host.len() == name.len() && !host.contains('['))?;
    let key = if alias.len() > name.len() { format!("*.{host}") } else { host.into_owned() };
    Some(HostKey::of(Some(&key.into())))
}

/// A path or URL with captures of the path.
fn target(value: &str) -> Result<Template, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:$".contains(&byte);
    if let Some(other) = value.chars().find(|c| !u8::try_from(*c).is_ok_and(allowed)) {
        return Err(format!("{value:?} has the character {other:?}"));
    }
    let template = Template::parse(value).map_err(|error| error.to_string())?;
    if !template.has_only_captures() {
        return Err(format!("{value:?} has other variables than $1 to $9"));
    }
    Ok(template)
}

/// A path at which an application begins.
fn path(value: &str) -> Result<Arc<str>, String> {
    let fits = |byte: u8| byte.is_ascii_graphic();
    match value.starts_with('/') && !value.starts_with("//") && value.bytes().all(fits) {
        true => Ok(value.into()),
        false => Err(format!("{value:?} is not a path that begins with /")),
    }
}

fn upstream_host(value: &str) -> Result<Template, String> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/\\\"'<>".contains(&byte);
    if !value.bytes().all(fits) {
        return Err(format!("{value:?} is not a host"));
    }
    Template::parse(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_only_captures() {
        for good in ["/", "/$1", "/new/backend/$1", "https://a.example/$2"] {
            assert!(target(good).is_ok(), "{good}");
        }
        for bad in ["/$host", "/a?b", "/a b", "/\r\n", "/é"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn aliases_are_names_and_wildcards() {
        let mut rewriting = Rewriting::default();
        let read = rewriting.read("server-alias", "B.example, *.c.example, ~^x.*$ , d..e");
        let Some(Err(Unserved::Partly(message))) = read else { panic!("{read:?}") };
        assert!(message.contains("~^x.*$, d..e"), "{message}");
        let names: Vec<_> = rewriting.aliases.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["b.example", "*.c.example"]);
    }
}
