//! Who is let in: lists of addresses, limits of requests, users and passwords.

use std::time::{Duration, Instant};

use super::super::kit::{Client, Endpoint, Speaks, World, get, service};
use super::kit::{PLAIN, outcome, seen, send, services, with};
use crate::support::Net;

/// A proxy on loopback whose X-Forwarded-For is believed.
const TRUSTED: [&str; 2] = ["--trusted-proxies", "127.0.0.0/8"];

#[tokio::test]
async fn lists_of_addresses() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    let deny = ("denylist-source-range", "18.0.0.0/8, 56.0.0.1");
    let both = [
        ("denylist-source-range", "18.1.0.0/16, 56.0.0.0/8"),
        ("whitelist-source-range", "18.0.0.0/8, 55.0.0.0/8"),
    ];
    let aliases = [("whitelist-source-range", "9.9.9.9"), ("allowlist-source-range", "8.8.8.8")];
    for (name, annotations) in [
        ("deny", &[deny][..]),
        ("both", &both),
        ("bad", &[("whitelist-source-range", "abc")]),
        ("alias", &aliases),
        ("all", &[("whitelist-source-range", "0.0.0.0/0,::/0")]),
    ] {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", "/", "a")]);
    }
    let world = World::start_in(net, &yaml, &TRUSTED);
    let rows = [
        ("deny", "18.0.0.1", 403),
        ("deny", "56.0.0.1", 403),
        ("deny", "56.0.0.2", 200),
        ("both", "18.1.0.1", 403),
        ("both", "10.10.10.10", 403),
        ("both", "18.4.0.1", 200),
        ("both", "55.55.55.55", 200),
        ("bad", "18.4.0.1", 503),
        ("alias", "8.8.8.8", 200),
        ("alias", "9.9.9.9", 403),
        ("all", "2001:db8::1", 200),
    ];
    for speaks in PLAIN {
        for (host, client, status) in rows {
            let forwarded = [("x-forwarded-for", client)];
            let answer = send(&world, speaks, "GET", &format!("{host}.test/"), &forwarded).await;
            assert_eq!(answer.status, status, "{speaks:?} {host} {client}: {answer:?}");
        }
    }
}

/// How many of so many requests at once get each status.
async fn at_once(world: &World, host: &str, count: usize, client: &str) -> Vec<(u16, usize)> {
    let sent = (0..count).map(|_| async {
        let fields = [("x-forwarded-for", client)];
        send(world, Speaks::Http1, "GET", &format!("{host}/"), &fields).await.status
    });
    let statuses = futures_util::future::join_all(sent).await;
    let mut counts = std::collections::BTreeMap::new();
    for status in statuses {
        *counts.entry(status).or_default() += 1;
    }
    counts.into_iter().collect()
}

