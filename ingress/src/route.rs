//! Host and path matching: what the rules of an Ingress mean for a request.
//!
//! Pure. Every form of a request that could be read in two ways is brought into one here, before
//! it is looked up; the same form is then forwarded, so that what was matched is what an
//! endpoint sees. Left out: what a match leads to, which is the snapshot's.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use model::PathType;
use smallvec::SmallVec;

/// RFC 1035 section 2.3.4; a longer name cannot be in DNS, nor in a rule.
const MAX_HOST_BYTES: usize = 253;

/// The authority or Host field of a request is not `host[:port]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHost;

/// The path of a request has no single meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPath;

/// The host of an authority as rules spell it: no port, no trailing dot, lower case.
pub(crate) fn host_of(authority: &str) -> Result<Cow<'_, str>, BadHost> {
    if is_plain_host(authority.as_bytes()) {
        return Ok(Cow::Borrowed(authority));
    }
    let (host, port) = split_port(authority)?;
    if port.is_some_and(|port| !port.is_empty() && parse_port(port).is_none()) {
        return Err(BadHost);
    }
    if let Some(literal) = host.strip_prefix('[') {
        let ip = literal.strip_suffix(']').ok_or(BadHost)?;
        ip.parse::<std::net::Ipv6Addr>().map_err(|_| BadHost)?;
        return Ok(lower_case(host));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let empty_label = host.starts_with('.') || host.ends_with('.') || host.contains("..");
    let fits = !host.is_empty() && host.len() <= MAX_HOST_BYTES;
    if !fits || empty_label || !host.bytes().all(valid) {
        return Err(BadHost);
    }
    Ok(lower_case(host))
}

/// Whether an authority is a valid host as rules spell it already, which most are.
fn is_plain_host(authority: &[u8]) -> bool {
    let mut before = b'.';
    for byte in authority {
        if !IS_PLAIN[usize::from(*byte)] || (*byte == b'.' && before == b'.') {
            return false;
        }
        before = *byte;
    }
    before != b'.' && authority.len() <= MAX_HOST_BYTES
}

/// The bytes of a host that need no second look.
static IS_PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = matches!(byte as u8, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        byte += 1;
    }
    plain
};

/// The port that an authority names; none when it names the scheme's own by leaving it out.
pub(crate) fn port_of(authority: &str) -> Option<u16> {
    parse_port(split_port(authority).ok()?.1?)
}

/// Digits only, where `parse` alone would take a sign.
fn parse_port(port: &str) -> Option<u16> {
    port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())?
}

/// `host:port` → both; the colons inside `[…]` belong to the address.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), BadHost> {
    let after_literal = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_literal..].find(':') {
        None if after_literal == authority.len() || after_literal == 0 => Ok((authority, None)),
        None => Err(BadHost),
        Some(0) if after_literal > 0 => {
            Ok((&authority[..after_literal], Some(&authority[after_literal + 1..])))
        }
        Some(colon) if after_literal == 0 => {
            Ok((&authority[..colon], Some(&authority[colon + 1..])))
        }
        Some(_) => Err(BadHost),
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The path as it is matched and forwarded: without dot segments and empty segments, with
/// escapes of unreserved characters decoded, those that a path cannot hold escaped, and all
/// other escapes kept (RFC 3986 section 6.2.2). Rules and requests have the same normal form, so
/// that a rule `/café` matches a request for `/caf%C3%A9`.
pub(crate) fn normalise(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(BadPath);
    }
    let decoded = normalise_escapes(path)?;
    let mut kept: SmallVec<[&str; 16]> = SmallVec::new();
    // A path that ends in a dot segment names a folder, as one that ends in `/` does.
    let mut folder = false;
    for segment in decoded[1..].split('/') {
        folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if folder || kept.is_empty() {
        normal.push('/');
    }
    Ok(Cow::Owned(normal))
}

/// Whether nothing in the path has to be changed, which holds for nearly all requests.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    for byte in path {
        match byte {
            b'/' | b'.' if before == b'/' => return false,
            _ if HAS_TO_CHANGE[usize::from(*byte)] => return false,
            _ => before = *byte,
        }
    }
    path.first() == Some(&b'/')
}

/// The bytes that are escaped in a normal path, and `%`. A path cannot hold them (RFC 3986 section
/// 3.3), but a rule may be written with them, and some clients send them as they are. A path with
/// `\` is refused: it is no character of a path either, and some endpoints take it for `/`.
static HAS_TO_CHANGE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = matches!(
            byte as u8,
            0..=b' ' | b'"' | b'#' | b'%' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{'..=b'}'
                | 0x7f..
        );
        byte += 1;
    }
    table
};

