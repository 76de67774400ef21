//! Traces: `traceparent`, and spans that a collector gets by OTLP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::kit::{
    ALL, Answer, Client, Endpoint, Speaks, World, eventually, field, ingress, service,
};
use crate::support::Net;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn manifests() -> String {
    service("web", &["127.N.N.10"])
        + &service("down", &["127.N.N.20"])
        + &ingress("i", &[("a.com", "Prefix", "/shop", "web"), ("a.com", "Prefix", "/", "down")])
}

/// A collector that refuses so many requests before it accepts others.
async fn collector(at: SocketAddr, refusals: usize) -> Endpoint {
    let count = Arc::new(AtomicUsize::new(0));
    let answer = move |_: &str| match count.fetch_add(1, Ordering::Relaxed) {
        n if n < refusals => "HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
    };
    Endpoint::answering(at, answer).await
}

/// The spans of all requests that a collector got.
fn spans(collector: &Endpoint) -> Vec<Value> {
    let mut spans = Vec::new();
    for request in collector.seen() {
        assert!(request.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{request}");
        assert_eq!(field(&request, "content-type"), Some("application/json"), "{request}");
        let body = request.split_once("\r\n\r\n").unwrap().1;
        let body: Value = serde_json::from_str(body).unwrap();
        let all = body["resourceSpans"].as_array().unwrap();
        assert_eq!(all.len(), 1, "{body}");
        let service = &all[0]["resource"]["attributes"][0];
        assert_eq!(service["value"]["stringValue"], "switchyard-ingress", "{body}");
        spans.extend(all[0]["scopeSpans"][0]["spans"].as_array().unwrap().clone());
    }
    spans
}

async fn get(client: &mut Client, path: &str, traceparent: &[&str]) -> Answer {
    let mut request = Request::get(format!("http://a.com{path}")).header("tracestate", "a=b");
    for field in traceparent {
        request = request.header("traceparent", *field);
    }
    let response = client.send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    Answer::read(response).await
}

/// The fields `traceparent` and `tracestate` that the endpoint got.
fn passed_on(answer: &Answer) -> (Vec<&str>, Vec<&str>) {
    let of = |name| answer.body.lines().filter_map(move |line| line.strip_prefix(name)).collect();
    (of("traceparent: "), of("tracestate: "))
}

fn attribute<'v>(span: &'v Value, name: &str) -> &'v Value {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|attribute| attribute["key"] == name);
    let value = found.unwrap_or_else(|| panic!("no {name} in {span:#}"))["value"].as_object();
    value.unwrap().values().next().unwrap()
}