#[tokio::test]
async fn limits_of_requests() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    // So few that none becomes free again while the test runs.
    for (name, annotations) in [
        ("rpm", &[("limit-rpm", "1")][..]),
        ("burst", &[("limit-rpm", "1"), ("limit-burst-multiplier", "2")]),
        ("free", &[("limit-rpm", "1"), ("limit-whitelist", "10.0.0.0/8")]),
        ("window", &[("global-rate-limit", "3"), ("global-rate-limit-window", "24h")]),
        ("zero", &[("limit-rps", "0")]),
        ("bad", &[("limit-rps", "5k")]),
    ] {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", "/", "a")]);
    }
    let world = World::start_in(net, &yaml, &TRUSTED);
    type Row<'r> = (&'r str, &'r str, &'r [(u16, usize)]);
    let rows: [Row<'_>; 8] = [
        ("rpm.test", "1.2.3.4", &[(200, 6), (503, 4)]),
        ("rpm.test", "1.2.3.5", &[(200, 6), (503, 4)]),
        ("burst.test", "1.2.3.4", &[(200, 3), (503, 7)]),
        ("free.test", "10.1.1.1", &[(200, 10)]),
        ("free.test", "11.1.1.1", &[(200, 6), (503, 4)]),
        ("window.test", "1.2.3.4", &[(200, 3), (429, 7)]),
        ("zero.test", "1.2.3.4", &[(200, 10)]),
        ("bad.test", "1.2.3.4", &[(503, 10)]),
    ];
    for (host, client, expected) in rows {
        assert_eq!(at_once(&world, host, 10, client).await, expected, "{host} {client}");
    }
    // Clients of one /64 are one.
    for (at, expected) in [("2001:db8::1", 6), ("2001:db8::2", 0), ("2001:db8:0:1::1", 6)] {
        let counts = at_once(&world, "rpm.test", 10, at).await;
        let served = counts.iter().find(|(status, _)| *status == 200).map_or(0, |(_, n)| *n);
        assert_eq!(served, expected, "{at}");
    }
    // An edit of something else forgets nothing.
    yaml += &with("other", &[], &[("other.test", "Prefix", "/", "a")]);
    let more = yaml.replace("rpm: \"1\"", "rpm: \"1\"\n    example.org/x: y");
    assert_ne!(more, yaml);
    world.replace(&more);
    super::super::kit::eventually("the new host is served", async || {
        (get(&world, Speaks::Http1, "other.test", "/").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(at_once(&world, "rpm.test", 3, "1.2.3.4").await, [(503, 3)]);
}

#[tokio::test]
async fn requests_in_flight_of_one_client() {
    let net = Net::new();
    let yaml = service("a", &["127.N.N.10"])
        + &with("c", &[("limit-connections", "8")], &[("c.test", "Prefix", "/", "a")]);
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let waits = release.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let waits = waits.clone();
        async move {
            use tokio::io::AsyncWriteExt as _;
            let mut buffer = Vec::new();
            let read = super::super::kit::read_request(&mut stream, &mut buffer);
            if read.await.is_some() {
                waits.notified().await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let world = World::start_in(net, &yaml, &TRUSTED);
    for speaks in PLAIN {
        let mut refused = 0;
        let mut sent: futures_util::stream::FuturesUnordered<_> = (0..20)
            .map(|_| async { send(&world, speaks, "GET", "c.test/", &[]).await.status })
            .collect();
        use futures_util::StreamExt as _;
        while refused < 12 {
            assert_eq!(sent.next().await, Some(503), "{speaks:?}");
            refused += 1;
        }
        let mut served = 0;
        while served < 8 {
            release.notify_waiters();
            if let Ok(status) = tokio::time::timeout(Duration::from_millis(50), sent.next()).await {
                assert_eq!(status, Some(200), "{speaks:?}");
                served += 1;
            }
        }
    }
}

#[tokio::test]
async fn the_pace_of_bodies() {
    let net = Net::new();
    let rate = [("limit-rate", "64"), ("limit-rate-after", "64")];
    let yaml = service("a", &["127.N.N.10"]) + &with("r", &rate, &[("r.test", "Prefix", "/", "a")]);
    let body = "x".repeat(192 << 10);
    let _endpoint = Endpoint::answering(net.addr(10, 9000), move |_| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    })
    .await;
    let world = World::start_in(net, &yaml, &["--read-timeout", "1s"]);
    for speaks in PLAIN {
        let begun = Instant::now();
        let answer = get(&world, speaks, "r.test", "/").await;
        assert_eq!(answer.body.len(), 192 << 10);
        // 128 KiB at 64 KiB a second, but for the last piece, which nothing follows.
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    }
}

/// `foo:bar` as htpasswd writes it.
const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuUq7qXkDOZJ5Q8HA9wCOH0FErWp6q0b6";

fn secret(name: &str, key: &str, value: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\n\
         type: Opaque\nstringData: {{{key}: '{value}'}}\n"
    )
}

#[tokio::test]
async fn users_and_passwords() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    yaml += &secret("file", "auth", &format!("foo:{BCRYPT}"));
    yaml += &secret("map", "foo", BCRYPT);
    yaml += &secret("empty", "auth", "foo:");
    yaml += &secret("nokey", "other", "foo:bar");
    let basic = ("auth-type", "basic");
    let of = |secret| ("auth-secret", secret);
    let any = ("satisfy", "any");
    let allow = ("whitelist-source-range", "10.0.0.0/8");
    for (name, annotations) in [
        ("file", &[basic, of("default/file"), ("auth-realm", "My realm")][..]),
        ("map", &[basic, of("map"), ("auth-secret-type", "auth-map")]),
        ("empty", &[basic, of("empty")]),
        ("absent", &[basic, of("absent")]),
        ("nokey", &[basic, of("nokey")]),
        ("foreign", &[basic, of("other/file")]),
        ("none", &[basic]),
        ("digest", &[("auth-type", "digest"), of("file")]),
        ("cors", &[basic, of("file"), ("enable-cors", "true")]),
        ("any", &[basic, of("file"), any, allow]),
        ("both", &[basic, of("file"), allow]),
    ] {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", "/", "a")]);
    }
    let acme = "/.well-known/acme-challenge/x";
    yaml += &with("acme", &[basic, of("file")], &[("acme.test", "Prefix", acme, "a")]);
    let world = World::start_in(net, &yaml, &TRUSTED);
    let right = ("authorization", "Basic Zm9vOmJhcg==");
    let wrong = ("authorization", "Basic Zm9vOmJheg==");
    let inside = ("x-forwarded-for", "10.1.1.1");
    type Row<'r> = (&'r str, &'r [(&'r str, &'r str)], u16);
    let rows: [Row<'_>; 24] = [
        ("file", &[], 401),
        ("file", &[wrong], 401),
        ("file", &[right], 200),
        ("file", &[right], 200),
        ("file", &[("authorization", "Bearer x")], 401),
        ("map", &[right], 200),
        ("map", &[wrong], 401),
        ("empty", &[right], 401),
        ("empty", &[("authorization", "Basic Zm9vOg==")], 401),
        ("absent", &[right], 503),
        ("nokey", &[right], 503),
        ("foreign", &[right], 503),
        ("none", &[right], 503),
        ("digest", &[right], 503),
        ("cors", &[], 401),
        ("any", &[], 401),
        ("any", &[right], 200),
        ("any", &[inside], 200),
        ("any", &[inside, wrong], 200),
        ("both", &[right], 403),
        ("both", &[inside], 401),
        ("both", &[inside, right], 200),
        ("acme", &[], 404),
        ("any", &[wrong], 401),
    ];
    for speaks in PLAIN {
        for (host, fields, status) in rows {
            let answer = send(&world, speaks, "GET", &format!("{host}.test/"), fields).await;
            assert_eq!(answer.status, status, "{speaks:?} {host} {fields:?}: {answer:?}");
            if status == 200 {
                assert_eq!(seen(&answer, "authorization"), None, "{host}: {answer:?}");
            }
            let challenge = answer.headers.get("www-authenticate");
            assert_eq!(challenge.is_some(), status == 401, "{host}: {answer:?}");
            if host == "file" && status == 401 {
                assert_eq!(challenge.unwrap(), "Basic realm=\"My realm\"");
            }
            if host == "cors" {
                assert_eq!(answer.headers["access-control-allow-origin"], "*");
            }
        }
        let answer = get(&world, speaks, "acme.test", acme).await;
        assert_eq!(outcome(&answer), format!("a {acme}"));
    }
    // The cache of what was right ends with the Secret.
    world.replace(&yaml.replace(&format!("foo:{BCRYPT}"), "foo:{PLAIN}other"));
    super::super::kit::eventually("the old password is refused", async || {
        let answer = send(&world, Speaks::Http1, "GET", "file.test/", &[right]).await;
        (answer.status == 401).then_some(())
    })
    .await;
}

/// A slow hash is computed on no thread that serves requests.
#[tokio::test]
async fn a_slow_hash_delays_nobody_else() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    // 64 times as slow as the others.
    let slow = BCRYPT.replace("$05$", "$11$");
    yaml += &secret("slow", "auth", &format!("foo:{slow}"));
    let annotations = [("auth-type", "basic"), ("auth-secret", "slow")];
    yaml += &with("slow", &annotations, &[("slow.test", "Prefix", "/", "a")]);
    yaml += &with("plain", &[], &[("plain.test", "Prefix", "/", "a")]);
    let world = World::start_in(net, &yaml, &["--workers", "1"]);
    let wrong = [("authorization", "Basic Zm9vOmJheg==")];
    let slow = send(&world, Speaks::Http1, "GET", "slow.test/", &wrong);
    let mut slow = std::pin::pin!(slow);
    let mut client = Client::connect(&world, Speaks::Http1, "plain.test").await;
    let mut served = 0;
    loop {
        tokio::select! {
            answer = &mut slow => {
                assert_eq!(answer.status, 401);
                break;
            }
            answer = client.get("plain.test", "/") => {
                assert_eq!(answer.status, 200);
                served += 1;
            }
        }
    }
    assert!(served > 3, "only {served} requests beside one slow hash");
}