fn normalise_escapes(path: &str) -> Result<Cow<'_, str>, BadPath> {
    let bytes = path.as_bytes();
    if !bytes.iter().any(|byte| HAS_TO_CHANGE[usize::from(*byte)]) {
        return Ok(Cow::Borrowed(path));
    }
    let mut normal = String::with_capacity(path.len() + 16);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte == b'%' {
            let escaped = escaped_byte(&bytes[at..])?;
            at += 2;
            match escaped {
                // An endpoint that ends its strings there would see another path than was matched.
                0 => return Err(BadPath),
                b'-' | b'.' | b'_' | b'~' => normal.push(char::from(escaped)),
                _ if escaped.is_ascii_alphanumeric() => normal.push(char::from(escaped)),
                _ => push_escape(&mut normal, escaped),
            }
        } else if matches!(byte, 0 | b'\\') {
            return Err(BadPath);
        } else if HAS_TO_CHANGE[usize::from(byte)] {
            push_escape(&mut normal, byte);
        } else {
            normal.push(char::from(byte));
        }
    }
    Ok(Cow::Owned(normal))
}

/// The byte of the two hexadecimal digits that follow a `%`.
fn escaped_byte(after: &[u8]) -> Result<u8, BadPath> {
    let digit = |at: usize| {
        let digit = after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        digit.and_then(|digit| u8::try_from(digit).ok()).ok_or(BadPath)
    };
    Ok(digit(0)? << 4 | digit(1)?)
}

fn push_escape(path: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    path.push('%');
    path.push(char::from(DIGITS[usize::from(byte >> 4)]));
    path.push(char::from(DIGITS[usize::from(byte & 0xf)]));
}

/// A host as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostKey {
    /// No host: the rule holds for all.
    Any,
    Exact(Arc<str>),
    /// What follows `*.`; the star stands for exactly one label.
    Wildcard(Arc<str>),
}

impl HostKey {
    pub(crate) fn of(host: Option<&Arc<str>>) -> HostKey {
        match host {
            None => HostKey::Any,
            Some(host) => match host.strip_prefix("*.") {
                Some("") => HostKey::Any,
                Some(suffix) => HostKey::Wildcard(suffix.into()),
                None if &**host == "*" || host.is_empty() => HostKey::Any,
                None => HostKey::Exact(host.clone()),
            },
        }
    }

    /// Whether a request for this host would be covered by `other`.
    pub(crate) fn is_within(&self, other: &HostKey) -> bool {
        self.covering().any(|key| key == *other)
    }

    /// The keys that cover a request for this host: itself, the wildcard above it, and any host.
    pub(crate) fn covering(&self) -> impl Iterator<Item = HostKey> {
        let above = match self {
            HostKey::Exact(host) => host.split_once('.').map(|(_, above)| above),
            HostKey::Any | HostKey::Wildcard(_) => None,
        };
        let wildcard = above.map(|above| HostKey::Wildcard(above.into()));
        [Some(self.clone()), wildcard, Some(HostKey::Any)].into_iter().flatten()
    }
}

impl std::fmt::Display for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostKey::Any => f.write_str("*"),
            HostKey::Exact(host) => f.write_str(host),
            HostKey::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// Whether a name of a certificate, or an address in it, is for a host of a request. The star of
/// `*.name` stands for exactly one label (RFC 9525 section 6.3).
pub(crate) fn name_covers(name: &str, host: &str) -> bool {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(ip) = literal.and_then(|host| host.parse::<std::net::Ipv6Addr>().ok()) {
        return name.parse() == Ok(ip);
    }
    match name.strip_prefix("*.") {
        Some(above) => host.split_once('.').is_some_and(|(_, rest)| rest == above),
        None => name == host,
    }
}

type Names<T> = imbl::GenericHashMap<Arc<str>, T, RandomState, imbl::shared_ptr::DefaultSharedPtr>;

/// What belongs to each host. Persistent: a clone is O(1), a change of one host O(log hosts).
#[derive(Clone, Debug)]
pub(crate) struct HostTable<T> {
    exact: Names<T>,
    wildcard: Names<T>,
    any: Option<T>,
}

