//! Cookie affinity: clients keep their endpoints.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::kit::{
    Answer, Client, Endpoint, Speaks, World, annotated, eventually, ingress, service,
};
use crate::support::Net;

/// The addresses of so many endpoints.
fn addresses(count: u8) -> Vec<String> {
    (2..2 + count).map(|last| format!("127.N.N.{last}")).collect()
}

fn web(count: u8) -> String {
    let addresses = addresses(count);
    service("web", &addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn endpoints(net: &Net, count: u8) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for last in 2..2 + count {
        endpoints.push(Endpoint::echo(net.addr(last, 9000), &format!("e{last}")).await);
    }
    endpoints
}

/// An Ingress with cookie affinity and more annotations of ingress-nginx.
fn sticky(annotations: &[(&str, &str)]) -> String {
    let key = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
    let mut all = vec![(key("affinity"), "cookie")];
    all.extend(annotations.iter().map(|(name, value)| (key(name), *value)));
    let pairs: Vec<_> = all.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    annotated("web", "t.test", "web", &pairs)
}

async fn send(world: &World, speaks: Speaks, path: &str, cookie: Option<&str>) -> Answer {
    let mut request = Request::get(format!("http://t.test{path}"));
    if let Some(cookie) = cookie {
        request = request.header("cookie", cookie);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let mut client = Client::connect(world, speaks, "t.test").await;
    Answer::read(client.send(request).await.unwrap()).await
}

/// The field that sets the affinity cookie, and its pair.
fn cookie(answer: &Answer, name: &str) -> Option<(String, String)> {
    let fields = answer.headers.get_all("set-cookie").iter();
    let mut values = fields.map(|value| value.to_str().unwrap());
    let field = values.find(|value| value.starts_with(&format!("{name}=")))?;
    Some((field.to_owned(), field.split(';').next().unwrap().to_owned()))
}

#[tokio::test]
async fn a_client_keeps_its_endpoint() {
    let net = Net::new();
    let _endpoints = endpoints(&net, 4).await;
    let world = World::start_in(net, &(web(4) + &sticky(&[])), &["--workers", "2"]);
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        let first = send(&world, Speaks::Http1, "/", None).await;
        let (field, pair) = cookie(&first, "INGRESSCOOKIE").expect("a new client gets a cookie");
        assert!(field.ends_with("; Path=/; HttpOnly"), "{field}");
        seen.insert(first.name().to_owned());
        for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Http1, Speaks::Http2] {
            let next = send(&world, speaks, "/", Some(&pair)).await;
            assert_eq!(next.name(), first.name());
            assert_eq!(cookie(&next, "INGRESSCOOKIE"), None, "it has its cookie already");
        }
    }
    assert_eq!(seen.len(), 4, "new clients take turns");
    // A cookie that leads nowhere is replaced.
    let bad = send(&world, Speaks::Http1, "/", Some("INGRESSCOOKIE=x|y")).await;
    assert!(cookie(&bad, "INGRESSCOOKIE").is_some());
}

#[tokio::test]
async fn attributes_of_the_cookie() {
    let net = Net::new();
    let _endpoints = endpoints(&net, 1).await;
    let annotations = [
        ("session-cookie-name", "SERVERID"),
        ("session-cookie-max-age", "259200"),
        ("session-cookie-expires", "172800"),
        ("session-cookie-domain", "foo.bar"),
        ("session-cookie-path", "/foo/bar"),
        ("session-cookie-samesite", "Lax"),
        ("session-cookie-secure", "true"),
    ];
    let world = World::start_in(net, &(web(1) + &sticky(&annotations)), &[]);
    let answer = send(&world, Speaks::Http1, "/", None).await;
    let (field, _) = cookie(&answer, "SERVERID").unwrap();
    let attributes =
        ["Max-Age=259200", "Domain=foo.bar", "Path=/foo/bar", "Secure", "SameSite=Lax"];
    for attribute in attributes {
        assert!(field.split("; ").any(|part| part == attribute), "{attribute}: {field}");
    }
    assert!(field.contains("; Expires=") && field.contains("GMT"), "{field}");
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cookie_over_https_is_secure_and_has_the_path_of_its_rule() {
    let net = Net::new();
    let _endpoints = endpoints(&net, 1).await;
    let manifest = sticky(&[("session-cookie-secure", "false")]).replace("path: /,", "path: /app,");
    let other = ingress("other", &[("t.test", "Prefix", "/plain", "web")]);
    let world = World::start_in(net, &(web(1) + &manifest + &other), &[]);
    let answer = send(&world, Speaks::Http2OverTls, "/app/x", None).await;
    let (field, _) = cookie(&answer, "INGRESSCOOKIE").unwrap();
    assert!(field.ends_with("; Path=/app; Secure; HttpOnly"), "{field}");
    let plain = send(&world, Speaks::Http1, "/app", None).await;
    assert!(cookie(&plain, "INGRESSCOOKIE").unwrap().0.ends_with("; Path=/app; HttpOnly"));
    // Another Ingress to the same Service has no affinity.
    let other = send(&world, Speaks::Http1, "/plain", None).await;
    assert_eq!((other.status, cookie(&other, "INGRESSCOOKIE")), (200, None));
}

#[tokio::test]
async fn a_persistent_client_stays_when_endpoints_come_and_gets_503_without_any() {
    let net = Net::new();
    let _endpoints = endpoints(&net, 15).await;
    let persistent = sticky(&[("affinity-mode", "persistent")]);
    let world = World::start_in(net, &(web(5) + &persistent), &[]);
    let mut clients = Vec::new();
    for _ in 0..5 {
        let first = send(&world, Speaks::Http1, "/", None).await;
        clients.push((cookie(&first, "INGRESSCOOKIE").unwrap().1, first.name().to_owned()));
    }
    world.replace(&(web(15) + &persistent));
    eventually("all endpoints are known", || async {
        let shown = world.ingress.admin_get("/snapshot").1;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        (shown["backends"][0]["endpoints"].as_array().unwrap().len() == 15).then_some(())
    })
    .await;
    for (pair, name) in &clients {
        assert_eq!(send(&world, Speaks::Http1, "/", Some(pair)).await.name(), name);
    }
    world.replace(&(web(0) + &persistent));
    eventually("503", || async {
        (send(&world, Speaks::Http1, "/", Some(&clients[0].0)).await.status == 503).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_whose_endpoint_fails_waits_for_it_or_changes() {
    for (changes, status) in [("false", 502), ("true", 200)] {
        let net = Net::new();
        let mut endpoints = endpoints(&net, 2).await;
        let change = ("session-cookie-change-on-failure", changes);
        let world = World::start_in(net, &(web(2) + &sticky(&[change])), &[]);
        let first = send(&world, Speaks::Http1, "/", None).await;
        let (_, pair) = cookie(&first, "INGRESSCOOKIE").unwrap();
        let own = usize::from(first.name() == "e3");
        endpoints.remove(own).stop().await;
        let answer = send(&world, Speaks::Http1, "/", Some(&pair)).await;
        assert_eq!(answer.status, status, "{changes}: {}", answer.body);
        assert_eq!(cookie(&answer, "INGRESSCOOKIE").is_some(), status == 200);
    }
}