#[tokio::test]
async fn a_trace_goes_on_and_its_spans_are_sent() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let collector = collector(net.addr(30, 4318), 1).await;
    let url = format!("http://{}", net.addr(30, 4318));
    let world = World::start_in(net, &manifests(), &["--otlp-endpoint", &url]);
    let mut expected = Vec::new();
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let field = format!("00-{TRACE}-{PARENT}-01");
        let answer = get(&mut client, "/shop/x?secret", &[&field]).await;
        let (fields, states) = passed_on(&answer);
        assert_eq!((fields.len(), &states[..]), (1, &["a=b"][..]), "{speaks:?}");
        let parts: Vec<_> = fields[0].split('-').collect();
        let ["00", TRACE, span, "01"] = parts[..] else { panic!("{fields:?}") };
        assert_ne!(span, PARENT);
        expected.push(span.to_owned());
        // Not sampled: it goes on, with a new parent, and no span is sent.
        let answer = get(&mut client, "/shop", &[&format!("00-{TRACE}-{PARENT}-00")]).await;
        let field = passed_on(&answer).0[0];
        assert!(field.starts_with(&format!("00-{TRACE}-")) && field.ends_with("-00"), "{field}");
        assert!(!field.contains(PARENT), "{field}");
    }
    // The endpoint that is asked last cannot be reached.
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    get(&mut client, "/none", &[&format!("00-{TRACE}-{PARENT}-01")]).await;
    let count = expected.len() + 1;
    let spans = eventually("spans", || {
        let mut spans = spans(&collector);
        // The refused batch was sent again.
        spans.sort_by_key(|span| span["startTimeUnixNano"].as_str().unwrap().to_owned());
        spans.dedup();
        async move { (spans.len() >= count).then_some(spans) }
    })
    .await;
    assert_eq!(spans.len(), count);
    for (span, id) in spans.iter().zip(&expected) {
        assert_eq!(span["traceId"], TRACE);
        assert_eq!((&span["spanId"], &span["parentSpanId"]), (&id.as_str().into(), &PARENT.into()));
        assert_eq!((&span["name"], &span["kind"]), (&"GET /shop".into(), &2.into()));
        let time = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") < time("endTimeUnixNano"), "{span:#}");
        assert_eq!(attribute(span, "http.response.status_code"), "200");
        assert_eq!(attribute(span, "url.path"), "/shop/x");
        assert_eq!(attribute(span, "http.route"), "/shop");
        assert_eq!(attribute(span, "switchyard.service"), "default/web:80");
        assert_eq!(attribute(span, "network.peer.address"), &world.net.ip(10).to_string());
        assert!(span.get("status").is_none(), "{span:#}");
        assert!(!span.to_string().contains("secret"), "{span:#}");
    }
    let last = spans.last().unwrap();
    assert_eq!(last["status"]["code"], 2, "{last:#}");
    assert_eq!(attribute(last, "error.type"), "unreachable");
    eventually("the count", || {
        let sent = world.metric("switchyard_ingress_spans_sent_total");
        async move { (sent == count as f64).then_some(()) }
    })
    .await;
    assert_eq!(world.metric("switchyard_ingress_spans_lost_total"), 0.0);
}

/// What is not valid is no trace; without a collector nothing is changed.
#[tokio::test]
async fn fields_that_are_not_valid_begin_no_trace() {
    let bad = [
        vec!["00-x-y-01".to_owned()],
        vec![format!("00-{TRACE}-{PARENT}-01"); 2],
        vec![format!("ff-{TRACE}-{PARENT}-01")],
        vec![],
    ];
    for (rate, is_traced) in [("1", true), ("0", false)] {
        let net = Net::new();
        let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
        let url = format!("http://{}", net.addr(30, 4318));
        let flags = ["--otlp-endpoint", &url, "--trace-sampling", rate];
        let world = World::start_in(net, &manifests(), &flags);
        let mut client = Client::connect(&world, Speaks::Http2, "a.com").await;
        for fields in &bad {
            let fields: Vec<_> = fields.iter().map(String::as_str).collect();
            let answer = get(&mut client, "/shop", &fields).await;
            let (parents, states) = passed_on(&answer);
            assert_eq!((parents.len(), states.len()), (usize::from(is_traced), 0), "{fields:?}");
            assert!(parents.iter().all(|field| !field.contains(TRACE)), "{parents:?}");
        }
    }
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    let answer = get(&mut client, "/shop", &["anything"]).await;
    assert_eq!(passed_on(&answer), (vec!["anything"], vec!["a=b"]));
}

/// A collector that is away delays no request, and no end of the process; spans are lost and
/// counted.
#[tokio::test]
async fn a_collector_that_is_away_delays_nothing() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let url = format!("http://{}", net.addr(30, 4318));
    let flags = ["--otlp-endpoint", &url, "--trace-sampling", "1", "--access-log", "errors"];
    let world = World::start_in(net, &manifests(), &flags);
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    for _ in 0..4000 {
        assert_eq!(get(&mut client, "/shop", &[]).await.status, 200);
    }
    eventually("spans are lost", || {
        let lost = world.metric("switchyard_ingress_spans_lost_total");
        async move { (lost > 0.0).then_some(()) }
    })
    .await;
    world.ingress.signal(Signal::SIGTERM);
    drop(client);
    assert!(world.ingress.wait().success());
}
