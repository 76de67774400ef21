//! Regular expressions, rewrites, further names of hosts, and what endpoints are told of both.

use super::super::kit::{World, get};
use super::kit::{PLAIN, check, outcome, seen, send, services, with};
use crate::support::Net;

const ANY: &str = "ImplementationSpecific";

#[tokio::test]
async fn rewrites_and_patterns() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a", "b"]).await;
    let rewrite = "rewrite-target";
    let regex = ("use-regex", "true");
    for ingress in [
        with("r1", &[(rewrite, "/")], &[("r1.test", "Prefix", "/something", "a")]),
        with("r2", &[(rewrite, "/new/backend")], &[("r2.test", "Prefix", "/", "a")]),
        with("r2-plain", &[], &[("r2.test", "Prefix", "/.well-known/acme/challenge", "b")]),
        with("r3", &[regex, (rewrite, "/new/backend")], &[("r3.test", ANY, "/foo.+", "a")]),
        with("r3-plain", &[], &[("r3.test", "Prefix", "/foo", "b")]),
        with(
            "r4",
            &[regex, (rewrite, "/new/backend")],
            &[("r4.test", ANY, "'/foo/bar/[a-z]{3}'", "a")],
        ),
        with("r4-plain", &[], &[("r4.test", "Prefix", "/foo/bar/bar", "b")]),
        with(
            "r5",
            &[regex, (rewrite, "/new/backend/$1")],
            &[("r5.test", ANY, "'/foo/bar/(.+)'", "a")],
        ),
        with("r6", &[regex], &[("r6.test", ANY, "'/[A-Z]{3}'", "a")]),
        with("r6-exact", &[], &[("r6.test", "Exact", "/headers-x", "b")]),
        with("r7", &[(rewrite, "/$2")], &[("r7.test", ANY, "'/app(/|$)(.*)'", "a")]),
        with("r8", &[(rewrite, "https://other.test/$1")], &[("r8.test", ANY, "/x/(.*)", "a")]),
        with("bad", &[regex], &[("bad.test", ANY, "/api/(?!x).*", "a")]),
        with("bad-plain", &[], &[("bad.test", "Prefix", "/", "b")]),
        with("bad-target", &[(rewrite, "/$host")], &[("bad2.test", "Prefix", "/", "b")]),
    ] {
        yaml += &ingress;
    }
    let world = World::start_in(net, &yaml, &[]);
    let rows = [
        ("r1.test", "/something", "a /"),
        ("r1.test", "/something?x=1", "a /?x=1"),
        ("r1.test", "/something/else", "a /"),
        ("r1.test", "/other", "404"),
        ("r2.test", "/.well-known/acme/challenge", "b /.well-known/acme/challenge"),
        ("r2.test", "/x", "a /new/backend"),
        ("r3.test", "/foo", "b /foo"),
        ("r3.test", "/foo/bar", "a /new/backend"),
        ("r4.test", "/foo/bar/bar", "a /new/backend"),
        ("r5.test", "/foo/bar/bar", "a /new/backend/bar"),
        ("r5.test", "/foo/bar/../../foo/bar/%7Eb?q=/..", "a /new/backend/~b?q=/.."),
        ("r6.test", "/HEADERS-X/y", "b /HEADERS-X/y"),
        ("r6.test", "/uuid", "a /uuid"),
        ("r7.test", "/app", "a /"),
        ("r7.test", "/app/x/y", "a /x/y"),
        ("r7.test", "/app//x/%2e%2e/y", "a /y"),
        ("r7.test", "/apple", "404"),
        ("r8.test", "/x/y?z=1", "302 https://other.test/y?z=1"),
        ("bad.test", "/api/y", "503"),
        ("bad.test", "/other", "b /other"),
        ("bad2.test", "/", "503"),
    ];
    check(&world, &rows).await;
    let problems = world.problems();
    let has = |text: &str| problems.iter().any(|problem| problem.contains(text));
    assert!(has("default/bad: host bad.test: path /api/(?!x).* is not a valid"), "{problems:#?}");
    assert!(has("default/r3-plain: host r3.test: paths match as regular"), "{problems:#?}");
    assert!(has("rewrite-target is invalid"), "{problems:#?}");
}

#[tokio::test]
async fn what_endpoints_are_told() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    let prefix = |value| ("x-forwarded-prefix", value);
    let target = ("rewrite-target", "/foo");
    for (name, annotations) in [
        ("p1", &[prefix("/test/value"), target][..]),
        ("p2", &[prefix(""), target]),
        ("p3", &[prefix("/test/value")]),
        ("v1", &[("upstream-vhost", "b.com")]),
        ("v2", &[("upstream-vhost", "$service_name.$namespace.svc.cluster.local")]),
    ] {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", "/", "a")]);
    }
    let world = World::start_in(net, &yaml, &[]);
    let rows = [
        ("p1.test", "x-forwarded-prefix", Some("/test/value")),
        ("p2.test", "x-forwarded-prefix", None),
        ("p3.test", "x-forwarded-prefix", None),
        ("v1.test", "host", Some("b.com")),
        ("v1.test", "x-forwarded-host", Some("v1.test")),
        ("v2.test", "host", Some("a.default.svc.cluster.local")),
    ];
    for speaks in PLAIN {
        for (host, name, expected) in rows {
            let evil = [("x-forwarded-prefix", "/evil")];
            let answer = send(&world, speaks, "GET", &format!("{host}/x"), &evil).await;
            assert_eq!(seen(&answer, name), expected, "{speaks:?} {host}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn further_names_of_a_host() {
    let net = Net::new();
    let (services, _running) = services(net, &["a", "b"]).await;
    let alias = [("server-alias", "bar.test, *.wild.test, ~^x\\d+$")];
    let aliased = with("one", &alias, &[("foo.test", "Prefix", "/app-b", "b")]);
    let plain = with("two", &[], &[("foo.test", "Prefix", "/app-a", "a")]);
    let world = World::start_in(net, &(services.clone() + &aliased + &plain), &[]);
    let rows = [
        ("foo.test", "/app-a", "a /app-a"),
        ("bar.test", "/app-a", "a /app-a"),
        ("bar.test", "/app-b", "b /app-b"),
        ("x.wild.test", "/app-b", "b /app-b"),
        ("wild.test", "/app-b", "404"),
        ("other.test", "/app-a", "404"),
        ("bar.test", "/none", "404"),
    ];
    check(&world, &rows).await;
    let problems = world.problems();
    assert!(problems.iter().any(|p| p.contains("names that are not served: ~^x")), "{problems:?}");

    // A rule's own host takes the name over, and gives it back.
    let own = with("own", &[], &[("bar.test", "Prefix", "/", "b")]);
    world.replace(&(services.clone() + &aliased + &plain + &own));
    becomes(&world, "bar.test", "/app-a", "b /app-a").await;
    world.replace(&(services.clone() + &aliased + &plain));
    becomes(&world, "bar.test", "/app-a", "a /app-a").await;
    world.replace(&(services + &plain));
    becomes(&world, "bar.test", "/app-a", "404").await;
}

async fn becomes(world: &World, host: &str, path: &str, expected: &str) {
    super::super::kit::eventually(expected, async || {
        let answer = get(world, PLAIN[0], host, path).await;
        (outcome(&answer) == expected).then_some(())
    })
    .await;
}
