//! The target of `explain`: a URL, an address or a name.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::Uri;
use model::Protocol;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Url(Uri),
    Address(SocketAddr, Protocol),
    Name(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        if text.contains("://") {
            let url: Uri = text.parse().map_err(|error| format!("not a valid URL: {error}"))?;
            let is_http = matches!(url.scheme_str(), Some("http" | "https"));
            return match url.host() {
                Some(host) if is_http && !host.is_empty() => Ok(Target::Url(url)),
                _ => Err("write http://HOST/PATH or https://HOST/PATH".to_owned()),
            };
        }
        let (address, protocol) = match text.rsplit_once('/') {
            Some((address, "udp")) => (address, Protocol::Udp),
            Some((address, "tcp")) => (address, Protocol::Tcp),
            Some((host, path)) => return Err(no_scheme(host, path)),
            None => (text, Protocol::Tcp),
        };
        if let Ok(address) = address.parse() {
            return Ok(Target::Address(address, protocol));
        }
        if address.parse::<IpAddr>().is_ok() {
            return Err("write IP:PORT, or [IP]:PORT for IPv6".to_owned());
        }
        if text.is_empty() || text.contains([':', '/', ' ']) {
            return Err("write a URL, a DNS name, or IP:PORT".to_owned());
        }
        Ok(Target::Name(text.to_owned()))
    }
}

/// The error for a URL without its scheme. A host that is not one is not repeated as an example.
fn no_scheme(host_and_path: &str, last: &str) -> String {
    let url = format!("http://{host_and_path}/{last}");
    let is_host = |uri: &Uri| uri.host().is_some_and(|host| !host.is_empty());
    match url.parse::<Uri>().ok().filter(is_host) {
        Some(url) => format!("a URL begins with http:// or https://: write {url}"),
        None => "a URL begins with http:// or https://".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let address = |text: &str, protocol| Ok(Target::Address(text.parse().unwrap(), protocol));
        let url = |text: &str| Ok(Target::Url(text.parse().unwrap()));
        let name = |text: &str| Ok(Target::Name(text.to_owned()));
        let table = [
            ("http://shop.example/api", url("http://shop.example/api")),
            ("https://[::1]:8443/", url("https://[::1]:8443/")),
            ("10.96.0.10:80", address("10.96.0.10:80", Protocol::Tcp)),
            ("10.96.0.10:53/udp", address("10.96.0.10:53", Protocol::Udp)),
            ("[::1]:80/tcp", address("[::1]:80", Protocol::Tcp)),
            ("web", name("web")),
            (
                "_http._tcp.web.shop.svc.cluster.local.",
                name("_http._tcp.web.shop.svc.cluster.local."),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", "ftp://a/", "http:///a", "10.96.0.10", "a/b", "a:80", "a b", "1.2.3.4:x"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let url = "a URL begins with http:// or https://";
        for (text, help) in [
            ("shop.example/web", ": write http://shop.example/web"),
            ("shop.example/", ": write http://shop.example/"),
            ("10.0.0.1:80/a/b?c=d", ": write http://10.0.0.1:80/a/b?c=d"),
            ("/a", ""),
            ("a b/c", ""),
        ] {
            assert_eq!(text.parse::<Target>(), Err(format!("{url}{help}")), "{text}");
        }
    }
}
