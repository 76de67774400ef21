//! Answers held against those of a kube-apiserver 1.36 to the same requests: codes, content
//! types, every member of a Status, and the shape of objects. Where an answer differs on
//! purpose, the test says so.

use std::io::Read;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::access::Tokens;
use crate::entry::Content;
use crate::history::{Change, History, Limits};
use crate::live::Live;
use crate::metrics::Metrics;
use feed::own_token::OwnToken;
use model::ObjectName;

fn put(resource: Kind, namespace: &str, name: &str, mut object: Value) -> Change {
    resource.complete(&mut object);
    let name = ObjectName::new(namespace, name);
    Change::Put(resource, Content::of(resource, name, object, "u-1"))
}

/// What the recordings' server had, as far as they show it; version 230 is the newest.
fn api() -> Api {
    let live = Live::new(History::new(222, Limits::DEFAULT));
    let service = |spec: Value| json!({"spec": spec});
    let ports = json!([{"port": 80}]);
    let labels = json!({"kubernetes.io/service-name": "web"});
    live.load(vec![
        put(Kind::Service, "default", "kubernetes", service(json!({"ports": ports}))),
        put(
            Kind::Service,
            "shop",
            "headless",
            service(json!({"ports": ports, "clusterIP": "None"})),
        ),
        put(
            Kind::Service,
            "shop",
            "np",
            service(json!({
                "type": "NodePort",
                "clusterIP": "10.96.119.157",
                "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": 8080}],
            })),
        ),
        put(
            Kind::Service,
            "shop",
            "web",
            service(json!({"ports": ports, "clusterIP": "10.96.0.10"})),
        ),
        put(
            Kind::EndpointSlice,
            "shop",
            "web-1",
            json!({
                "metadata": {"labels": labels},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.1.0.2"]}],
                "ports": [{"port": 8080}],
            }),
        ),
        put(Kind::Secret, "shop", "key", json!({"stringData": {"a": "b"}})),
        put(Kind::Ingress, "shop", "web", json!({"spec": {}})),
    ]);
    let metrics = Metrics::new(&daemon::Daemon::detached("feed", 1).metrics);
    let streams = Shares::new("watches and lists", 4, 100);
    let judges: Judges = Arc::new(|| Box::new(|_, _| Vec::new()));
    let server = Server { live: Arc::new(live), metrics };
    Api::new(server, Arc::default(), streams, Arc::default(), judges)
}

fn loopback() -> Peer {
    Peer { private: true, rebindable: true, address: "127.0.0.1:7400".to_owned() }
}

fn caller(peer: &Peer) -> Caller {
    Caller { peer: peer.clone(), client: Client::Local, deadlines: Deadlines::new() }
}

