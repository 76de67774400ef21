//! What serves in the place of endpoints that cannot, and in the place of errors.

use super::super::kit::{Endpoint, Speaks, World, get, service};
use super::kit::{PLAIN, seen, send, services, with};
use crate::support::Net;

#[tokio::test]
async fn errors_are_replaced() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["pages"]).await;
    yaml += &service("app", &["127.N.N.20"]);
    yaml += &service("empty", &[]);
    let _app = Endpoint::answering(net.addr(20, 9000), |seen| {
        let status = if seen.starts_with("GET /missing") { "404 Not Found" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nx-endpoint: app\r\ncontent-length: 3\r\n\r\napp")
    })
    .await;
    let backend = ("default-backend", "pages");
    let codes = ("custom-http-errors", "404, 413,502");
    for (name, annotations, service) in [
        ("gone", &[backend][..], "absent"),
        ("empty", &[backend], "empty"),
        ("codes", &[backend, codes], "app"),
        ("pass", &[backend, codes, ("disable-proxy-intercept-errors", "true")], "app"),
        ("own", &[backend, codes, ("proxy-body-size", "1k")], "app"),
        ("nowhere", &[codes], "app"),
        ("noback", &[("default-backend", "nothing")], "empty"),
    ] {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", "/", service)]);
    }
    let world = World::start_in(net, &yaml, &[]);
    for speaks in PLAIN {
        let accept = [("accept", "text/html")];
        let answer = send(&world, speaks, "GET", "gone.test/alma/armud?x", &accept).await;
        assert!(answer.body.starts_with("pages\nGET /alma/armud?x HTTP/1.1"), "{answer:?}");
        for (name, value) in [
            ("x-code", "503"),
            ("x-format", "text/html"),
            ("x-namespace", "default"),
            ("x-ingress-name", "gone"),
            ("x-service-name", "absent"),
            ("x-service-port", "80"),
        ] {
            assert_eq!(seen(&answer, name), Some(value), "{name}: {answer:?}");
        }
        assert!(seen(&answer, "x-request-id").is_some(), "{answer:?}");
        let answer = get(&world, speaks, "empty.test", "/").await;
        assert_eq!((answer.status, seen(&answer, "x-code")), (200, Some("503")));

        let answer = get(&world, speaks, "codes.test", "/missing?a").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.starts_with("pages\nGET / HTTP/1.1"), "{answer:?}");
        assert_eq!(seen(&answer, "x-code"), Some("404"));
        assert_eq!(seen(&answer, "x-original-uri"), Some("/missing?a"));
        assert_eq!(answer.body.matches("x-code").count(), 1, "{answer:?}");
        assert_eq!(get(&world, speaks, "codes.test", "/here").await.body, "app");
        assert_eq!(get(&world, speaks, "pass.test", "/missing").await.status, 404);
        assert_eq!(get(&world, speaks, "nowhere.test", "/missing").await.status, 404);
        assert_eq!(get(&world, speaks, "noback.test", "/").await.status, 503);

        // An error of our own.
        if speaks == Speaks::Http1 {
            let raw = "POST / HTTP/1.1\r\nHost: own.test\r\nContent-Length: 2000\r\n\r\n";
            let answer = super::super::kit::raw(world.http, raw.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("x-code: 413\r\n"), "{answer}");
        }
    }
    let problems = world.problems();
    let has = |text: &str| problems.iter().any(|problem| problem.contains(text));
    assert!(has("default/nowhere: custom-http-errors needs default-backend"), "{problems:#?}");
    assert!(has("default/noback: default-backend: Service default/nothing does"), "{problems:#?}");
}

/// Who is not let in was served by the default backend of a route without an endpoint.
#[tokio::test]
async fn a_default_backend_asks_as_its_route_does() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["pages"]).await;
    yaml += &service("empty", &[]);
    yaml += "---\napiVersion: v1\nkind: Secret\nmetadata: {name: users, namespace: default}\n\
             stringData: {auth: 'foo:{PLAIN}bar'}\n";
    let backend = ("default-backend", "pages");
    let basic = ("auth-type", "basic");
    let secret = ("auth-secret", "users");
    let allow = ("whitelist-source-range", "192.0.2.0/24");
    let any = ("satisfy", "any");
    // Nobody answers there, so that nobody is let in.
    let nobody = ("auth-url", "http://127.0.0.1:9/");
    for (name, annotations) in [
        ("basic", &[backend, basic, secret][..]),
        ("any", &[backend, basic, secret, allow, any]),
        ("listed", &[backend, allow]),
        ("asked", &[backend, nobody]),
    ] {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", "/", "empty")]);
    }
    let world = World::start_in(net, &yaml, &[]);
    let right = [("authorization", "Basic Zm9vOmJhcg==")];
    for speaks in PLAIN {
        for (host, without, with) in [
            ("basic.test", 401, 200),
            ("any.test", 401, 200),
            ("listed.test", 403, 403),
            ("asked.test", 500, 500),
        ] {
            let answer = send(&world, speaks, "GET", host, &[]).await;
            assert_eq!(answer.status, without, "{host}: {answer:?}");
            let answer = send(&world, speaks, "GET", host, &right).await;
            assert_eq!(answer.status, with, "{host}: {answer:?}");
            if with == 200 {
                assert_eq!(seen(&answer, "x-code"), Some("503"));
                assert_eq!(seen(&answer, "authorization"), None);
            }
        }
    }
}
