//! Clients see the objects of the folder, and changes of them.

use std::io::{BufReader, Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use super::kit::{Feed, SERVICES, SHOP, SLICES, STREAMING, connect, head, request, service};
use crate::support::{Folder, Net, PROMPTLY, Switchyard, eventually};

#[test]
fn the_folder_is_listed_completed_and_joined() {
    let feed = Feed::start();
    let list = feed.json(SERVICES);
    assert_eq!(list["kind"], "ServiceList");
    let spec = &list["items"][0]["spec"];
    assert_eq!(spec["clusterIPs"], json!(["10.96.0.10"]));
    assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    let slice = &feed.json(SLICES)["items"][0];
    assert_eq!(slice["endpoints"], json!([{"addresses": ["10.1.0.2"], "conditions": {}}]));
    let endpoints = feed.json("/api/v1/namespaces/shop/endpoints/web");
    assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "10.1.0.2"}]));
    let secret = feed.get_with_token("/api/v1/namespaces/shop/secrets/key").json();
    assert_eq!(secret["data"], json!({"password": "c2VzYW1l"}));
    assert_eq!(secret.get("stringData"), None);
    assert_eq!(feed.json("/api/v1/namespaces/shop")["status"]["phase"], "Active");
    for resource in ["pods", "nodes", "events"] {
        assert_eq!(feed.json(&format!("/api/v1/{resource}"))["items"], json!([]));
    }
}

#[test]
fn slices_of_pods_are_there_for_every_client() {
    let folder = Folder::new();
    folder.replace(
        "pods.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n\
         spec: {selector: {app: api}, ports: [{port: 80, targetPort: http}]}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, labels: {app: api}}\n\
         spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}\n\
         status: {podIP: 10.1.0.9, conditions: [{type: Ready, status: \"True\"}]}\n",
    );
    let feed = Feed::serving(Net::new(), folder, &[]);
    let slice = &feed.json(SLICES)["items"][0];
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "api");
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.1.0.9"]));
    assert_eq!(slice["ports"], json!([{"name": "", "protocol": "TCP", "port": 8080}]));
    let mut slices = feed.watch(&format!("{SLICES}?{STREAMING}"));
    slices.until_bookmark();
    std::fs::remove_file(feed.folder.file("pods.yaml")).unwrap();
    assert_eq!(slices.event()["type"], "DELETED");
}

#[test]
fn one_change_of_the_folder_is_one_cut_for_all_kinds() {
    let feed = Feed::start();
    let mut services = feed.watch(&format!("{SERVICES}?{STREAMING}"));
    let mut slices = feed.watch(&format!("{SLICES}?{STREAMING}"));
    let mut ingresses = feed.watch(&format!("/apis/networking.k8s.io/v1/ingresses?{STREAMING}"));
    assert_eq!(services.until_bookmark().0, ["ADDED web"]);
    assert_eq!(slices.until_bookmark().0, ["ADDED web-1"]);
    let (told, start) = ingresses.until_bookmark();
    assert!(told.is_empty());

    let more = SHOP.replace("10.1.0.2", "10.1.0.3") + "---\n" + &service("api", "10.96.0.11");
    feed.folder.replace("shop.yaml", &more);
    let (told, cut) = services.until_bookmark();
    assert_eq!(told, ["ADDED api"]);
    assert!(cut > start);
    assert_eq!(slices.until_bookmark(), (vec!["MODIFIED web-1".to_owned()], cut));
    assert_eq!(ingresses.until_bookmark(), (vec![], cut), "nothing of theirs changed");

    // Writing a file with the same content changes nothing.
    feed.folder.replace("shop.yaml", &(more + "# a comment\n"));
    feed.folder.replace("other.yaml", &service("other", "10.96.0.12"));
    assert_eq!(services.until_bookmark().0, ["ADDED other"]);
    std::fs::remove_file(feed.folder.file("shop.yaml")).unwrap();
    let (mut told, _) = services.until_bookmark();
    told.sort();
    assert_eq!(told, ["DELETED api", "DELETED web"]);
}

#[test]
fn a_watch_goes_on_where_a_list_ended() {
    let feed = Feed::start();
    let version = feed.version();
    feed.folder.replace("api.yaml", &service("api", "10.96.0.11"));
    let mut lines = feed.watch(&format!("{SERVICES}?watch=1&resourceVersion={version}"));
    let event = lines.event();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("api"))
    );
    let mut old = feed.watch(&format!("{SERVICES}?watch=1&resourceVersion=1"));
    let event = old.event();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(old.next(), None);
}

