//! Where a request came from: what an endpoint is told of its client, and what is believed of
//! what proxies in front say.
//!
//! Pure. A proxy that is trusted adds the address that it got a request from to X-Forwarded-For,
//! and the scheme by which it got it to X-Forwarded-Proto. So both lists are read from their
//! ends: the client is the last address that is not a trusted proxy's, because everything before
//! that address could have been made up by the client.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use smallvec::SmallVec;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of a generated request id: 128 random bits in hexadecimal.
pub(crate) const REQUEST_ID_BYTES: usize = 32;

/// A generated request id.
pub(crate) type RequestId = [u8; REQUEST_ID_BYTES];

/// How heads are to be forwarded, for all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// CGI and its successors map names with underscores and names with hyphens to the same
    /// variable, so a client could set what only a proxy should.
    pub(crate) allow_underscores: bool,
}

/// What a connection says about the requests that come over it.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) peer: IpAddr,
    pub(crate) trusted: bool,
    pub(crate) https: bool,
    pub(crate) port: u16,
    /// The fields for a client that is not trusted, which are the same for all its requests.
    pub(crate) fields: Box<[u8]>,
    /// The same for HTTP/2 endpoints, once there was a request to one.
    http2_fields: OnceCell<Box<[(HeaderName, HeaderValue)]>>,
}

/// What a trusted proxy says of a request's client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forwarded<'a> {
    /// All addresses that the request came by, the connection's own peer last.
    pub(crate) chain: String,
    pub(crate) client: IpAddr,
    pub(crate) scheme: &'a str,
}

impl Origin {
    pub(crate) fn new(peer: IpAddr, https: bool, port: u16, trusted_proxies: &[IpNet]) -> Origin {
        // An IPv4 client of a socket that takes both families is an IPv4 client.
        let peer = peer.to_canonical();
        let trusted = is_trusted(peer, trusted_proxies);
        let scheme = scheme_name(https);
        let fields = format!(
            "x-forwarded-for: {peer}\r\nx-real-ip: {peer}\r\nx-forwarded-proto: {scheme}\r\n\
             x-forwarded-port: {port}\r\n"
        );
        let fields = fields.into_bytes().into();
        Origin { peer, trusted, https, port, fields, http2_fields: OnceCell::new() }
    }

    /// The fields for a client that is not trusted, for HTTP/2 endpoints.
    pub(crate) fn http2_fields(&self) -> &[(HeaderName, HeaderValue)] {
        self.http2_fields.get_or_init(|| {
            let text =
                |text: String| HeaderValue::try_from(text).expect("an address is plain text");
            let peer = text(self.peer.to_string());
            Box::new([
                (X_FORWARDED_FOR, peer.clone()),
                (X_REAL_IP, peer),
                (X_FORWARDED_PROTO, HeaderValue::from_static(scheme_name(self.https))),
                (X_FORWARDED_PORT, self.port.into()),
            ])
        })
    }

    /// Whether the client reached us, or the first proxy before us, over TLS.
    pub(crate) fn is_https(&self, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> bool {
        if !self.trusted || !headers.contains_key(X_FORWARDED_PROTO) {
            return self.https;
        }
        self.forwarded(headers, trusted_proxies).scheme.eq_ignore_ascii_case("https")
    }

    /// What the fields of a trusted proxy come to.
    pub(crate) fn forwarded<'a>(
        &self,
        headers: &'a HeaderMap,
        trusted_proxies: &[IpNet],
    ) -> Forwarded<'a> {
        let hops = list(headers, &X_FORWARDED_FOR);
        let (client, position) = self.client_of(&hops, trusted_proxies);
        let schemes = list(headers, &X_FORWARDED_PROTO);
        // Where each proxy has added to both lists, the scheme has the position of the client
        // that came by it. Lists of different lengths cannot be matched; the first entry is then
        // of the proxy that is nearest to the client.
        let matched = if schemes.len() == hops.len() { position } else { None };
        let scheme = schemes.get(matched.unwrap_or(0)).copied();
        let mut chain = String::new();
        for hop in &hops {
            chain.push_str(hop);
            chain.push_str(", ");
        }
        chain.push_str(&self.peer.to_string());
        Forwarded { chain, client, scheme: scheme.unwrap_or(scheme_name(self.https)) }
    }

    /// The last address that is no trusted proxy's, and its position. An entry that is no address
    /// hides what is before it: then it is the proxy that wrote the entry.
    fn client_of(&self, hops: &[&str], trusted_proxies: &[IpNet]) -> (IpAddr, Option<usize>) {
        let (mut client, mut position) = (self.peer, None);
        for (at, hop) in hops.iter().enumerate().rev() {
            let Some(ip) = address_of(hop) else { break };
            (client, position) = (ip, Some(at));
            if !is_trusted(ip, trusted_proxies) {
                break;
            }
        }
        (client, position)
    }

    /// The address of the client: the connection's peer, or what trusted proxies say.
    pub(crate) fn client(&self, headers: &HeaderMap, rules: &Rules) -> IpAddr {
        match self.trusted {
            true => self.client_of(&list(headers, &X_FORWARDED_FOR), &rules.trusted_proxies).0,
            false => self.peer,
        }
    }

    /// The id that a trusted proxy has given the request.
    pub(crate) fn given_id<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        headers.get(X_REQUEST_ID).filter(|_| self.trusted)
    }
}

