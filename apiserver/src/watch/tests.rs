//! Watches as their clients see them, on a paused clock.

use serde_json::{Value, json};

use daemon::quota::Client;

use super::*;
use crate::access::{Peer, User};
use crate::entry::Content;
use crate::history::{Change, History, Limits};
use crate::query::{Options, Verb};
use crate::resource::Resource;
use crate::share::Shares;
use crate::text::{PIECE, SHARED};

fn put(resource: Resource, name: &str, app: &str) -> Change {
    let object = json!({"metadata": {"labels": {"app": app}}});
    Change::Put(resource, Content::of(resource, ObjectName::new("shop", name), object, name))
}

fn delete(name: &str) -> Change {
    Change::Delete(Resource::Services, ObjectName::new("shop", name))
}

/// Services `a` and `b` at version 3.
fn server(limits: Limits) -> Server {
    let live = Live::new(History::new(0, limits));
    live.load(vec![put(Resource::Services, "a", "x"), put(Resource::Services, "b", "y")]);
    let metrics = Metrics::new(&daemon::Daemon::detached("feed", 1).metrics);
    Server { live: Arc::new(live), metrics }
}

fn watch_in(server: &Server, resource: Resource, query: &str) -> Result<Stream, Status> {
    let options = Options::parse(resource, &format!("watch=1&{query}"))?;
    let Verb::Watch(watch) = options.verb else { panic!("{query} is no watch") };
    let scope = Scope { resource, namespace: None, selector: options.selector };
    let place = Shares::new("watches", 1, 100).take(Client::Local).unwrap();
    let open = Open::new(server.metrics.watchers(resource), place);
    let peer = Peer { private: true, rebindable: false, address: String::new() };
    let anonymous = (User::Anonymous, None);
    let grant = Grant::new(Arc::default(), server.live.clone(), anonymous, peer, resource);
    Stream::begin(server.clone(), scope, View::Whole, &watch, (grant, open))
}

fn watch(server: &Server, query: &str) -> Stream {
    watch_in(server, Resource::Services, query).unwrap()
}

/// `TYPE name@version` of each line.
fn told(piece: &[u8]) -> String {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let (kind, object) = (line["type"].as_str().unwrap(), &line["object"]);
        let metadata = &object["metadata"];
        match kind {
            "ERROR" => format!("ERROR {}", object["code"]),
            "BOOKMARK" => {
                let end = metadata.get("annotations").map_or("", |_| "!");
                format!("BOOKMARK@{}{end}", metadata["resourceVersion"].as_str().unwrap())
            }
            _ => format!(
                "{kind} {}@{}",
                metadata["name"].as_str().unwrap(),
                metadata["resourceVersion"].as_str().unwrap()
            ),
        }
    };
    let text = std::str::from_utf8(piece).unwrap();
    text.lines().map(line).collect::<Vec<_>>().join(" ")
}

async fn expect(stream: &mut Stream, expected: &str) {
    let piece = stream.next().await;
    assert_eq!(piece.map_or_else(|| "end".to_owned(), |piece| told(&piece)), expected);
}

/// Whether the stream has nothing to say for a while.
async fn is_silent(stream: &mut Stream) -> bool {
    tokio::time::timeout(Duration::from_secs(600), stream.next()).await.is_err()
}

const STREAMING: &str =
    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

