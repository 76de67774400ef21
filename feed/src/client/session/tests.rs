//! Replies of a real kube-apiserver replayed, and a server that does everything wrong.

mod faults;
mod replay;

use std::time::Instant;

use super::*;
use crate::client::machine::Patience;

/// Larger than any object of these tests.
const MAX_OBJECT: usize = 1 << 16;

fn session(seed: u64, max_object: usize) -> Session {
    Session::new(Machine::new(Patience::default(), seed), max_object)
}

/// What was told, a word each: `+name` and `-name` for objects.
fn word(told: &StreamEvent<'_>) -> String {
    let name = |text: &Text<'_>| {
        let (Text::Line(bytes) | Text::Object(bytes)) = text;
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let object = if matches!(text, Text::Line(_)) { &value["object"] } else { &value };
        object["metadata"]["name"].as_str().unwrap().to_owned()
    };
    match told {
        StreamEvent::Init => "init".to_owned(),
        StreamEvent::InitApply(text) => format!("init+{}", name(text)),
        StreamEvent::InitDelete(meta) => format!("init-{}", meta.name),
        StreamEvent::InitDone(version) => format!("done@{version}"),
        StreamEvent::Apply(text, version) => format!("+{}@{version}", name(text)),
        StreamEvent::Delete(meta) => format!("-{}@{}", meta.name, meta.version),
        StreamEvent::Bookmark(version) => format!("@{version}"),
        StreamEvent::TooLong { name, in_list } => {
            let name = name.as_ref().map_or("?", |(_, name)| name);
            format!("{}{name} too long", if *in_list { "init+" } else { "+" })
        }
    }
}

/// Brings a session to where it watches from a version.
fn watching(from: &str) -> Session {
    let mut session = session(1, MAX_OBJECT);
    let now = Instant::now();
    session.response(200, None, now, &mut |_| ());
    let end = format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{from}\",\
         \"annotations\":{{\"k8s.io/initial-events-end\":\"true\"}}}}}}}}\n"
    );
    assert!(session.chunk(end.as_bytes(), now, &mut |_| ()).is_continue());
    session
}

#[test]
fn an_object_beyond_the_limit_is_skipped_and_nothing_else() {
    let line = |name: &str, version: u32, padding: usize| {
        format!(
            "{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"name\":\"{name}\",\
             \"resourceVersion\":\"{version}\"}},\"x\":\"{}\"}}}}\n",
            "x".repeat(padding)
        )
    };
    let stream = line("a", 11, 10) + &line("giant", 12, 5_000_000) + &line("c", 13, 10);
    for size in [1000, 70_000, 6_000_000] {
        let mut session = watching("10");
        let mut told = Vec::new();
        session.response(200, None, Instant::now(), &mut |_| ());
        for chunk in stream.as_bytes().chunks(size) {
            let flow = session.chunk(chunk, Instant::now(), &mut |t| told.push(word(&t)));
            assert!(flow.is_continue());
        }
        assert_eq!(told, ["+a@11", "+giant too long", "+c@13"]);
    }
}

/// A watch line of the object `giant`, beyond the limit.
fn giant(event: &str, version: u32) -> String {
    format!(
        "{{\"type\":\"{event}\",\"object\":{{\"metadata\":{{\"labels\":{{\"name\":\"a\"}},\
         \"name\":\"giant\",\"resourceVersion\":\"{version}\"}},\"x\":\"{}\"}}}}\n",
        "x".repeat(2 * MAX_OBJECT)
    )
}

#[test]
fn a_deletion_beyond_the_limit_deletes() {
    let now = Instant::now();
    let mut session = watching("10");
    let mut told = Vec::new();
    session.response(200, None, now, &mut |_| ());
    let stream = giant("MODIFIED", 11) + &giant("DELETED", 12);
    let flow = session.chunk(stream.as_bytes(), now, &mut |t| told.push(word(&t)));
    assert!(flow.is_continue());
    assert_eq!(told, ["+giant too long", "-giant@12"]);
    // They count like any other: an event below them is out of order.
    let flow = session.chunk(giant("ADDED", 11).as_bytes(), now, &mut |t| panic!("{t:?}"));
    assert_eq!(flow, ControlFlow::Break(Fault::SetBack));
}

#[test]
fn an_object_beyond_the_limit_is_named_in_lists() {
    let now = Instant::now();
    let mut session = session(1, MAX_OBJECT);
    let mut told = Vec::new();
    session.response(200, None, now, &mut |_| ());
    let stream = giant("ADDED", 11) + &giant("DELETED", 12);
    let flow = session.chunk(stream.as_bytes(), now, &mut |t| told.push(word(&t)));
    assert!(flow.is_continue());
    let nameless = format!("{{\"type\":\"ADDED\",\"x\":\"{}\"}}\n", "x".repeat(2 * MAX_OBJECT));
    let flow = session.chunk(nameless.as_bytes(), now, &mut |t| told.push(word(&t)));
    assert!(flow.is_continue());
    assert_eq!(told, ["init+giant too long", "init-giant", "init+? too long"]);
}

#[test]
fn half_a_line_counts_for_nothing() {
    let now = Instant::now();
    let half = &br#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"12""#;
    let mut session = watching("10");
    session.response(200, None, now, &mut |_| ());
    let flow = session.chunk(*half, now, &mut |told| panic!("{told:?}"));
    assert!(flow.is_continue());
    let fault = session.end(now, &mut |told| panic!("{told:?}")).unwrap_err();
    assert!(matches!(fault, Fault::Broken(_)), "{fault}");
    assert!(matches!(session.next(), Next::WaitUntil(_)));
    let mut session = watching("10");
    session.response(200, None, now, &mut |_| ());
    let line = [*half, &b"\n"[..]].concat();
    let flow = session.chunk(&line, now, &mut |told| panic!("{told:?}"));
    assert!(matches!(flow, ControlFlow::Break(Fault::Unreadable(_))), "{flow:?}");
}
