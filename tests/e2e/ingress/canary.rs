//! Canaries: which requests go to the alternative of an Ingress.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::kit::{Answer, Client, Endpoint, Speaks, World, annotated, eventually, service};
use crate::support::Net;

const MAIN: &[&str] = &["127.N.N.2"];
const NEW: &[&str] = &["127.N.N.3"];

async fn endpoints(net: &Net) -> [Endpoint; 2] {
    [
        Endpoint::echo(net.addr(2, 9000), "main").await,
        Endpoint::echo(net.addr(3, 9000), "canary").await,
    ]
}

/// The manifests of a main Ingress and its canary, with annotations of ingress-nginx for each.
fn manifests(main: &[(&str, &str)], canary: &[(&str, &str)]) -> String {
    let prefixed = |annotations: &[(&str, &str)]| -> Vec<(String, String)> {
        let key = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
        annotations.iter().map(|(name, value)| (key(name), (*value).to_owned())).collect()
    };
    let ingress = |name: &str, service: &str, annotations: &[(String, String)]| {
        let pairs: Vec<_> = annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        match pairs.is_empty() {
            true => super::kit::ingress(name, &[("t.test", "Prefix", "/", service)]),
            false => annotated(name, "t.test", service, &pairs),
        }
    };
    let mut canary = prefixed(canary);
    canary.push(("nginx.ingress.kubernetes.io/canary".to_owned(), "true".to_owned()));
    // By name the canary comes first, and would win if it were an ordinary Ingress.
    service("main", MAIN)
        + &service("new", NEW)
        + &ingress("z-main", "main", &prefixed(main))
        + &ingress("a-canary", "new", &canary)
}

/// A request with these fields.
async fn send(world: &World, speaks: Speaks, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::get("http://t.test/");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let mut client = Client::connect(world, speaks, "t.test").await;
    Answer::read(client.send(request).await.unwrap()).await
}

/// Each request's fields, and which side answers it.
async fn check(canary: &[(&str, &str)], table: &[(&[(&str, &str)], &str)]) {
    let net = Net::new();
    let _endpoints = endpoints(&net).await;
    let world = World::start_in(net, &manifests(&[], canary), &[]);
    for (fields, expected) in table {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let answer = send(&world, speaks, fields).await;
            assert_eq!(answer.name(), *expected, "{canary:?} {fields:?} {speaks:?}");
        }
    }
}

#[tokio::test]
async fn a_header_decides() {
    let by = ("canary-by-header", "X-Side");
    let side = |value| [("x-side", value)];
    check(
        &[by],
        &[
            (&side("always"), "canary"),
            (&side("never"), "main"),
            (&side("other"), "main"),
            (&[], "main"),
        ],
    )
    .await;
    check(
        &[by, ("canary-by-header-value", "DoCanary")],
        &[(&side("DoCanary"), "canary"), (&side("always"), "main"), (&side("never"), "main")],
    )
    .await;
    check(
        &[by, ("canary-by-header-pattern", "^Do[A-Z][a-z]+y$")],
        &[(&side("DoCanary"), "canary"), (&side("Docanary"), "main")],
    )
    .await;
}

#[tokio::test]
async fn a_cookie_decides_after_the_header() {
    let header = ("canary-by-header", "X-Side");
    let cookie = ("canary-by-cookie", "side");
    check(
        &[cookie],
        &[
            (&[("cookie", "side=always")], "canary"),
            (&[("cookie", "side=never")], "main"),
            (&[("cookie", "side=bad")], "main"),
        ],
    )
    .await;
    let both = [("x-side", "x"), ("cookie", "side=always")];
    let bad = ("canary-by-header-pattern", "[][**da?$&*");
    check(&[header, bad, cookie], &[(&both, "main")]).await;
    check(&[header, ("canary-by-header-value", "y"), cookie], &[(&both, "canary")]).await;
}

#[tokio::test]
async fn a_weight_decides_exactly() {
    let net = Net::new();
    let _endpoints = endpoints(&net).await;
    let world = World::start_in(net, &manifests(&[], &[("canary-weight", "20")]), &[]);
    let mut canary = 0;
    for _ in 0..100 {
        let answer = send(&world, Speaks::Http1, &[]).await;
        canary += usize::from(answer.name() == "canary");
    }
    assert_eq!(canary, 20);
    for (weight, total, expected) in
        [("0", "100", "main"), ("100", "100", "canary"), ("1000", "1000", "canary")]
    {
        let rules = [("canary-weight", weight), ("canary-weight-total", total)];
        world.replace(&manifests(&[], &rules));
        eventually("ten of one side", || async {
            for _ in 0..10 {
                if send(&world, Speaks::Http1, &[]).await.name() != expected {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_canary_without_a_main_ingress_is_no_route() {
    let net = Net::new();
    let _endpoints = endpoints(&net).await;
    let all = manifests(&[], &[("canary-by-header", "x-side")]);
    let documents = all.split("---\n").filter(|document| !document.contains("name: z-main"));
    let alone: Vec<&str> = documents.collect();
    let world = World::start_in(net, &alone.join("---\n"), &[]);
    assert_eq!(send(&world, Speaks::Http1, &[("x-side", "always")]).await.status, 404);
    let problems = world.problems();
    assert!(
        problems.iter().any(|p| p.contains("no main Ingress of its namespace has it")),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_canary_without_endpoints_leaves_all_to_the_main_ingress() {
    let net = Net::new();
    let _endpoints = endpoints(&net).await;
    let all = manifests(&[], &[("canary-weight", "100"), ("auth-type", "basic")]);
    let world = World::start_in(net, &all.replace(&service("new", NEW), &service("new", &[])), &[]);
    assert_eq!(send(&world, Speaks::Http1, &[]).await.name(), "main");
    let problems = world.problems();
    assert!(
        problems.iter().any(|p| p.contains("auth-type has no effect on a canary")),
        "{problems:?}"
    );
}

/// The pair of the answer's affinity cookie.
fn session(answer: &Answer) -> Option<String> {
    let fields = answer.headers.get_all("set-cookie").iter();
    let mut values = fields.map(|value| value.to_str().unwrap());
    let field = values.find(|value| value.starts_with("INGRESSCOOKIE="))?;
    Some(field.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_client_stays_on_the_side_of_its_cookie() {
    let net = Net::new();
    let _endpoints = endpoints(&net).await;
    let rules = [("canary-by-header", "x-side"), ("canary-by-header-value", "yes")];
    let affinity = [("affinity", "cookie")];
    let world = World::start_in(net, &manifests(&affinity, &rules), &[]);
    let first = send(&world, Speaks::Http1, &[("x-side", "yes")]).await;
    assert_eq!(first.name(), "canary");
    let cookie = session(&first).expect("the canary sets the cookie");
    let second = send(&world, Speaks::Http1, &[("cookie", &cookie)]).await;
    assert_eq!((second.name(), session(&second)), ("canary", None));
    let main = send(&world, Speaks::Http1, &[]).await;
    let cookie = session(&main).expect("the main Ingress sets the cookie");
    let stays = send(&world, Speaks::Http1, &[("cookie", &cookie), ("x-side", "yes")]).await;
    assert_eq!(stays.name(), "main");

    let legacy = [rules[0], rules[1], ("affinity-canary-behavior", "legacy")];
    world.replace(&manifests(&affinity, &legacy));
    eventually("the canary sets no cookie", || async {
        let answer = send(&world, Speaks::Http1, &[("x-side", "yes"), ("cookie", &cookie)]).await;
        (answer.name() == "canary" && session(&answer).is_none()).then_some(())
    })
    .await;
}
