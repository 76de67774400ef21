//! Redirects, and the order in which they are answered.

use super::super::kit::{Speaks, World, get};
use super::kit::{check, outcome, services, with};
use crate::support::Net;

#[tokio::test]
async fn the_table_of_redirects() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    let permanent = ("permanent-redirect", "http://r.example.com");
    let temporal = ("temporal-redirect", "http://t.example.com");
    let ssl = ("force-ssl-redirect", "true");
    type Row<'r> = (&'r str, &'r [(&'r str, &'r str)], &'r str);
    let table: [Row<'_>; 14] = [
        ("app", &[("app-root", "/foo")], "/"),
        ("app2", &[("app-root", "foo")], "/"),
        ("perm", &[permanent], "/something"),
        ("p302", &[permanent, ("permanent-redirect-code", "302")], "/"),
        ("p200", &[permanent, ("permanent-redirect-code", "200")], "/"),
        ("t308", &[temporal, ("temporal-redirect-code", "308")], "/"),
        ("t307", &[temporal, ("temporal-redirect-code", "307")], "/"),
        ("both", &[permanent, temporal], "/"),
        ("abs", &[("permanent-redirect", "/p"), ("relative-redirects", "false")], "/"),
        ("rel", &[("permanent-redirect", "/p"), ("relative-redirects", "true")], "/"),
        ("vars", &[("permanent-redirect", "https://new.example.com$request_uri")], "/"),
        ("order", &[permanent, ssl], "/"),
        ("bad", &[("permanent-redirect", "ftp://x")], "/"),
        ("port", &[ssl, ("use-port-in-redirects", "true")], "/"),
    ];
    for (name, annotations, path) in table {
        yaml += &with(name, annotations, &[(&format!("{name}.test"), "Prefix", path, "a")]);
    }
    // A redirect needs no Service.
    yaml += &with("none", &[permanent], &[("none.test", "Prefix", "/", "absent")]);
    yaml += &with("ssl", &[ssl], &[("ssl.test", "Prefix", "/", "a")]);
    let acme = "/.well-known/acme-challenge/x";
    yaml += &with("acme", &[ssl], &[("ssl.test", "Prefix", acme, "a")]);
    yaml += &with("app3", &[("app-root", "/in")], &[("app3.test", "Prefix", "/deep", "a")]);
    let world = World::start_in(net, &yaml, &[]);
    let port = world.https.port();
    let rows = [
        ("app.test", "/", "302 http://app.test/foo"),
        ("app.test", "/?q=1", "302 http://app.test/foo"),
        ("app.test", "/x", "a /x"),
        ("app2.test", "/", "a /"),
        ("app3.test", "/", "302 http://app3.test/in"),
        ("perm.test", "/something", "301 http://r.example.com"),
        ("perm.test", "/other", "404"),
        ("p302.test", "/", "302 http://r.example.com"),
        ("p200.test", "/", "301 http://r.example.com"),
        ("t308.test", "/", "302 http://t.example.com"),
        ("t307.test", "/", "307 http://t.example.com"),
        ("both.test", "/", "302 http://t.example.com"),
        ("abs.test", "/x", "301 http://abs.test/p"),
        ("rel.test", "/x", "301 /p"),
        ("vars.test", "/a?b=c", "301 https://new.example.com/a?b=c"),
        ("order.test", "/", "301 http://r.example.com"),
        ("bad.test", "/", "503"),
        ("none.test", "/", "301 http://r.example.com"),
        ("ssl.test", "/", "308 https://ssl.test/"),
        ("ssl.test", "/a/?b", "308 https://ssl.test/a/?b"),
        ("ssl.test", acme, &format!("a {acme}")),
        ("port.test", "/x", &format!("308 https://port.test:{port}/x")),
    ];
    check(&world, &rows).await;
}

#[tokio::test]
async fn between_a_name_and_www() {
    let net = Net::new();
    let (mut yaml, _running) = services(net, &["a"]).await;
    let www = [("from-to-www-redirect", "true")];
    yaml += &with("x", &www, &[("x.test", "Prefix", "/", "a")]);
    yaml += &with("y", &www, &[("www.y.test", "Prefix", "/", "a")]);
    // A name that has rules of its own is left alone.
    yaml += &with("z", &www, &[("z.test", "Prefix", "/", "a")]);
    yaml += &with("wz", &[], &[("www.z.test", "Prefix", "/only", "a")]);
    let world = World::start_in(net, &yaml, &[]);
    let rows = [
        ("www.x.test", "/foo", "308 http://x.test/foo"),
        ("www.x.test", "/foo/?a=b", "308 http://x.test/foo/?a=b"),
        ("www.x.test:80", "/foo/", "308 http://x.test:80/foo"),
        ("x.test", "/foo", "a /foo"),
        ("y.test", "/", "308 http://www.y.test"),
        ("www.y.test", "/", "a /"),
        ("www.z.test", "/only", "a /only"),
        ("www.z.test", "/", "404"),
    ];
    check(&world, &rows).await;
    for speaks in [Speaks::Http1OverTls, Speaks::Http2OverTls] {
        let answer = get(&world, speaks, "www.x.test", "/a").await;
        assert_eq!(outcome(&answer), "308 https://x.test/a", "{answer:?}");
    }
}