impl<T: Clone> HostTable<T> {
    pub(crate) fn new() -> HostTable<T> {
        let names = || Names::with_hasher(RandomState::default());
        HostTable { exact: names(), wildcard: names(), any: None }
    }

    pub(crate) fn set(&mut self, key: &HostKey, value: Option<T>) {
        let (names, name) = match key {
            HostKey::Any => {
                self.any = value;
                return;
            }
            HostKey::Exact(name) => (&mut self.exact, name),
            HostKey::Wildcard(name) => (&mut self.wildcard, name),
        };
        match value {
            Some(value) => names.insert(name.clone(), value),
            None => names.remove(&**name),
        };
    }

    /// What belongs to the host by name: exact, else by the wildcard above its first label.
    pub(crate) fn find(&self, host: &str) -> Option<&T> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        let (_, above) = host.split_once('.')?;
        self.wildcard.get(above)
    }

    /// What belongs to a host as a rule names it.
    pub(crate) fn get(&self, key: &HostKey) -> Option<&T> {
        match key {
            HostKey::Any => self.any.as_ref(),
            HostKey::Exact(name) => self.exact.get(name),
            HostKey::Wildcard(name) => self.wildcard.get(name),
        }
    }

    /// What belongs to hosts without a name of their own.
    pub(crate) fn any(&self) -> Option<&T> {
        self.any.as_ref()
    }

    /// Everything, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (HostKey, &T)> {
        let exact = self.exact.iter().map(|(name, v)| (HostKey::Exact(name.clone()), v));
        let wildcard = self.wildcard.iter().map(|(name, v)| (HostKey::Wildcard(name.clone()), v));
        exact.chain(wildcard).chain(self.any.iter().map(|v| (HostKey::Any, v)))
    }
}

/// The paths of one host.
#[derive(Clone, Debug)]
pub(crate) struct PathTable<T> {
    exact: HashMap<Box<str>, T, RandomState>,
    /// By path without its trailing slash, so that `/` is the empty one.
    prefix: HashMap<Box<str>, T, RandomState>,
    /// Segments of the longest prefix: no more of a request's path than that is looked up.
    deepest: usize,
}

/// Why a path was not added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAdded<'a, T> {
    /// The path is in the table already, with this.
    Taken(&'a T),
    BadPath,
}

impl<T> PathTable<T> {
    pub(crate) fn new() -> PathTable<T> {
        PathTable { exact: HashMap::default(), prefix: HashMap::default(), deepest: 0 }
    }