/// An answer whose body was read for as long as it came at once.
struct Seen {
    code: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a request; on a paused clock a body that waits is taken for what it said.
async fn send(api: &Api, peer: &Peer, method: &str, path: &str, headers: &[(&str, &str)]) -> Seen {
    send_body(api, peer, (method, path), headers, "").await
}

async fn send_body(
    api: &Api,
    peer: &Peer,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Seen {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response = api.answer(request, &caller(peer)).await;
    let (head, mut body) = response.into_parts();
    let mut seen = Seen { code: head.status.as_u16(), headers: head.headers, body: Vec::new() };
    let soon = Duration::from_secs(1);
    while let Ok(Some(frame)) = tokio::time::timeout(soon, body.frame()).await {
        seen.body.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    seen
}

/// An answer whose body is not taken yet.
async fn ask(api: &Api, path: &str) -> Response<Body> {
    let request = Request::builder().uri(path).body(Full::<Bytes>::default()).unwrap();
    api.answer(request, &caller(&loopback())).await
}

async fn get(path: &str) -> Seen {
    send(&api(), &loopback(), "GET", path, &[]).await
}

async fn get_as(path: &str, accept: &str) -> Seen {
    send(&api(), &loopback(), "GET", path, &[("accept", accept)]).await
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SERVICES: &str = "/api/v1/services";

/// A Status with that code and whatever else is given.
#[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
fn failure(code: u16, message: &str, more: Value) -> Value {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "code": code,
    });
    status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    status
}

#[track_caller]
fn assert_status(seen: &Seen, code: u16, message: &str, more: Value) {
    assert_eq!((seen.code, seen.header("content-type")), (code, "application/json"));
    assert_eq!(seen.json(), failure(code, message, more));
}

#[tokio::test(start_paused = true)]
async fn bad_lists() {
    let bad = json!({"reason": "BadRequest"});
    for (query, message) in [
        (
            "fieldSelector=spec.foo%3D1",
            "\"spec.foo\" is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\"",
        ),
        ("labelSelector=%3D", "unable to parse requirement: found '=', expected: identifier"),
        (
            "resourceVersion=abc",
            "invalid resource version: resourceVersion: Invalid value: \"abc\": \
             strconv.ParseUint: parsing \"abc\": invalid syntax",
        ),
    ] {
        assert_status(&get(&format!("{SLICES}?{query}")).await, 400, message, bad.clone());
    }
    let seen = get(&format!("{SLICES}?continue=invalid")).await;
    assert_eq!((seen.code, &seen.json()["reason"]), (400, &json!("BadRequest")));

    let seen = get(&format!("{SLICES}?resourceVersion=999999")).await;
    let message = "Timeout: Too large resource version: 999999, current: 230";
    let cause =
        json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
    let details = json!({"causes": [cause], "retryAfterSeconds": 1});
    assert_status(&seen, 504, message, json!({"reason": "Timeout", "details": details}));
    assert_eq!(seen.header("retry-after"), "1");

    let seen = get(&format!("{SLICES}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    let message = "The resourceVersion for the provided list is too old.";
    assert_status(&seen, 410, message, json!({"reason": "Expired"}));

    let seen = get_as(SLICES, "text/plain").await;
    let status = seen.json();
    assert_eq!((seen.code, &status["reason"]), (406, &json!("NotAcceptable")));
    assert_eq!(status["details"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_start_is_forgotten_can_go_on() {
    let token = query::Continue { version: Some(7), after: ObjectName::new("default", "a") };
    let seen = get(&format!("{SERVICES}?continue={}", token.encode())).await;
    let status = seen.json();
    assert_eq!((seen.code, &status["reason"]), (410, &json!("Expired")));
    let token = status["metadata"]["continue"].as_str().unwrap();
    let rest = get(&format!("{SERVICES}?continue={token}")).await.json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn lists_are_of_the_shape_that_clients_know() {
    let seen = get(SLICES).await;
    assert_eq!((seen.code, seen.header("content-type")), (200, "application/json"));
    let mut list = seen.json();
    let created = list["items"][0]["metadata"]["creationTimestamp"].take();
    assert!(created.as_str().unwrap().parse::<Timestamp>().is_ok(), "{created}");
    assert_eq!(
        list,
        json!({
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": "230"},
            "items": [{
                "metadata": {
                    "name": "web-1",
                    "namespace": "shop",
                    "uid": "u-1",
                    "resourceVersion": "227",
                    "generation": 1,
                    "creationTimestamp": null,
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.1.0.2"], "conditions": {}}],
                "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
            }],
        })
    );
    let empty = get("/api/v1/namespaces/none/services").await.json();
    assert_eq!(empty["items"], json!([]));
    let chosen = get(&format!("{SERVICES}?labelSelector=%21a%2C%21b")).await.json();
    assert_eq!(chosen["items"].as_array().unwrap().len(), 4);
    let exact = get(&format!("{SLICES}?resourceVersion=230&resourceVersionMatch=Exact")).await;
    assert_eq!(exact.json()["metadata"]["resourceVersion"], "230");
}

#[tokio::test(start_paused = true)]
async fn limited_lists_go_on() {
    let first = get(&format!("{SERVICES}?limit=1")).await.json();
    let metadata = first["metadata"].as_object().unwrap();
    let keys: Vec<_> = metadata.keys().collect();
    assert_eq!(keys, ["continue", "remainingItemCount", "resourceVersion"]);
    assert_eq!(metadata["remainingItemCount"], 3);
    let token = metadata["continue"].as_str().unwrap();
    let second = get(&format!("{SERVICES}?limit=1&continue={token}")).await.json();
    assert_eq!(second["items"][0]["metadata"]["name"], "headless");
    assert_eq!(second["metadata"]["resourceVersion"], "230");
    assert_eq!(second["metadata"]["remainingItemCount"], 2);
}

#[tokio::test(start_paused = true)]
async fn tables_and_metadata() {
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let seen = get_as("/api/v1/namespaces/shop/services?limit=500", table).await.json();
    assert_eq!(seen["kind"], "Table");
    assert_eq!(seen["apiVersion"], "meta.k8s.io/v1");
    let columns = seen["columnDefinitions"].as_array().unwrap().iter();
    let columns: Vec<_> = columns.map(|c| c["name"].as_str().unwrap()).collect();
    let expected = ["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"];
    assert_eq!(columns, expected);
    let column: Vec<_> = seen["columnDefinitions"][0].as_object().unwrap().keys().collect();
    assert_eq!(column, ["description", "format", "name", "priority", "type"]);
    let mut row = seen["rows"][1].clone();
    let age = row["cells"][5].take();
    assert!(age.as_str().unwrap().ends_with('s'), "{age}");
    let cells =
        json!(["np", "NodePort", "10.96.119.157", "<none>", "80:30080/TCP", null, "<none>"]);
    assert_eq!(row["cells"], cells);
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["name"], "np");

    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let seen = get_as(SLICES, partial).await.json();
    assert_eq!(seen["kind"], "PartialObjectMetadataList");
    let item: Vec<_> = seen["items"][0].as_object().unwrap().keys().collect();
    assert_eq!(item, ["apiVersion", "kind", "metadata"]);
    let protobuf = get_as(SLICES, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(protobuf.header("content-type"), "application/json");
}

#[tokio::test(start_paused = true)]
async fn single_objects() {
    let seen = get("/api/v1/namespaces/shop/services/web").await;
    assert_eq!(seen.code, 200);
    let object = seen.json();
    let keys: Vec<_> = object.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["apiVersion", "kind", "metadata", "spec", "status"]);
    assert_eq!(object["spec"]["internalTrafficPolicy"], "Cluster");
    let missing = get("/api/v1/namespaces/shop/services/nope").await;
    let details = json!({"name": "nope", "kind": "services"});
    let more = json!({"reason": "NotFound", "details": details});
    assert_status(&missing, 404, "services \"nope\" not found", more);
    let missing = get("/apis/networking.k8s.io/v1/ingressclasses/nope").await;
    let details = json!({"name": "nope", "group": "networking.k8s.io", "kind": "ingressclasses"});
    let more = json!({"reason": "NotFound", "details": details});
    let message = "ingressclasses.networking.k8s.io \"nope\" not found";
    assert_status(&missing, 404, message, more);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there() {
    let seen = get("/api/v1/widgets").await;
    let message = "the server could not find the requested resource";
    assert_status(&seen, 404, message, json!({"reason": "NotFound", "details": {}}));
    let seen = get("/apis/nope.example/v1/widgets").await;
    assert_eq!((seen.code, seen.text().as_str()), (404, "404 page not found\n"));
    assert_eq!(seen.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(seen.header("x-content-type-options"), "nosniff");
}

#[tokio::test(start_paused = true)]
async fn a_write_is_told_where_to_write() {
    for (method, path) in [
        ("POST", "/api/v1/namespaces/shop/services"),
        ("PUT", "/api/v1/namespaces/shop/services/web"),
        ("PATCH", "/api/v1/namespaces/shop/services/web"),
        ("DELETE", "/api/v1/namespaces/shop/services/web"),
        ("DELETE", "/api/v1/namespaces/shop"),
    ] {
        let seen = send(&api(), &loopback(), method, path, &[]).await;
        let status = seen.json();
        assert_eq!((seen.code, &status["reason"]), (405, &json!("MethodNotAllowed")), "{method}");
        assert_eq!((&status["code"], &status["details"]), (&json!(405), &json!({})));
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("change the manifests in the folder"), "{message}");
    }
    let seen = send(&api(), &loopback(), "POST", "/apis/apps/v1/deployments", &[]).await;
    assert_eq!(seen.code, 404);
}

#[tokio::test(start_paused = true)]
async fn discovery_is_the_older_form_whatever_is_asked_for() {
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                      application/json";
    let seen = get_as("/api", aggregated).await;
    assert_eq!(seen.header("content-type"), "application/json");
    let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1:7400"}]);
    assert_eq!(
        seen.json(),
        json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": addresses,
        })
    );
    assert_eq!(get("/apis").await.json()["kind"], "APIGroupList");
    let resources = get("/apis/discovery.k8s.io/v1").await.json();
    assert_eq!(resources["groupVersion"], "discovery.k8s.io/v1");
    assert_eq!(get("/version").await.json()["major"], "1");
    assert_eq!(get("/livez").await.text(), "ok");
    assert_eq!(get("/apis/nope.example").await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn watches_that_cannot_be() {
    let watch = |query: &str| format!("{SLICES}?watch=1&{query}");
    let why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let seen = get(&watch("sendInitialEvents=true")).await;
    let field = "resourceVersionMatch";
    let cause = json!({"reason": "FieldValueForbidden", "message": why, "field": field});
    let details = json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]});
    let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {why}");
    assert_status(&seen, 422, &message, json!({"reason": "Invalid", "details": details}));

    let seen = get(&watch("resourceVersion=abc")).await;
    let message = "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": \
                   invalid syntax";
    assert_status(&seen, 500, message, json!({}));
}

/// The lines of a watch that ended or waits.
async fn lines(query: &str) -> Vec<Value> {
    let seen = get(&format!("{SLICES}?watch=1&{query}")).await;
    assert_eq!((seen.code, seen.header("content-type")), (200, "application/json"), "{query}");
    seen.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
fn error(object: Value) -> Vec<Value> {
    vec![json!({"type": "ERROR", "object": object})]
}

#[tokio::test(start_paused = true)]
async fn errors_of_versions_are_lines_of_the_stream() {
    let message = "too old resource version: 1 (230)";
    let expired = error(failure(410, message, json!({"reason": "Expired"})));
    assert_eq!(lines("resourceVersion=1").await, expired);
    // A kube-apiserver stays silent here.
    let message = "Too large resource version: 999999, current: 230";
    let rewound = error(failure(410, message, json!({"reason": "Expired"})));
    assert_eq!(lines("resourceVersion=999999").await, rewound);

    let message = "Timeout: Too large resource version: 999999, current: 230";
    let cause =
        json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
    let details = json!({"causes": [cause], "retryAfterSeconds": 1});
    let future = error(failure(504, message, json!({"reason": "Timeout", "details": details})));
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=999999";
    assert_eq!(lines(query).await, future);
}

#[tokio::test(start_paused = true)]
async fn streams_have_the_lines_that_clients_know() {
    let streaming = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let with = lines(&format!("{streaming}&allowWatchBookmarks=true")).await;
    assert_eq!(with.len(), 2);
    assert_eq!(
        (&with[0]["type"], &with[0]["object"]["kind"]),
        (&json!("ADDED"), &json!("EndpointSlice"))
    );
    let metadata = json!({
        "resourceVersion": "230",
        "annotations": {"k8s.io/initial-events-end": "true"},
    });
    let object = json!({
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": "",
        "endpoints": null,
        "ports": null,
    });
    assert_eq!(with[1], json!({"type": "BOOKMARK", "object": object}));
    assert_eq!(lines(streaming).await.len(), 1, "nobody asked for bookmarks");
    assert_eq!(lines("resourceVersion=0").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_watches_than_the_limit() {
    let api = api();
    let path = format!("{SERVICES}?watch=1&resourceVersion=230");
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(ask(&api, &path).await);
    }
    assert!(open.iter().all(|response| response.status() == 200));
    let refused = ask(&api, &path).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    open.pop();
    assert_eq!(ask(&api, &path).await.status(), 200);
}

/// Short lists held their whole text for as long as nobody took it, and nobody counted them.
#[tokio::test(start_paused = true)]
async fn lists_that_are_not_taken_are_counted() {
    let api = api();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(ask(&api, SERVICES).await);
    }
    assert!(open.iter().all(|response| response.status() == 200));
    assert_eq!(ask(&api, SERVICES).await.status(), 429);
    let list = open.pop().unwrap().into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 4);
    assert_eq!(ask(&api, SERVICES).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn foreign_names_are_refused_where_a_browser_could_be_led() {
    let code = async |peer: &Peer, name: &str, value: &str| {
        send(&api(), peer, "GET", "/api", &[(name, value)]).await.code
    };
    assert_eq!(code(&loopback(), "host", "evil.example:7400").await, 403);
    assert_eq!(code(&loopback(), "origin", "http://evil.example").await, 403);
    assert_eq!(code(&loopback(), "host", "localhost:7400").await, 200);
    assert_eq!(code(&loopback(), "host", "127.0.0.1:7400").await, 200);
    let seen = send(&api(), &loopback(), "GET", "http://evil.example/api", &[]).await;
    assert_eq!(seen.code, 403, "the name may stand in the request line, too");
    let network = Peer { rebindable: false, ..loopback() };
    assert_eq!(code(&network, "host", "feed:7400").await, 200);
}

#[tokio::test(start_paused = true)]
async fn tokens_open_the_server_and_secrets_take_the_right() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "reader-0123456789ab\ningress-0123456789 secrets\n").unwrap();
    let mut api = api();
    api.access = Arc::new(Access::new(Some(Tokens::load(file.path()).unwrap())));
    let remote = Peer { private: false, rebindable: false, ..loopback() };
    let ask = async |peer: &Peer, path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        send(&api, peer, "GET", path, if token.is_empty() { &[] } else { &headers }).await
    };
    let secrets = "/api/v1/namespaces/shop/secrets";
    for token in ["", "wrong-0123456789ab"] {
        let seen = ask(&remote, SLICES, token).await;
        assert_status(&seen, 401, "Unauthorized", json!({"reason": "Unauthorized"}));
    }
    assert_eq!(ask(&remote, "/version", "").await.code, 200);
    assert_eq!(ask(&remote, SLICES, "reader-0123456789ab").await.code, 200);
    assert_eq!(ask(&loopback(), secrets, "ingress-0123456789").await.code, 200);
    assert_eq!(ask(&remote, secrets, "ingress-0123456789").await.code, 403, "in the clear");
    for path in [secrets, "/api/v1/secrets?watch=1", "/api/v1/namespaces/shop/secrets/key"] {
        assert_eq!(ask(&loopback(), path, "reader-0123456789ab").await.code, 403, "{path}");
    }
    let seen = ask(&loopback(), secrets, "reader-0123456789ab").await.json();
    assert_eq!(seen["reason"], "Forbidden");
    assert_eq!(seen["details"], json!({"kind": "secrets"}));
    let begin = "secrets is forbidden: User \"token on line 1\" cannot list resource \"secrets\" \
                 in API group \"\" in the namespace \"shop\": ";
    assert!(seen["message"].as_str().unwrap().starts_with(begin), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn without_a_token_file_secrets_take_the_own_token() {
    let folder = tempfile::tempdir().unwrap();
    let address = "127.0.0.1:7400".parse().unwrap();
    let own = OwnToken::provide(&folder.path().join("own"), address).unwrap();
    let mut api = api();
    api.access = Arc::new(Access::of_own(std::slice::from_ref(&own)));
    let bearer = format!("Bearer {}", own.as_str());
    let shown = [("authorization", bearer.as_str())];
    for path in ["/api/v1/secrets", "/api/v1/namespaces/shop/secrets/key"] {
        let seen = send(&api, &loopback(), "GET", path, &[]).await;
        assert_eq!(seen.code, 403, "{path}");
        let message = seen.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(".token") && !message.contains(own.as_str()), "{message}");
        assert_eq!(send(&api, &loopback(), "GET", path, &shown).await.code, 200, "{path}");
        let network = Peer { private: false, rebindable: false, ..loopback() };
        assert_eq!(send(&api, &network, "GET", path, &shown).await.code, 403, "in the clear");
    }
    assert_eq!(send(&api, &loopback(), "GET", SLICES, &[]).await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn long_lists_are_compressed_for_who_wants_it() {
    let api = api();
    let many = (0..2000).map(|i| {
        put(Kind::Pod, "shop", &format!("pod-{i:04}"), json!({"spec": {"nodeName": "n"}}))
    });
    api.server.live.commit(many.collect());
    let plain = send(&api, &loopback(), "GET", "/api/v1/pods", &[]).await;
    assert_eq!(plain.json()["items"].as_array().unwrap().len(), 2000);
    let wants = [("accept-encoding", "deflate, gzip;q=0.5")];
    let gzip = send(&api, &loopback(), "GET", "/api/v1/pods", &wants).await;
    assert_eq!(gzip.header("content-encoding"), "gzip");
    assert!(gzip.body.len() * 5 < plain.body.len(), "{}", gzip.body.len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut text).unwrap();
    assert!(text == plain.body);
    let short = send(&api, &loopback(), "GET", SERVICES, &wants).await;
    assert_eq!(short.header("content-encoding"), "");
    let never = [("accept-encoding", "gzip;q=0")];
    let never = send(&api, &loopback(), "GET", "/api/v1/pods", &never).await;
    assert_eq!(never.header("content-encoding"), "");
}

/// `kubectl explain` reads version 3, and its validation version 2 in protobuf.
#[tokio::test(start_paused = true)]
async fn the_fields_of_kinds_are_described_in_the_encodings_that_kubectl_asks_for() {
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let seen = get_as("/openapi/v2", protobuf).await;
    assert_eq!((seen.code, seen.body.is_empty()), (200, false));
    assert!(seen.header("content-type").contains("openapi.spec.v2"));
    let service = "io.k8s.api.core.v1.Service";
    assert!(get("/openapi/v2").await.json()["definitions"][service].is_object());
    let index = get("/openapi/v3").await.json();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = get_as(&url, "application/json").await.json();
    assert!(document["components"]["schemas"][service].is_object());
    let protobuf = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    assert_eq!(get_as(&url, protobuf).await.code, 406, "its client asks for JSON next");
    assert_eq!(get("/openapi/v3/apis/apps/v1").await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn all_that_an_unmodified_kube_proxy_follows_is_served() {
    let api = api();
    let ranges = ["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()];
    let objects = crate::derived::service_cidrs(&ranges).into_iter();
    api.server
        .live
        .commit(objects.map(|(name, object)| put(Kind::ServiceCidr, "", &name, object)).collect());
    const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
    for path in [SERVICES, SLICES, "/api/v1/nodes", CIDRS] {
        let seen = send(&api, &loopback(), "GET", path, &[]).await;
        assert_eq!(seen.code, 200, "{path}: {}", seen.text());
        let watch = format!("{path}?watch=1&timeoutSeconds=1");
        let seen = send(&api, &loopback(), "GET", &watch, &[]).await;
        assert_eq!(seen.code, 200, "{watch}: {}", seen.text());
    }
    let list = send(&api, &loopback(), "GET", CIDRS, &[]).await.json();
    assert_eq!(list["kind"], "ServiceCIDRList");
    assert_eq!(list["items"][0]["metadata"]["name"], "kubernetes");
    assert_eq!(list["items"][0]["spec"], json!({"cidrs": ["10.96.0.0/16", "fd00::/112"]}));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = send(&api, &loopback(), "GET", CIDRS, &[("accept", table)]).await.json();
    assert_eq!(table["rows"][0]["cells"][1], "10.96.0.0/16,fd00::/112");
}

const WEB: &str = "/api/v1/namespaces/shop/services/web";
const MERGE: [(&str, &str); 1] = [("content-type", "application/merge-patch+json")];

/// The API of one token that may read Secrets and one that may not.
fn guarded() -> Api {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "reader-0123456789ab\nkeeper-0123456789ab secrets\n").unwrap();
    let access = Access::new(Some(Tokens::load(file.path()).unwrap()));
    Api { access: Arc::new(access), ..api() }
}

/// `auth can-i` and `auth whoami` did not work.
#[tokio::test(start_paused = true)]
async fn a_client_learns_who_it_is_and_what_it_may_do() {
    let api = guarded();
    let post = async |token: &str, group: &str, plural: &str, spec: Value| {
        let path = format!("/apis/{group}/v1/{plural}");
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let body = json!({"spec": spec}).to_string();
        send_body(&api, &loopback(), ("POST", &path), &headers, &body).await
    };
    const READER: &str = "reader-0123456789ab";
    let who = post(READER, "authentication.k8s.io", "selfsubjectreviews", Value::Null).await;
    assert_eq!(who.code, 201);
    assert_eq!(who.json()["status"]["userInfo"]["username"], "token on line 1");
    for (token, allowed) in [(READER, false), ("keeper-0123456789ab", true)] {
        let asked = json!({"resourceAttributes": {"verb": "list", "resource": "secrets"}});
        let plural = "selfsubjectaccessreviews";
        let seen = post(token, "authorization.k8s.io", plural, asked).await;
        assert_eq!(seen.json()["status"]["allowed"], allowed, "{token}: {}", seen.text());
        let rules = post(token, "authorization.k8s.io", "selfsubjectrulesreviews", json!({})).await;
        assert_eq!(rules.text().contains("\"secrets\""), allowed, "{}", rules.text());
    }
    let unknown = post("nobody", "authentication.k8s.io", "selfsubjectreviews", json!({})).await;
    assert_eq!(unknown.code, 401);
    let read = get("/apis/authentication.k8s.io/v1/selfsubjectreviews").await;
    assert_eq!(read.code, 405);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_answered_and_nothing_is_stored() {
    let api = api();
    let run = async |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        send_body(&api, &loopback(), (method, path), headers, body).await
    };
    let before = send(&api, &loopback(), "GET", SERVICES, &[]).await.text();
    let label = "{\"metadata\": {\"labels\": {\"a\": \"b\"}}}";
    let seen = run("PATCH", &format!("{WEB}?dryRun=All"), &MERGE, label).await;
    assert_eq!((seen.code, &seen.json()["metadata"]["labels"]["a"]), (200, &json!("b")));
    let new = "{\"metadata\": {\"name\": \"new\"}, \"spec\": {\"clusterIP\": \"10.96.0.77\", \
               \"ports\": [{\"port\": 80}]}}";
    let all = "/api/v1/namespaces/shop/services";
    let seen = run("POST", &format!("{all}?dryRun=All"), &[], new).await;
    assert_eq!((seen.code, &seen.json()["spec"]["type"]), (201, &json!("ClusterIP")));
    assert_eq!(seen.json()["metadata"].get("resourceVersion"), None);
    assert!(seen.header("warning").contains("EndpointSlice"), "{:?}", seen.headers);
    let seen = run("DELETE", WEB, &[], "{\"dryRun\": [\"All\"]}").await;
    assert_eq!((seen.code, &seen.json()["status"]), (200, &json!("Success")));
    for (method, path, body) in
        [("PATCH", WEB, label), ("POST", all, new), ("DELETE", WEB, ""), ("DELETE", WEB, "{}")]
    {
        let seen = run(method, path, &MERGE, body).await;
        assert_eq!(seen.code, 405, "{method} {path}");
        assert!(seen.text().contains("change the manifests"), "{}", seen.text());
    }
    assert_eq!(send(&api, &loopback(), "GET", SERVICES, &[]).await.text(), before);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_takes_the_rights_that_reading_takes() {
    let api = guarded();
    let code = async |token: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [MERGE[0], ("authorization", bearer.as_str())];
        send_body(&api, &loopback(), ("PATCH", path), &headers, "{}").await.code
    };
    let key = "/api/v1/namespaces/shop/secrets/key?dryRun=All";
    assert_eq!(code("nobody", &format!("{WEB}?dryRun=All")).await, 401);
    assert_eq!(code("reader-0123456789ab", key).await, 403);
    assert_eq!(code("keeper-0123456789ab", key).await, 200);
    let open = Peer { private: false, ..loopback() };
    let headers = [MERGE[0], ("authorization", "Bearer keeper-0123456789ab")];
    assert_eq!(send_body(&api, &open, ("PATCH", key), &headers, "{}").await.code, 403);
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_within_limits() {
    let api = api();
    let path = format!("{WEB}?dryRun=All");
    let large = " ".repeat(4 << 20);
    let seen = send_body(&api, &loopback(), ("PATCH", &path), &MERGE, &large).await;
    assert_eq!((seen.code, &seen.json()["reason"]), (413, &json!("RequestEntityTooLarge")));
    let silent = || {
        let never = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let request = Request::builder().method("PATCH").uri(&path);
        let request = request.header("content-type", "application/merge-patch+json");
        request.body(StreamBody::new(never)).unwrap()
    };
    let network =
        Caller { client: Client::of("192.0.2.7".parse().unwrap()), ..caller(&loopback()) };
    let answers = (0..MAX_BODIES_OF_CLIENT + 1).map(|_| api.answer(silent(), &network));
    let codes = futures_util::future::join_all(answers).await;
    let codes: Vec<_> = codes.iter().map(|answer| answer.status().as_u16()).collect();
    assert_eq!(codes, [400, 400, 400, 400, 429], "they end, and one client has not all");
    let seen = send_body(&api, &loopback(), ("PATCH", &path), &MERGE, "{}").await;
    assert_eq!(seen.code, 200);
}

/// Four clients that sent their bodies slowly took all permits, and everyone else got 429.
#[tokio::test(start_paused = true)]
async fn slow_bodies_leave_dry_runs_to_others() {
    let api = api();
    let path = format!("{WEB}?dryRun=All");
    let silent = || {
        let never = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let request = Request::builder().method("PATCH").uri(&path);
        let request = request.header("content-type", "application/merge-patch+json");
        request.body(StreamBody::new(never)).unwrap()
    };
    let network = |at: u8| {
        let client = Client::of([192, 0, 2, at].into());
        Caller { client, ..caller(&loopback()) }
    };
    let callers: Vec<_> =
        (0..5).flat_map(|at| (0..MAX_BODIES_OF_CLIENT).map(move |_| network(at))).collect();
    assert!(callers.len() > MAX_WRITES);
    let slow = futures_util::future::join_all(callers.iter().map(|c| api.answer(silent(), c)));
    let here = loopback();
    let other = send_body(&api, &here, ("PATCH", &path), &MERGE, "{}");
    tokio::select! {
        biased;
        _ = slow => panic!("no body is whole"),
        seen = other => assert_eq!(seen.code, 200, "{}", seen.text()),
    }
}

/// Dry runs ran on the threads that answer all requests, and three large ones blocked them.
#[tokio::test]
async fn dry_runs_leave_the_threads_to_other_requests() {
    let mut api = api();
    let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let waits = Arc::new(std::sync::Mutex::new(waits));
    api.judges = Arc::new(move || {
        let _ = begun.send(());
        // An error once the test has dropped its end.
        let _ = waits.lock().unwrap().recv();
        Box::new(|_, _| Vec::new())
    });
    let path = format!("{WEB}?dryRun=All");
    let run = || {
        let (api, path) = (api.clone(), path.clone());
        tokio::spawn(async move {
            send_body(&api, &loopback(), ("PATCH", &path), &MERGE, "{}").await.code
        })
    };
    let runs: Vec<_> = (0..MAX_RUNNING + 1).map(|_| run()).collect();
    for _ in 0..MAX_RUNNING {
        seen.recv().await.unwrap();
    }
    // On the only thread of this runtime, while the dry runs wait.
    assert_eq!(send(&api, &loopback(), "GET", WEB, &[]).await.code, 200);
    assert_eq!(api.running.available_permits(), 0);
    assert!(seen.try_recv().is_err(), "no more run at once");
    drop(go_on);
    for run in runs {
        assert_eq!(run.await.unwrap(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_of_an_object_and_the_paths_are_served() {
    let seen = get(&format!("{WEB}/status")).await;
    assert_eq!((seen.code, &seen.json()["metadata"]["name"]), (200, &json!("web")));
    let paths = get("/").await.json()["paths"].to_string();
    assert!(
        paths.contains("\"/api/v1\"") && paths.contains("/apis/discovery.k8s.io/v1"),
        "{paths}"
    );
}
