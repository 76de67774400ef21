//! The manifests of `configs/ingress-nginx`: what the page about them says.

use std::path::Path;

use super::super::kit::{Endpoint, Speaks, World};
use super::kit::{outcome, send};
use crate::support::Net;

#[tokio::test]
async fn manifests_of_ingress_nginx() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/ingress-nginx/shop.yaml");
    let manifests = std::fs::read_to_string(path).unwrap();
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 8000), "web").await;
    let manifests = manifests.replace("[127.0.0.1]", "[127.N.N.10]");
    let world = World::start_in(net, &manifests, &["--trusted-proxies", "127.0.0.0/8"]);
    let outside = ("x-forwarded-for", "192.0.2.1");
    let office = ("x-forwarded-for", "10.1.1.1");
    let ada = ("authorization", "Basic YWRhOnNlY3JldA==");
    type Row<'r> = (&'r str, &'r [(&'r str, &'r str)], &'r str);
    let rows: [Row<'_>; 8] = [
        ("shop.example.com/api/carts?id=1", &[], "web /carts?id=1"),
        ("shop.example.com/apis", &[], "404"),
        ("admin.example.com/", &[outside], "401"),
        ("admin.example.com/", &[outside, ada], "web /"),
        ("admin.example.com/", &[office], "web /"),
        ("old.example.com/x", &[], "301 https://shop.example.com"),
        ("www.old.example.com/x", &[], "308 http://old.example.com/x"),
        ("snippet.example.com/", &[], "503"),
    ];
    for (url, fields, expected) in rows {
        let answer = send(&world, Speaks::Http1, "GET", url, fields).await;
        assert_eq!(outcome(&answer), expected, "{url} {fields:?}: {answer:?}");
    }
    let problems = world.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("configuration-snippet is nginx configuration"), "{problems:?}");
}