pub(crate) fn scheme_name(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

pub(crate) fn is_trusted(ip: IpAddr, trusted_proxies: &[IpNet]) -> bool {
    trusted_proxies.iter().any(|net| net.contains(&ip))
}

/// The entries of a list, of all fields of that name, without empty ones (RFC 9110 section
/// 5.6.1.2).
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> SmallVec<[&'a str; 4]> {
    let fields = headers.get_all(name).iter().map(|field| field.to_str().unwrap_or_default());
    fields.flat_map(|field| field.split(',')).map(str::trim).filter(|e| !e.is_empty()).collect()
}

/// The address in an entry of X-Forwarded-For: some proxies add a port, or brackets.
fn address_of(entry: &str) -> Option<IpAddr> {
    let bare = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || entry.parse().ok().map(|address: SocketAddr| address.ip());
    entry.parse().ok().or_else(with_port).or_else(bare).map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    /// X-Forwarded-For with ports, empty, or with the proxies' own addresses gave the endpoint a
    /// client with a port, the proxy, or nothing.
    #[test]
    fn the_client_is_found_whatever_proxies_write() {
        let table = [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4, 10.0.0.7:1234", "1.2.3.4"),
            ("1.2.3.4:5678", "1.2.3.4"),
            ("9.9.9.9, 1.2.3.4:5678 , 10.1.1.1", "1.2.3.4"),
            ("[2001:db8::7]:443, [fd00::1]:80", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("2001:db8::7, fd00::1", "2001:db8::7"),
            ("::ffff:1.2.3.4, 10.0.0.3", "1.2.3.4"),
            ("", "10.0.0.1"),
            (" , ", "10.0.0.1"),
            (", 1.2.3.4,", "1.2.3.4"),
            // All of them are trusted: the first is the client.
            ("10.0.0.5, 10.0.0.6", "10.0.0.5"),
            // What is before an entry that is no address cannot be believed.
            ("1.2.3.4, unknown, 10.0.0.6", "10.0.0.6"),
            ("1.2.3.4, 10.0.0.6:x", "10.0.0.1"),
        ];
        let origin = Origin::new("10.0.0.1".parse().unwrap(), false, 80, &networks());
        for (field, client) in table {
            let headers = headers(&[("x-forwarded-for", field)]);
            let found = origin.forwarded(&headers, &networks());
            assert_eq!(found.client, client.parse::<IpAddr>().unwrap(), "{field:?}");
            assert!(found.chain.ends_with("10.0.0.1") && !found.chain.starts_with(','));
        }
        let two = headers(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.0.0.7")]);
        let found = origin.forwarded(&two, &networks());
        assert_eq!(found.chain, "1.2.3.4, 10.0.0.7, 10.0.0.1");
        assert_eq!(found.client, "1.2.3.4".parse::<IpAddr>().unwrap());
    }

    /// `X-Forwarded-Proto: https, http` was redirected to HTTPS again and again.
    #[test]
    fn the_scheme_is_that_of_the_hop_which_the_client_used() {
        let table = [
            ("10.0.0.1", "", "https", true),
            ("10.0.0.1", "", "HTTPS", true),
            ("10.0.0.1", "", "http", false),
            ("10.0.0.1", "", "https, http", true),
            ("10.0.0.1", "", "http, https", false),
            ("10.0.0.1", "1.2.3.4, 10.0.0.7:1234", "https, http", true),
            ("10.0.0.1", "1.2.3.4, 10.0.0.7", "http, https", false),
            // A client that claims a hop of its own does not choose its scheme.
            ("10.0.0.1", "5.5.5.5, 1.2.3.4", "https, http", false),
            ("192.0.2.1", "", "https", false),
        ];
        for (peer, hops, schemes, expected) in table {
            let origin = Origin::new(peer.parse().unwrap(), false, 80, &networks());
            let lines = [("x-forwarded-for", hops), ("x-forwarded-proto", schemes)];
            let found = origin.is_https(&headers(&lines), &networks());
            assert_eq!(found, expected, "{peer} {hops:?} {schemes:?}");
        }
        let direct = Origin::new("10.0.0.1".parse().unwrap(), true, 443, &networks());
        assert!(direct.is_https(&HeaderMap::new(), &networks()));
    }
}