#[test]
fn what_is_rejected_is_an_event_on_the_object_and_its_last_good_state_stays() {
    let feed = Feed::start();
    feed.folder.replace("shop.yaml", &SHOP.replace("ports: [{port: 80}]", "prots: [{port: 80}]"));
    let query = "fieldSelector=involvedObject.kind%3DService%2CinvolvedObject.name%3Dweb";
    let events = || feed.json(&format!("/api/v1/namespaces/shop/events?{query}"));
    let event = eventually("the Event", || events()["items"].get(0).cloned());
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("shop.yaml:4:31: error: unknown field \"spec.prots\""), "{message}");
    assert!(message.contains("did you mean `ports`?"), "{message}");
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("Rejected")));
    let web = feed.json("/api/v1/namespaces/shop/services/web");
    assert_eq!(event["involvedObject"]["uid"], web["metadata"]["uid"]);
    assert_eq!(web["spec"]["ports"][0]["port"], 80);

    // An object that was never valid has an Event too.
    feed.folder.replace("bad.yaml", &service("bad", "10.96.0.300"));
    let query = "fieldSelector=involvedObject.name%3Dbad";
    let bad = eventually("the other Event", || {
        feed.json(&format!("/api/v1/events?{query}"))["items"].get(0).cloned()
    });
    assert!(bad["message"].as_str().unwrap().contains("bad.yaml:4:19: error:"), "{bad}");
    assert_eq!(feed.get("/api/v1/namespaces/shop/services/bad").code, 404);
    feed.folder.replace("shop.yaml", SHOP);
    eventually("the Event goes", || events()["items"].get(0).is_none().then_some(()));
}

#[test]
fn several_folders_are_served_as_one() {
    let (net, one, other) = (Net::new(), Folder::new(), Folder::new());
    // If two Services claim the same address, the first path gets it.
    let (first, second) = if one.path() < other.path() { (one, other) } else { (other, one) };
    first.replace("a.yaml", &service("a", "10.96.0.1"));
    second.replace("b.yaml", &service("b", "10.96.0.2"));
    second.replace("c.yaml", &service("c", "10.96.0.1"));
    let dir = second.path().display().to_string();
    let feed = Feed::serving(net, first, &["--dir", &dir]);
    let names = || {
        let list = feed.json(SERVICES);
        let items = list["items"].as_array().unwrap().iter();
        let names: Vec<_> =
            items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        names.join(" ")
    };
    assert_eq!(names(), "a b", "c asks for the address of a");
    second.replace("c.yaml", &service("c", "10.96.0.3"));
    eventually("both folders are watched", || (names() == "a b c").then_some(()));
    std::fs::remove_file(feed.folder.file("a.yaml")).unwrap();
    eventually("one folder may be empty", || (names() == "b c").then_some(()));
}

#[test]
fn a_folder_that_is_not_there_is_a_bad_configuration() {
    let net = Net::new();
    let args = ["feed", "--dir", "/nonexistent/manifests", "--listen", &net.addr(1, 1).to_string()];
    let process = Switchyard::start(net.addr(1, 7401), &args);
    assert_eq!(process.wait().code(), Some(2));
}

#[test]
fn http_2_is_spoken_in_the_clear() {
    let feed = Feed::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = runtime.block_on(async {
        use http_body_util::{BodyExt, Empty};
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let stream = tokio::net::TcpStream::connect(feed.addr).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let uri = format!("http://{}{SLICES}", feed.addr);
        let get = |uri: String| {
            http::Request::builder().uri(uri).body(Empty::<bytes::Bytes>::new()).unwrap()
        };
        let watch = sender.send_request(get(format!("{uri}?{STREAMING}"))).await.unwrap();
        let list = sender.send_request(get(uri)).await.unwrap();
        let list = list.into_body().collect().await.unwrap().to_bytes();
        let first = watch.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"{\"type\":\"ADDED\""));
        list
    });
    assert!(body.starts_with(b"{\"kind\":\"EndpointSliceList\""), "{body:?}");
}

#[test]
fn bad_requests_get_an_answer_and_nobody_else_notices() {
    let feed = Feed::start();
    let mut healthy = feed.watch(&format!("{SERVICES}?{STREAMING}"));
    healthy.until_bookmark();
    for garbage in [
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, really not",
        "GET http://[ HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = connect(feed.addr);
        stream.write_all(garbage.as_bytes()).unwrap();
        // The server may have closed already: then there is nothing to shut down.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{garbage:?}");
    }
    let long = format!("{SERVICES}?labelSelector={}", "a".repeat(60_000));
    assert_eq!(feed.get(&long).code, 400);
    for query in [
        "labelSelector=%ff",
        "limit=99999999999999999999",
        "continue=%00",
        "watch=1&resourceVersion=-1",
    ] {
        let code = feed.get(&format!("{SERVICES}?{query}")).code;
        assert!(matches!(code, 400 | 500), "{query}: {code}");
    }
    let endless = "watch=1&resourceVersion=0&timeoutSeconds=18446744073709551615";
    assert_eq!(feed.watch(&format!("{SERVICES}?{endless}")).event()["type"], "ADDED");
    feed.folder.replace("api.yaml", &service("api", "10.96.0.11"));
    assert_eq!(healthy.until_bookmark().0, ["ADDED api"]);
    drop(healthy);
    eventually("no connection is counted that is gone", || {
        (feed.metric("switchyard_feed_connections") == 0.0).then_some(())
    });
}

