//! Hosts and paths: a table of requests and expected backends, over every version of HTTP.

use super::kit::{
    ALL, Client, Endpoint, Speaks, World, annotated, eventually, get, ingress, raw, service,
    status_of,
};
use crate::support::Net;

/// Services that each have one endpoint which answers with the Service's name.
async fn endpoints(net: Net, names: &[&str]) -> (String, Vec<Endpoint>) {
    let mut manifests = String::new();
    let mut running = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let last = 10 + at as u8;
        manifests += &service(name, &[&format!("127.N.N.{last}")]);
        running.push(Endpoint::echo(net.addr(last, 9000), name).await);
    }
    (manifests, running)
}

/// Sends each request over every version and compares the endpoint that answered, or the status.
async fn check(world: &World, requests: &[(&str, &str, &str)]) {
    for speaks in ALL {
        for (host, path, expected) in requests {
            let answer = get(world, speaks, host, path).await;
            let status = answer.status.to_string();
            let found = if answer.status == 200 { answer.name() } else { &status };
            assert_eq!(found, *expected, "{speaks:?} {host}{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_path_table() {
    let net = Net::new();
    let names = ["exact", "slash", "prefix", "aaa", "bbb", "both-e", "both-p", "trail", "root"];
    let (services, _running) = endpoints(net, &names).await;
    let rules = [
        ("exact.com", "Exact", "/foo", "exact"),
        ("slash.com", "Exact", "/foo/", "slash"),
        ("prefix.com", "Prefix", "/foo", "prefix"),
        ("nested.com", "Prefix", "/aaa", "aaa"),
        ("nested.com", "Prefix", "/aaa/bbb", "bbb"),
        ("both.com", "Prefix", "/foo", "both-p"),
        ("both.com", "Exact", "/foo", "both-e"),
        ("trail.com", "Prefix", "/aaa/bbb/", "trail"),
        ("root.com", "Prefix", "/", "root"),
        ("escaped.com", "Prefix", "/café", "aaa"),
        ("escaped.com", "Exact", "/a b", "bbb"),
    ];
    let world = World::start_in(net, &(services + &ingress("table", &rules)), &[]);
    let requests = [
        ("exact.com", "/foo", "exact"),
        ("exact.com", "/foo/", "404"),
        ("exact.com", "/FOO", "404"),
        ("exact.com", "/bar", "404"),
        ("escaped.com", "/caf%C3%A9/x", "aaa"),
        ("escaped.com", "/caf%c3%a9", "aaa"),
        ("escaped.com", "/a%20b", "bbb"),
        ("escaped.com", "/a%20b/", "404"),
        ("slash.com", "/foo/", "slash"),
        ("slash.com", "/foo", "404"),
        ("prefix.com", "/foo", "prefix"),
        ("prefix.com", "/foo/", "prefix"),
        ("prefix.com", "/foo/x?y=/z", "prefix"),
        ("prefix.com", "/FOO", "404"),
        ("prefix.com", "/foobar", "404"),
        ("nested.com", "/aaa/bbb", "bbb"),
        ("nested.com", "/aaa/bbb/ccc", "bbb"),
        ("nested.com", "/aaa/ccc", "aaa"),
        ("nested.com", "/aaaccc", "404"),
        ("both.com", "/foo", "both-e"),
        ("both.com", "/foo/x", "both-p"),
        ("trail.com", "/aaa/bbb", "trail"),
        ("trail.com", "/aaa/bbb/", "trail"),
        ("trail.com", "/aaa/bbbxyz", "404"),
        ("root.com", "/", "root"),
        ("root.com", "/any/path", "root"),
    ];
    check(&world, &requests).await;
}

#[tokio::test]
async fn the_host_table() {
    let net = Net::new();
    let (services, _running) = endpoints(net, &["wildcard", "exact"]).await;
    let mut rules = ingress(
        "hosts",
        &[("*.foo.com", "Prefix", "/", "wildcard"), ("foo.bar.com", "Prefix", "/", "exact")],
    );
    // The wildcard's backend is named by its port's name.
    rules = rules.replacen("number: 80", "name: http", 1);
    let foreign = annotated("foreign", "foreign.com", "exact", &[])
        .replace("ingressClassName: switchyard", "ingressClassName: other");
    let world = World::start_in(net, &(services + &rules + &foreign), &[]);
    let requests = [
        ("bar.foo.com", "/", "wildcard"),
        ("baz.bar.foo.com", "/", "404"),
        ("foo.com", "/", "404"),
        ("foo.bar.com", "/", "exact"),
        ("Foo.Bar.COM:8080", "/", "exact"),
        ("foreign.com", "/", "404"),
        ("other.com", "/", "404"),
    ];
    check(&world, &requests).await;
    let answer =
        raw(world.http, b"GET / HTTP/1.1\r\nHost: foo.bar.com.\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status_of(&answer), 200, "{answer}");
    let answer = get(&world, Speaks::Http2, "Bar.Foo.com:8080", "/").await;
    assert!(answer.body.contains("\r\nhost: Bar.Foo.com:8080\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn a_default_backend_gets_everything_unchanged() {
    let net = Net::new();
    let (services, running) = endpoints(net, &["default"]).await;
    let only_default = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n\
        metadata: {name: all, namespace: default}\nspec:\n  ingressClassName: switchyard\n  \
        defaultBackend: {service: {name: default, port: {number: 80}}}\n";
    let world = World::start_in(net, &(services + only_default), &[]);
    check(&world, &[("any.com", "/any/path", "default"), ("127.0.0.1", "/", "default")]).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let request =
            format!("{method} /some/path?q=1 HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n");
        assert_eq!(status_of(&raw(world.http, request.as_bytes()).await), 200, "{method}");
        let seen = running[0].seen().pop().unwrap();
        assert!(seen.starts_with(&format!("{method} /some/path?q=1 HTTP/1.1\r\n")), "{seen}");
    }
    for method in ["CONNECT", "TRACE"] {
        let target = if method == "CONNECT" { "a.com:80" } else { "/" };
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: a.com:80\r\nConnection: close\r\n\r\n");
        assert_eq!(status_of(&raw(world.http, request.as_bytes()).await), 405, "{method}");
    }
}

#[tokio::test]
async fn what_was_matched_is_what_is_forwarded() {
    let net = Net::new();
    let (services, running) = endpoints(net, &["admin", "public"]).await;
    let rules = [("a.com", "Prefix", "/admin", "admin"), ("a.com", "Prefix", "/", "public")];
    let world = World::start_in(net, &(services + &ingress("paths", &rules)), &[]);
    let table = [
        ("/public/../admin/x", 0, "/admin/x"),
        ("/public/%2e%2E/admin", 0, "/admin"),
        ("//admin//x", 0, "/admin/x"),
        ("/./admin/", 0, "/admin/"),
        ("/%61dmin", 0, "/admin"),
        ("/x%2Fadmin", 1, "/x%2Fadmin"),
        ("/admin%2F..%2Fx", 1, "/admin%2F..%2Fx"),
        ("/admin/../x?a=../b%2e", 1, "/x?a=../b%2e"),
        ("/../../x", 1, "/x"),
    ];
    for (path, endpoint, forwarded) in table {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n");
        let answer = raw(world.http, request.as_bytes()).await;
        assert_eq!(status_of(&answer), 200, "{path}");
        let seen: Vec<_> = running.iter().map(|e| e.seen().len()).collect();
        let last = running[endpoint].seen().pop().unwrap_or_default();
        let line = format!("GET {forwarded} HTTP/1.1\r\n");
        assert!(last.starts_with(&line), "{path}: {last:?} {seen:?}");
    }
    for path in ["/%zz", "/%", "/a%00b", "*"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n");
        assert_eq!(status_of(&raw(world.http, request.as_bytes()).await), 400, "{path}");
    }
}

#[tokio::test]
async fn requests_go_round_evenly() {
    let net = Net::new();
    let mut running = Vec::new();
    let mut addresses = Vec::new();
    for at in 0..10 {
        running.push(Endpoint::echo(net.addr(10 + at, 9000), &at.to_string()).await);
        addresses.push(format!("127.N.N.{}", 10 + at));
    }
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let three = &addresses[..3];
    let manifests = service("ten", &addresses)
        + &service("three", three)
        + &ingress(
            "i",
            &[("ten.com", "Prefix", "/", "ten"), ("three.com", "Prefix", "/", "three")],
        );
    let world = World::start_in(net, &manifests, &["--workers", "2"]);
    for (host, requests, each) in [("ten.com", 100, 10), ("three.com", 300, 100)] {
        let before: Vec<_> = running.iter().map(|e| e.seen().len()).collect();
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let mut client = Client::connect(&world, speaks, host).await;
            for _ in 0..requests / 4 {
                assert_eq!(client.get(host, "/").await.status, 200);
            }
            // Each on its own connection, so that more than one worker serves.
            for _ in 0..requests / 4 {
                assert_eq!(get(&world, speaks, host, "/").await.status, 200);
            }
        }
        let counts: Vec<_> = running
            .iter()
            .zip(before)
            .map(|(e, b)| e.seen().len() - b)
            .filter(|n| *n > 0)
            .collect();
        assert!(counts.iter().all(|n| *n == each), "{host}: {counts:?}");
        assert_eq!(counts.len(), requests / each, "{host}: {counts:?}");
    }
}

#[tokio::test]
async fn conflicts_and_missing_things_are_reported_and_cost_nobody_else() {
    let net = Net::new();
    let (services, _running) = endpoints(net, &["web"]).await;
    let first = annotated(
        "first",
        "a.com",
        "web",
        &[("nginx.ingress.kubernetes.io/configuration-snippet", "deny all;")],
    );
    let second = annotated(
        "second",
        "a.com",
        "missing",
        &[("nginx.ingress.kubernetes.io/server-snippet", "deny all;")],
    );
    let third = ingress("third", &[("gone.com", "Prefix", "/", "missing")]);
    let empty =
        ingress("fourth", &[("empty.com", "Prefix", "/", "empty")]) + &service("empty", &[]);
    let closed = annotated(
        "fifth",
        "closed.com",
        "web",
        &[("nginx.ingress.kubernetes.io/whitelist-source-range", "10.0.0.0/80")],
    );
    let plain = ingress("sixth", &[("plain.com", "Prefix", "/", "web")]);
    let all = services + &first + &second + &third + &empty + &closed + &plain;
    let world = World::start_in(net, &all, &[]);
    check(
        &world,
        &[
            ("a.com", "/", "503"),
            ("gone.com", "/", "503"),
            ("empty.com", "/", "503"),
            ("closed.com", "/", "503"),
            ("plain.com", "/", "web"),
            ("none.com", "/", "404"),
        ],
    )
    .await;
    let problems = world.problems();
    for expected in [
        "default/first: annotation nginx.ingress.kubernetes.io/configuration-snippet is nginx",
        "default/second: host a.com, Prefix path /: Ingress default/first has it already",
        "default/second: annotation nginx.ingress.kubernetes.io/server-snippet is nginx",
        "default/third: backend default/missing:80: the Service does not exist",
        "default/fourth: backend default/empty:80: the Service has no ready endpoint",
        "default/fifth: annotation nginx.ingress.kubernetes.io/whitelist-source-range is invalid",
    ] {
        assert!(problems.iter().any(|p| p.starts_with(expected)), "{expected}: {problems:#?}");
    }
    let answer = get(&world, Speaks::Http1, "plain.com", "/").await;
    assert!(!answer.headers.contains_key("retry-after"));
    let answer = get(&world, Speaks::Http1, "gone.com", "/").await;
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(!answer.body.contains("missing"), "no names of Services to clients: {}", answer.body);
}

/// A canary was served as a plain rule: 20 of 20 requests went to it.
#[tokio::test]
async fn a_canary_of_weight_zero_gets_no_request() {
    let net = Net::new();
    let (services, _running) = endpoints(net, &["main", "canary"]).await;
    let prefix = "nginx.ingress.kubernetes.io";
    let canary = annotated(
        "a-canary",
        "a.com",
        "canary",
        &[(&format!("{prefix}/canary"), "true"), (&format!("{prefix}/canary-weight"), "0")],
    );
    let main = ingress("main", &[("a.com", "Prefix", "/", "main")]);
    let world = World::start_in(net, &(services + &canary + &main), &[]);
    for _ in 0..5 {
        check(&world, &[("a.com", "/", "main")]).await;
    }
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn redirects_to_https_where_asked() {
    let net = Net::new();
    let (services, _running) = endpoints(net, &["web"]).await;
    let forced =
        annotated("forced", "a.com", "web", &[("switchyard.dev/force-ssl-redirect", "true")]);
    let world = World::start_in(net, &(services + &forced), &["--trusted-proxies", "127.0.0.0/8"]);
    let location = |answer: &super::kit::Answer| {
        assert_eq!(answer.status, 308, "{answer:?}");
        answer.headers["location"].to_str().unwrap().to_owned()
    };
    let answer = get(&world, Speaks::Http1, "a.com", "/x/../y?z=1").await;
    assert_eq!(location(&answer), "https://a.com/y?z=1");
    let answer = get(&world, Speaks::Http2, "A.com:8080", "/").await;
    assert_eq!(location(&answer), "https://a.com:8443/");
    assert_eq!(get(&world, Speaks::Http2OverTls, "a.com", "/").await.name(), "web");
    let answer = raw(
        world.http,
        b"GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-Proto: https\r\n\
        Connection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status_of(&answer), 200, "the proxy before us has done it: {answer}");
}

#[tokio::test]
async fn an_unready_service_is_served_once_it_is_ready() {
    let net = Net::new();
    let _running = Endpoint::echo(net.addr(10, 9000), "web").await;
    let rules = ingress("i", &[("a.com", "Prefix", "/", "web")]);
    let world = World::start_in(net, &(rules.clone() + &service("web", &[])), &[]);
    assert_eq!(get(&world, Speaks::Http1, "a.com", "/").await.status, 503);
    world.replace(&(rules + &service("web", &["127.N.N.10"])));
    eventually("served", || async {
        (get(&world, Speaks::Http1, "a.com", "/").await.status == 200).then_some(())
    })
    .await;
    assert!(world.problems().is_empty(), "{:?}", world.problems());
}