    /// Adds a rule's path. Prefixes match whole segments, and a trailing slash on them means
    /// nothing (Kubernetes documentation, "Path types"); `ImplementationSpecific` is a prefix.
    pub(crate) fn add(
        &mut self,
        path: &str,
        path_type: PathType,
        value: T,
    ) -> Result<(), NotAdded<'_, T>> {
        let path = if path.is_empty() { "/" } else { path };
        let path = normalise(path).map_err(|BadPath| NotAdded::BadPath)?;
        let (paths, key) = match path_type {
            PathType::Exact => (&mut self.exact, &*path),
            PathType::Prefix | PathType::ImplementationSpecific => {
                (&mut self.prefix, path.trim_end_matches('/'))
            }
        };
        if paths.contains_key(key) {
            return Err(NotAdded::Taken(&paths[key]));
        }
        if path_type != PathType::Exact {
            self.deepest = self.deepest.max(key.matches('/').count());
        }
        paths.insert(key.into(), value);
        Ok(())
    }

    /// The rule for a normalised path: the exact one, else the longest prefix.
    pub(crate) fn find(&self, path: &str) -> Option<&T> {
        if !self.exact.is_empty()
            && let Some(found) = self.exact.get(path)
        {
            return Some(found);
        }
        if self.deepest == 0 {
            return self.prefix.get("");
        }
        // The places where a prefix of the path may end: before each `/`, and at the end.
        let slashes = memchr::memchr_iter(b'/', path.as_bytes());
        let mut ends: SmallVec<[usize; 16]> = slashes.take(self.deepest + 1).collect();
        if ends.len() <= self.deepest {
            ends.push(path.len());
        }
        ends.iter().rev().find_map(|end| self.prefix.get(&path[..*end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts() {
        let accepted = [
            ("foo.bar.com", "foo.bar.com"),
            ("Foo.Bar.COM:8080", "foo.bar.com"),
            ("foo.bar.com.", "foo.bar.com"),
            ("foo.bar.com.:80", "foo.bar.com"),
            ("foo.bar.com:", "foo.bar.com"),
            ("localhost", "localhost"),
            ("under_score.example", "under_score.example"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[FE80::1]:8080", "[fe80::1]"),
        ];
        for (authority, host) in accepted {
            assert_eq!(host_of(authority).as_deref(), Ok(host), "{authority}");
        }
        let refused = [
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a.:b",
            "a:65536",
            "a:-1",
            "a:80:80",
            "user@a",
            "a/b",
            "a b",
            "a,b",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]x:80",
            "x[::1]",
            "[a]",
            "a%2e",
            "é",
        ];
        for authority in refused {
            assert_eq!(host_of(authority), Err(BadHost), "{authority}");
        }
        assert_eq!(host_of(&"a".repeat(254)), Err(BadHost));
    }

    #[test]
    fn ports() {
        for (authority, port) in [
            ("a:8080", Some(8080)),
            ("a", None),
            ("a:", None),
            ("[::1]:1", Some(1)),
            ("[::1]", None),
        ] {
            assert_eq!(port_of(authority), port, "{authority}");
        }
    }

    #[test]
    fn paths_are_normalised() {
        let table = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/%66oo", "/foo"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2F..%2Fb", "/a%2F..%2Fb"),
            ("/a%20b%C3%A9", "/a%20b%C3%A9"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/..;/a", "/..;/a"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/café", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a b", "/a%20b"),
            ("/a\"<>^`{|}?#\u{7f}b", "/a%22%3C%3E%5E%60%7B%7C%7D%3F%23%7Fb"),
            ("/a%22%3c%3e%5e%60%7b%7c%7d%3f%23%7fb", "/a%22%3C%3E%5E%60%7B%7C%7D%3F%23%7Fb"),
            ("/é/../a", "/a"),
        ];
        for (path, normal) in table {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
        for path in ["", "*", "a", "/%", "/%2", "/%zz", "/%+1", "/a%00b", "/a\0b", "/%é"] {
            assert_eq!(normalise(path), Err(BadPath), "{path}");
        }
    }

    fn check(rules: &[(PathType, &str)], requests: &[(&str, &str)]) {
        let mut table = PathTable::new();
        for (path_type, path) in rules {
            let name = format!("{path_type:?} {path}");
            assert_eq!(table.add(path, *path_type, name), Ok(()), "{path_type:?} {path}");
        }
        for (path, expected) in requests {
            let found = table.find(&normalise(path).unwrap()).map_or("404", String::as_str);
            assert_eq!(found, *expected, "{path} among {rules:?}");
        }
    }

    #[test]
    fn the_path_table_of_the_behaviours() {
        use PathType::{Exact, ImplementationSpecific, Prefix};
        check(
            &[(Exact, "/foo")],
            &[("/foo", "Exact /foo"), ("/foo/", "404"), ("/FOO", "404"), ("/bar", "404")],
        );
        check(&[(Exact, "/foo/")], &[("/foo/", "Exact /foo/"), ("/foo", "404")]);
        check(
            &[(Prefix, "/foo")],
            &[
                ("/foo", "Prefix /foo"),
                ("/foo/", "Prefix /foo"),
                ("/foo/x", "Prefix /foo"),
                ("/FOO", "404"),
                ("/foobar", "404"),
                ("/", "404"),
            ],
        );
        check(
            &[(Prefix, "/aaa"), (Prefix, "/aaa/bbb")],
            &[
                ("/aaa/bbb", "Prefix /aaa/bbb"),
                ("/aaa/bbb/ccc", "Prefix /aaa/bbb"),
                ("/aaa/ccc", "Prefix /aaa"),
                ("/aaaccc", "404"),
            ],
        );
        check(
            &[(Prefix, "/aaa/bbb/")],
            &[
                ("/aaa/bbb", "Prefix /aaa/bbb/"),
                ("/aaa/bbb/", "Prefix /aaa/bbb/"),
                ("/aaa/bbb/c", "Prefix /aaa/bbb/"),
                ("/aaa/bbbxyz", "404"),
                ("/aaa", "404"),
            ],
        );
        check(
            &[(Prefix, "/foo"), (Exact, "/foo")],
            &[("/foo", "Exact /foo"), ("/foo/", "Prefix /foo")],
        );
        check(
            &[(Prefix, "/"), (Prefix, "/aaa"), (Prefix, "/aaa/bbb")],
            &[
                ("/", "Prefix /"),
                ("/x/y/z/w", "Prefix /"),
                ("/aaa/ccc", "Prefix /aaa"),
                ("/aaa/bbb/c/d/e", "Prefix /aaa/bbb"),
                ("/aaa/bb", "Prefix /aaa"),
            ],
        );
        check(
            &[(ImplementationSpecific, ""), (ImplementationSpecific, "/x")],
            &[("/", "ImplementationSpecific "), ("/x/y", "ImplementationSpecific /x")],
        );
        check(
            &[(Prefix, "/admin"), (Prefix, "/")],
            &[
                ("/%61dmin", "Prefix /admin"),
                ("/public/..//admin/", "Prefix /admin"),
                ("/a/%2e%2e/admin", "Prefix /admin"),
                ("/a%2Fadmin", "Prefix /"),
            ],
        );
    }

    /// The same rule and the same request, each in every spelling that a person or a client uses.
    #[test]
    fn a_rule_with_a_space_or_an_accent_matches_requests_that_escape_it() {
        use PathType::{Exact, Prefix};
        let spellings = [
            (["/café", "/caf%C3%A9", "/caf%c3%a9"], "/caf%C3%A9/x"),
            (["/a b", "/a%20b", "/%61%20b"], "/a%20b/x"),
            (["/{id}", "/%7Bid%7D", "/%7bid%7d"], "/{id}/x"),
        ];
        for (spellings, below) in spellings {
            for rule in spellings {
                for request in spellings {
                    let expected = format!("Exact {rule}");
                    check(&[(Exact, rule)], &[(request, &expected), (below, "404")]);
                    let expected = format!("Prefix {rule}");
                    check(&[(Prefix, rule)], &[(request, &expected), (below, &expected)]);
                }
            }
            let mut table = PathTable::new();
            assert_eq!(table.add(spellings[0], Exact, 1), Ok(()));
            assert_eq!(table.add(spellings[1], Exact, 2), Err(NotAdded::Taken(&1)));
        }
    }

    #[test]
    fn a_path_is_taken_once_for_each_type() {
        let mut table = PathTable::new();
        assert_eq!(table.add("/foo", PathType::Prefix, 1), Ok(()));
        assert_eq!(table.add("/foo", PathType::Exact, 2), Ok(()));
        assert_eq!(table.add("/foo/", PathType::Prefix, 3), Err(NotAdded::Taken(&1)));
        assert_eq!(table.add("/%zz", PathType::Exact, 4), Err(NotAdded::BadPath));
    }

    #[test]
    fn hosts_match_by_name_then_by_one_label() {
        let mut table = HostTable::new();
        for host in ["*.foo.com", "foo.bar.com", "*.bar.com"] {
            table.set(&HostKey::of(Some(&host.into())), Some(host));
        }
        table.set(&HostKey::of(None), Some("any"));
        let requests = [
            ("bar.foo.com", Some("*.foo.com")),
            ("baz.bar.foo.com", None),
            ("foo.com", None),
            ("foo.bar.com", Some("foo.bar.com")),
            ("other.bar.com", Some("*.bar.com")),
            ("com", None),
        ];
        for (host, expected) in requests {
            assert_eq!(table.find(host).copied(), expected, "{host}");
        }
        assert_eq!(table.any(), Some(&"any"));
        let before = table.clone();
        table.set(&HostKey::of(Some(&"foo.bar.com".into())), None);
        assert_eq!(table.find("foo.bar.com"), Some(&"*.bar.com"));
        assert_eq!(before.find("foo.bar.com"), Some(&"foo.bar.com"), "a clone stays as it was");
    }

    proptest! {
        #[test]
        fn a_normal_path_is_its_own_normal_form(
            path in "(/|%2[eEfF]|%6[0-9a-f]|\\.|[a-c]|;|é| |%C3|[|]){0,24}"
        ) {
            if let Ok(normal) = normalise(&path) {
                let again = normalise(&normal).map(Cow::into_owned);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(!normal.contains("//") && !normal.contains("/../"), "{}", normal);
                prop_assert!(normal.starts_with('/') && !normal.ends_with("/.."), "{}", normal);
            }
        }

        #[test]
        fn any_bytes_are_a_host_or_an_error(authority in "\\PC{0,40}") {
            if let Ok(host) = host_of(&authority) {
                let again = host_of(&host).map(Cow::into_owned);
                prop_assert_eq!(again.as_deref(), Ok(&*host));
            }
        }
    }
}
