//! Shared by the tests of annotations: tables of requests and what becomes of each.

use http::Request;
use http_body_util::Full;

use super::super::kit::{Answer, Client, Endpoint, Speaks, World, field, get, ingress, service};
use crate::support::Net;

/// Both versions of HTTP, without TLS.
pub(super) const PLAIN: [Speaks; 2] = [Speaks::Http1, Speaks::Http2];

/// An Ingress with annotations of ingress-nginx; `name` without the prefix has it added.
pub(super) fn with(
    name: &str,
    annotations: &[(&str, &str)],
    rules: &[(&str, &str, &str, &str)],
) -> String {
    let key = |name: &str| match name.contains('/') {
        true => name.to_owned(),
        false => format!("nginx.ingress.kubernetes.io/{name}"),
    };
    let lines: String =
        annotations.iter().map(|(name, value)| format!("    {}: {value:?}\n", key(name))).collect();
    let metadata = format!("metadata:\n  name: {name}\n  namespace: default\n  annotations:\n");
    let plain = format!("metadata: {{name: {name}, namespace: default}}\n");
    ingress(name, rules).replace(&plain, &(metadata + &lines))
}

/// Services that each have an endpoint which answers with the Service's name and its request.
pub(super) async fn services(net: Net, names: &[&str]) -> (String, Vec<Endpoint>) {
    let mut manifests = String::new();
    let mut running = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let last = 10 + u8::try_from(at).unwrap();
        manifests += &service(name, &[&format!("127.N.N.{last}")]);
        running.push(Endpoint::echo(net.addr(last, 9000), name).await);
    }
    (manifests, running)
}

/// What becomes of a GET, in one line: the status and Location of a redirect, the endpoint's name
/// and the target that it saw, or the status alone.
pub(super) fn outcome(answer: &Answer) -> String {
    let location = answer.headers.get("location").map(|to| to.to_str().unwrap());
    match (answer.status, location) {
        (200, _) => {
            let mut lines = answer.body.lines();
            let name = lines.next().unwrap_or_default();
            let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
            format!("{name} {target}")
        }
        (status, Some(to)) => format!("{status} {to}"),
        (status, None) => status.to_string(),
    }
}

/// Sends each request over both versions of HTTP and compares what becomes of it.
pub(super) async fn check(world: &World, rows: &[(&str, &str, &str)]) {
    for speaks in PLAIN {
        for (host, path, expected) in rows {
            let answer = get(world, speaks, host, path).await;
            assert_eq!(outcome(&answer), *expected, "{speaks:?} {host}{path}: {answer:?}");
        }
    }
}

/// A field of the request as the endpoint saw it.
pub(super) fn seen<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    field(answer.body.split_once('\n')?.1, name)
}

/// One request with fields, on a connection of its own.
pub(super) async fn send(
    world: &World,
    speaks: Speaks,
    method: &str,
    url: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://{url}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let host = url.split(['/', ':']).next().unwrap();
    let mut client = Client::connect(world, speaks, host).await;
    Answer::read(client.send(request.body(Full::default()).unwrap()).await.unwrap()).await
}
