//! Fields of requests and responses: CORS, rules for fields, cookies and locations of endpoints.

use super::super::kit::{Endpoint, World, service};
use super::kit::{PLAIN, seen, send, services, with};
use crate::support::Net;

#[tokio::test]
async fn requests_of_other_origins() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    let on = ("enable-cors", "true");
    let origin = |origins| ("cors-allow-origin", origins);
    for (name, annotations) in [
        ("any", &[on][..]),
        ("one", &[on, origin("https://o:8080")]),
        ("list", &[on, origin("origin.com, https://a.com, http://*.origin.cors.com")]),
        ("star", &[on, origin("*, foo.bar.com"), ("cors-allow-credentials", "false")]),
        ("bad", &[on, origin("https://a.com$")]),
        (
            "texts",
            &[
                on,
                ("cors-allow-methods", "GET, POST"),
                ("cors-allow-headers", "X-A"),
                ("cors-expose-headers", "*, X-B"),
                ("cors-max-age", "100"),
            ],
        ),
        ("off", &[("enable-cors", "false")]),
    ] {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", "/", "a")]);
    }
    yaml += &with("gone", &[on], &[("gone.test", "Prefix", "/", "absent")]);
    let world = World::start_in(net, &yaml, &[]);
    // Host, method, Origin; status and Access-Control-Allow-Origin.
    let rows = [
        ("any", "GET", "", 200, Some("*")),
        ("any", "OPTIONS", "", 204, Some("*")),
        ("one", "GET", "https://o:8080", 200, Some("https://o:8080")),
        ("one", "OPTIONS", "https://o:8080", 204, Some("https://o:8080")),
        ("one", "GET", "https://o", 200, None),
        ("one", "OPTIONS", "https://o", 200, None),
        ("list", "GET", "http://origin.com", 200, None),
        ("list", "GET", "https://a.com", 200, Some("https://a.com")),
        ("list", "GET", "http://b-f.origin.cors.com", 200, Some("http://b-f.origin.cors.com")),
        ("list", "GET", "http://b.f.origin.cors.com", 200, None),
        ("list", "GET", "https://axcom", 200, None),
        ("star", "GET", "https://x", 200, Some("*")),
        ("bad", "GET", "https://a.com", 200, None),
        ("off", "OPTIONS", "https://a.com", 200, None),
        ("gone", "GET", "https://a.com", 503, Some("*")),
        ("gone", "OPTIONS", "https://a.com", 204, Some("*")),
    ];
    for speaks in PLAIN {
        for (host, method, origin, status, allowed) in rows {
            let fields = [("origin", origin)];
            let fields = if origin.is_empty() { &[][..] } else { &fields };
            let answer = send(&world, speaks, method, &format!("{host}.test/"), fields).await;
            let found = answer.headers.get("access-control-allow-origin");
            let found = (answer.status, found.map(|value| value.to_str().unwrap()));
            assert_eq!(found, (status, allowed), "{speaks:?} {host} {method} {origin}: {answer:?}");
            let has = |name: &str| answer.headers.contains_key(name);
            assert_eq!(has("access-control-max-age"), allowed.is_some(), "{answer:?}");
            let with_credentials = allowed.is_some() && host != "star";
            assert_eq!(has("access-control-allow-credentials"), with_credentials, "{answer:?}");
            assert_eq!(has("vary"), matches!(host, "one" | "list" | "bad"), "{answer:?}");
            if status == 204 {
                assert!(answer.body.is_empty() && has("access-control-allow-methods"));
            }
        }
        let answer = send(&world, speaks, "GET", "texts.test/", &[]).await;
        for (name, value) in [
            ("access-control-allow-methods", "GET, POST"),
            ("access-control-allow-headers", "X-A"),
            ("access-control-expose-headers", "*, X-B"),
            ("access-control-max-age", "100"),
        ] {
            assert_eq!(answer.headers[name], value, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn rules_for_fields() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    let request = "X-Client: $remote_addr\nX-Path: $request_uri\nCookie:\nX-Evil: mine";
    let response = "X-Frame-Options: DENY\nX-Endpoint:\nX-Literal: $remote_addr";
    let rules = [
        ("switchyard.dev/request-headers", request),
        ("switchyard.dev/response-headers", response),
    ];
    yaml += &with("f", &rules, &[("f.test", "Prefix", "/", "a")]);
    let bad = [("switchyard.dev/request-headers", "Host: x")];
    yaml += &with("bad", &bad, &[("bad.test", "Prefix", "/", "a")]);
    let world = World::start_in(net, &yaml, &[]);
    for speaks in PLAIN {
        let given = [("cookie", "a=b"), ("x-evil", "1"), ("x-evil", "2"), ("x-other", "3")];
        let answer = send(&world, speaks, "GET", "f.test/p?q", &given).await;
        let rows = [
            ("x-client", Some("127.0.0.1")),
            ("x-path", Some("/p?q")),
            ("cookie", None),
            ("x-evil", Some("mine")),
            ("x-other", Some("3")),
        ];
        for (name, value) in rows {
            assert_eq!(seen(&answer, name), value, "{speaks:?} {name}: {answer:?}");
        }
        assert_eq!(answer.body.matches("x-evil").count(), 1, "{answer:?}");
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        assert_eq!(answer.headers["x-literal"], "$remote_addr");
        assert!(!answer.headers.contains_key("x-endpoint"), "{answer:?}");
        let answer = send(&world, speaks, "GET", "bad.test/", &[]).await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
}

#[tokio::test]
async fn cookies_and_locations_of_endpoints() {
    let net = Net::new();
    let annotations = [
        ("proxy-cookie-domain", "internal.local example.org"),
        ("proxy-cookie-path", "/app/ /"),
        ("proxy-redirect-from", "http://internal.local/"),
        ("proxy-redirect-to", "https://example.org/"),
        ("connection-proxy-header", "close"),
    ];
    let yaml =
        service("a", &["127.N.N.10"]) + &with("c", &annotations, &[("c.test", "Prefix", "/", "a")]);
    let endpoint = Endpoint::answering(net.addr(10, 9000), |_| {
        "HTTP/1.1 302 Found\r\nset-cookie: a=1; Domain=.internal.local; Path=/app/x\r\n\
         set-cookie: b=2; Path=/\r\nlocation: http://internal.local/y\r\n\
         content-length: 0\r\n\r\n"
            .to_owned()
    })
    .await;
    let world = World::start_in(net, &yaml, &[]);
    for speaks in PLAIN {
        let answer = send(&world, speaks, "GET", "c.test/", &[]).await;
        assert_eq!(answer.headers["location"], "https://example.org/y", "{answer:?}");
        let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1; Domain=example.org; Path=/x", "b=2; Path=/"]);
    }
    for request in endpoint.seen() {
        assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
    }
}