#[test]
fn a_write_is_told_where_to_write() {
    let feed = Feed::start();
    let path = "/api/v1/namespaces/shop/services/web";
    let reply = request(feed.addr, "DELETE", path, &["Content-Length: 0"]);
    assert_eq!(reply.code, 405);
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("change the manifests in the folder"), "{message}");
    let reply = request(feed.addr, "GET", SERVICES, &["Host: evil.example"]);
    assert_eq!(reply.code, 403, "a foreign name");
}

/// A consumer that reads nothing, one that disconnects repeatedly, and one that lists everything
/// repeatedly do not affect another consumer.
#[test]
fn slow_and_broken_consumers_never_delay_another() {
    let feed = Feed::start();
    let mut first = feed.watch(&format!("{SERVICES}?{STREAMING}"));
    first.until_bookmark();
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(feed.addr);
            let path = format!("{SERVICES}?{STREAMING}");
            stream.write_all(head(feed.addr, "GET", &path, &[]).as_bytes()).unwrap();
            stream
        })
        .collect();
    let addr = feed.addr;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        for _ in 0..2 {
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut stream = connect(addr);
                    let path = format!("{SERVICES}?{STREAMING}");
                    let _ = stream.write_all(head(addr, "GET", &path, &[]).as_bytes());
                    let mut byte = [0];
                    let _ = BufReader::new(stream).read_exact(&mut byte);
                }
            });
        }
        // Large objects, so that the buffers of clients that read nothing are soon full.
        let padding = "x".repeat(100_000);
        let mut slowest = Duration::ZERO;
        for round in 0..100 {
            let text = service("big", &format!("10.96.1.{}", round % 200 + 1)).replace(
                "namespace: shop",
                &format!("namespace: shop, annotations: {{padding: {padding}}}"),
            );
            let begun = Instant::now();
            feed.folder.replace("big.yaml", &text);
            let (told, _) = first.until_bookmark();
            assert_eq!(told.len(), 1, "{told:?}");
            slowest = slowest.max(begun.elapsed());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(slowest < PROMPTLY, "{slowest:?}");
    });
    assert!(feed.metric("switchyard_feed_watchers{resource=\"services\"}") >= 9.0);
    drop(slow);
    eventually("those who left are forgotten", || {
        (feed.metric("switchyard_feed_watchers{resource=\"services\"}") == 1.0).then_some(())
    });
}

#[test]
fn watches_and_connections_are_bounded() {
    // One client never gets all connections.
    let feed = Feed::with(&["--max-watches", "3", "--max-connections", "5"]);
    let path = format!("{SERVICES}?{STREAMING}");
    let open: Vec<_> = (0..2).map(|_| feed.watch(&path)).collect();
    let refused = feed.get(&path);
    assert_eq!(refused.code, 429);
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", refused.head);
    let idle: Vec<_> = (0..2).map(|_| connect(feed.addr)).collect();
    let mut beyond = connect(feed.addr);
    let mut answer = Vec::new();
    let closed = beyond.read_to_end(&mut answer);
    assert!(closed.is_err() || answer.is_empty(), "{answer:?}");
    assert!(feed.metric("switchyard_feed_refused_connections_total") >= 1.0);
    drop((open, idle));
    eventually("there is room again", || {
        let mut stream = connect(feed.addr);
        let _ = stream.write_all(head(feed.addr, "GET", "/version", &[]).as_bytes());
        let mut answer = Vec::new();
        (stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200"))
            .then_some(())
    });
}

#[test]
fn operators_see_what_is_served() {
    let feed = Feed::start();
    let (code, snapshot) = feed.process.admin_get("/snapshot");
    assert_eq!(code, 200);
    let snapshot: serde_json::Value = serde_json::from_str(&snapshot).unwrap();
    assert_eq!(snapshot["generation"], 1);
    assert!(snapshot["objects"]["secrets"]["shop/key"].is_string(), "{snapshot}");
    assert!(!snapshot.to_string().contains("c2VzYW1l"), "no content");
    let status = feed.process.status();
    assert_eq!(status["server"]["listen"], json!([feed.addr.to_string()]));
    assert_eq!(status["server"]["resourceVersion"], json!(feed.version().to_string()));
    assert_eq!(status["feed"]["state"], "synced");
    feed.get("/api/v1/nothing");
    let before = feed.metric("switchyard_feed_requests_total{code=\"4xx\"}");
    feed.get("/api/v1/nothing");
    let after = feed.metric("switchyard_feed_requests_total{code=\"4xx\"}");
    assert_eq!(after, before + 1.0);
    assert!(feed.metric("switchyard_programming_seconds_count") >= 1.0);
    assert!(feed.metric("switchyard_feed_connections") >= 0.0);
}