#[tokio::test(start_paused = true)]
async fn a_streaming_list_ends_with_a_bookmark_and_goes_on() {
    let server = server(Limits::DEFAULT);
    let mut stream = watch(&server, STREAMING);
    expect(&mut stream, "ADDED a@1 ADDED b@2 BOOKMARK@3!").await;
    server.live.commit(vec![put(Resource::Services, "c", "x"), delete("a")]);
    expect(&mut stream, "ADDED c@4 DELETED a@5 BOOKMARK@5").await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_a_cut_for_the_streams_of_other_kinds() {
    let server = server(Limits::DEFAULT);
    let query = "resourceVersion=3&allowWatchBookmarks=true";
    let mut ingresses = watch_in(&server, Resource::Ingresses, query).unwrap();
    let mut services = watch(&server, query);
    server.live.commit(vec![put(Resource::Services, "c", "x")]);
    expect(&mut services, "ADDED c@4 BOOKMARK@4").await;
    expect(&mut ingresses, "BOOKMARK@4").await;
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_every_ten_seconds_says_that_the_server_is_there() {
    let server = server(Limits::DEFAULT);
    let mut stream = watch(&server, "resourceVersion=3&allowWatchBookmarks=true");
    let begun = Instant::now();
    for _ in 0..3 {
        expect(&mut stream, "BOOKMARK@3").await;
    }
    assert_eq!(begun.elapsed().as_secs(), 30);
    let mut without = watch(&server, "resourceVersion=3");
    assert!(is_silent(&mut without).await, "nobody asked for bookmarks");
    server.live.commit(vec![put(Resource::Secrets, "s", "x")]);
    assert!(is_silent(&mut without).await, "another kind's events");
}

#[tokio::test(start_paused = true)]
async fn watches_begin_where_they_are_asked_to() {
    let server = server(Limits::DEFAULT);
    server.live.commit(vec![put(Resource::Services, "c", "x")]);
    server.live.commit(vec![put(Resource::Services, "c", "y")]);
    expect(&mut watch(&server, "resourceVersion=3"), "ADDED c@4 MODIFIED c@5").await;
    expect(&mut watch(&server, "resourceVersion=4"), "MODIFIED c@5").await;
    let all = "ADDED a@1 ADDED b@2 ADDED c@5";
    expect(&mut watch(&server, "resourceVersion=0"), all).await;
    expect(&mut watch(&server, ""), all).await;
    let now = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    assert!(is_silent(&mut watch(&server, now)).await);
    let code =
        |query: &str| watch_in(&server, Resource::Services, query).unwrap_err().code().as_u16();
    assert_eq!(code("resourceVersion=2"), 410);
    assert_eq!(code("resourceVersion=6"), 410, "another server's version");
    assert_eq!(code(&format!("{STREAMING}&resourceVersion=6")), 504);
}

#[tokio::test(start_paused = true)]
async fn objects_come_into_a_selection_and_leave_it() {
    let server = server(Limits::DEFAULT);
    let mut stream = watch(&server, "resourceVersion=3&labelSelector=app=x");
    server.live.commit(vec![
        put(Resource::Services, "b", "x"),
        put(Resource::Services, "c", "y"),
        put(Resource::Services, "a", "y"),
        delete("c"),
        delete("b"),
    ]);
    expect(&mut stream, "ADDED b@4 DELETED a@6 DELETED b@8").await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_keep_up_is_told_to_list_again() {
    let server = server(Limits { bytes: 10_000, ..Limits::DEFAULT });
    let mut slow = watch(&server, "resourceVersion=3");
    let mut quick = watch(&server, "resourceVersion=3");
    for i in 0..100 {
        let app = i.to_string();
        server.live.commit(vec![put(Resource::Services, "a", &app)]);
        expect(&mut quick, &format!("MODIFIED a@{}", i + 4)).await;
    }
    expect(&mut slow, "ERROR 410").await;
    expect(&mut slow, "end").await;
    assert_eq!(server.metrics.slow_watchers.get(), 1);
    assert_eq!(server.metrics.watchers(Resource::Services).get(), 2);
    drop((slow, quick));
    assert_eq!(server.metrics.watchers(Resource::Services).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_its_time_and_when_the_server_drains() {
    let server = server(Limits::DEFAULT);
    let begun = Instant::now();
    expect(&mut watch(&server, "resourceVersion=3&timeoutSeconds=7"), "end").await;
    assert_eq!(begun.elapsed().as_secs(), 7);
    let mut stream = watch(&server, "resourceVersion=3");
    let ending = async { server.live.drain() };
    let (end, ()) = tokio::join!(stream.next(), ending);
    assert_eq!(end, None);
}

#[tokio::test(start_paused = true)]
async fn no_watch_lasts_for_ever_whatever_its_client_asks_for() {
    let server = server(Limits::DEFAULT);
    for timeout in ["", "&timeoutSeconds=18446744073709551615", "&timeoutSeconds=0"] {
        let begun = Instant::now();
        expect(&mut watch(&server, &format!("resourceVersion=3{timeout}")), "end").await;
        let lasted = begun.elapsed();
        let shortest = MAX_LIFE.mul_f64(1.0 - SPREAD) - Duration::from_secs(1);
        // The clock of the test counts whole milliseconds.
        let longest = MAX_LIFE + Duration::from_millis(1);
        assert!(shortest <= lasted && lasted <= longest, "{timeout}: {lasted:?}");
    }
    assert_eq!(life(None, 0.0), MAX_LIFE);
    assert!(life(None, 1.0) < MAX_LIFE);
    let minute = Duration::from_secs(60);
    assert_eq!(life(Some(minute), 1.0), minute);
}

#[tokio::test(start_paused = true)]
async fn long_states_and_long_pasts_come_in_pieces() {
    let server = server(Limits::DEFAULT);
    let mut follower = watch(&server, "resourceVersion=3&allowWatchBookmarks=true");
    let filtered = "resourceVersion=3&labelSelector=app=last";
    let mut filtered = watch(&server, filtered);
    let names: Vec<_> = (0..2000).map(|i| format!("s{i:04}")).collect();
    server.live.commit(names.iter().map(|n| put(Resource::Services, n, "x")).collect());
    server.live.commit(vec![put(Resource::Services, "z", "last")]);
    let mut state = watch(&server, STREAMING);
    for (stream, lines) in [(&mut follower, 2001), (&mut state, 2003)] {
        let (mut seen, mut pieces) = (Vec::new(), 0);
        while seen.last().is_none_or(|line: &String| !line.contains("BOOKMARK")) {
            let piece = stream.next().await.unwrap();
            assert!(piece.len() < PIECE + 1000, "{}", piece.len());
            seen.extend(std::str::from_utf8(&piece).unwrap().lines().map(str::to_owned));
            pieces += 1;
        }
        assert_eq!(seen.len(), lines + 1);
        assert!(pieces > 3);
    }
    expect(&mut filtered, "ADDED z@2004").await;
}

#[tokio::test(start_paused = true)]
async fn a_large_line_is_shared() {
    let server = server(Limits::DEFAULT);
    let mut streams: Vec<_> = (0..2).map(|_| watch(&server, "resourceVersion=3")).collect();
    let large = "x".repeat(SHARED);
    server.live.commit(vec![put(Resource::Services, "c", &large)]);
    let mut places = Vec::new();
    for stream in &mut streams {
        places.push(stream.next().await.unwrap().as_ptr());
    }
    assert_eq!(places[0], places[1]);
}
