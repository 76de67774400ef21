//! Every reply of a real kube-apiserver to a list or a watch, as the answer to what this client
//! would have asked: what it tells, and what is asked next.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::client::machine::Ask;

/// Where the conversation stands when the reply comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// The first request: a streaming list.
    StreamList,
    /// The first page of a list.
    Page,
    /// A page that a token asked for.
    NextPage,
    /// The probe, before resuming from this version.
    Probe(&'static str),
    /// A watch from this version.
    Watch(&'static str),
}

/// The file, where the conversation stands, what is told, what fault ends it, what follows.
type Case = (&'static str, At, &'static [&'static str], &'static str, &'static str);

const ENDED: &str = "the server ended the watch";
const SET_BACK: &str = "the server was set back to an earlier state";
const NO_LIST: &str = "the response is not a list";
const LIST: &str = "stream";
const PAGE: &str = "page 500";

const STREAMING_LISTS: &[Case] = &[
    (
        "watch-initial-events.http",
        At::StreamList,
        &["init", "init+kubernetes", "init+headless", "init+np", "init+web", "done@234"],
        ENDED,
        "wait probe",
    ),
    (
        "watch-bookmark-60s.http",
        At::StreamList,
        &["init", "init+web-1", "done@250", "@253", "@268", "@273"],
        ENDED,
        "wait probe",
    ),
    ("watch-bookmark-svc.http", At::StreamList, &["init", "done@277"], ENDED, "wait probe"),
    ("watch-bookmark-slice.http", At::StreamList, &["init", "done@253"], ENDED, "wait probe"),
    ("watch-bookmark-ing.http", At::StreamList, &["init", "done@253"], ENDED, "wait probe"),
    ("watch-bookmark-secret.http", At::StreamList, &["init", "done@253"], ENDED, "wait probe"),
    // It never says that it is in sync: never done.
    (
        "watch-initial-events-nobookmark.http",
        At::StreamList,
        &["init", "init+web-1"],
        ENDED,
        "wait stream",
    ),
    ("watch-initial-events-nomatch.http", At::StreamList, &[], "422 ListOptions", PAGE),
    ("watch-initial-events-old-etcd.body.json", At::StreamList, &["init"], "500 a watch", PAGE),
    (
        "watch-initial-events-future.http",
        At::StreamList,
        &["init"],
        "504 Timeout: Too large",
        "wait 1s+ stream",
    ),
    // A server that does not know the parameters answers as to a plain watch.
    ("watch-rv0.http", At::StreamList, &["init", "init+web-1"], ENDED, "wait stream"),
    ("watch-table.http", At::StreamList, &["init"], "an object without a name", "wait stream"),
    ("watch-bad-rv.http", At::StreamList, &[], "500 resourceVersion", "wait stream"),
    ("unauthorized-401.http", At::StreamList, &[], "401 Unauthorized", "wait 10s+ stream"),
    ("forbidden-403.http", At::StreamList, &[], "403 endpointslices", "wait 10s+ stream"),
    ("unknown-resource-404.http", At::StreamList, &[], "404 ", PAGE),
    ("list-bad-accept.http", At::StreamList, &[], "406 ", PAGE),
];

const WATCHES: &[Case] = &[
    (
        "watch-add-modify-delete.http",
        At::Watch("280"),
        &["+web-2@289", "+web-2@290", "-web-2@291"],
        ENDED,
        "wait probe",
    ),
    ("watch-add-modify-delete.http", At::Watch("290"), &[], SET_BACK, LIST),
    (
        "watch-add-modify-delete.http",
        At::Watch("289"),
        &["+web-2@289", "+web-2@290", "-web-2@291"],
        ENDED,
        "wait probe",
    ),
    ("watch-too-old-410.http", At::Watch("1"), &[], "410 ", LIST),
    ("watch-future.http", At::Watch("999999"), &[], ENDED, "wait probe"),
    ("watch-bad-rv.http", At::Watch("abc"), &[], "500 resourceVersion", "wait probe"),
    ("watch-bookmark-60s.http", At::Watch("250"), &[], SET_BACK, LIST),
    ("watch-bookmark-svc.http", At::Watch("277"), &["@277"], ENDED, "wait probe"),
    ("watch-table.http", At::Watch("200"), &[], "an object without a name", "wait probe"),
    ("watch-rv0.http", At::Watch("0"), &["+web-1@215"], ENDED, "wait probe"),
    ("unauthorized-401.http", At::Watch("1"), &[], "401 Unauthorized", "wait probe"),
];

const FIRST_PAGES: &[Case] = &[
    ("list.http", At::Page, &["init", "init+web-1", "done@230"], "", "watch from 230"),
    ("list-empty.http", At::Page, &["init", "done@230"], "", "watch from 230"),
    (
        "list-selector-set.http",
        At::Page,
        &["init", "init+kubernetes", "init+headless", "init+np", "init+web", "done@230"],
        "",
        "watch from 230",
    ),
    ("list-limit1.http", At::Page, &["init", "init+kubernetes"], "", "page 500 after eyJ2"),
    ("list-rv-exact.http", At::Page, &["init", "init+web-1", "done@215"], "", "watch from 215"),
    ("list-metadata.http", At::Page, &["init", "init+web-1", "done@230"], "", "watch from 230"),
    ("list-table.http", At::Page, &["init"], NO_LIST, "wait page 500"),
    ("list-rv-exact-410.http", At::Page, &[], "410 The resourceVersion", PAGE),
    ("list-future-rv.http", At::Page, &[], "504 Timeout: Too large", "wait 1s+ page 500"),
    ("list-bad-rv.http", At::Page, &[], "400 ", "wait page 500"),
    ("list-bad-label-selector.http", At::Page, &[], "400 ", "wait page 500"),
    ("list-bad-field-selector.http", At::Page, &[], "400 ", "wait page 500"),
    ("list-bad-accept.http", At::Page, &[], "406 ", "wait page 500"),
    ("unknown-resource-404.http", At::Page, &[], "404 ", "wait 10s+ page 500"),
    ("unknown-group-404.http", At::Page, &[], "404 404 page not found", "wait 10s+ page 500"),
    ("forbidden-403.http", At::Page, &[], "403 endpointslices", "wait 10s+ page 500"),
];

const NEXT_PAGES: &[Case] = &[
    ("list-limit1-continue.http", At::NextPage, &["init+headless"], "", "page 500 after eyJ2"),
    ("list.http", At::NextPage, &["init+web-1", "done@200"], "", "watch from 200"),
    ("list-bad-continue.http", At::NextPage, &[], "400 ", "wait page 500"),
    ("list-continue-expired-410.http", At::NextPage, &[], "410 ", "page"),
];

const PROBES: &[Case] = &[
    ("list-limit1.http", At::Probe("230"), &[], "", "watch from 230"),
    ("list-limit1.http", At::Probe("229"), &[], "", "watch from 229"),
    ("list-limit1.http", At::Probe("231"), &[], SET_BACK, "wait stream"),
    ("list-empty.http", At::Probe("230"), &[], "", "watch from 230"),
    ("list-table.http", At::Probe("230"), &[], NO_LIST, "wait probe"),
    ("list-rv-exact-410.http", At::Probe("230"), &[], "410 ", "wait stream"),
    ("list-future-rv.http", At::Probe("230"), &[], "504 ", "wait 1s+ probe"),
    ("forbidden-403.http", At::Probe("230"), &[], "403 endpointslices", "wait probe"),
];

fn cases() -> impl Iterator<Item = &'static Case> {
    [STREAMING_LISTS, WATCHES, FIRST_PAGES, NEXT_PAGES, PROBES].into_iter().flatten()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/k8s-wire")
}

/// Status code, Retry-After and body of a reply as it was received.
fn reply(name: &str) -> (u16, Option<Duration>, Vec<u8>) {
    let bytes = std::fs::read(folder().join(name)).unwrap();
    if !bytes.starts_with(b"HTTP/1.1 ") {
        return (200, None, bytes);
    }
    let split = memchr::memmem::find(&bytes, b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
    let header = |name: &str| {
        let line = head.lines().find(|l| l.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':').unwrap().1.trim().to_owned())
    };
    let mut rest = &bytes[split + 4..];
    let mut body = Vec::new();
    if header("transfer-encoding").is_none() {
        body.extend_from_slice(rest);
    } else {
        loop {
            let end = memchr::memchr(b'\r', rest).unwrap();
            let size = std::str::from_utf8(&rest[..end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                break;
            }
            body.extend_from_slice(&rest[end + 2..][..size]);
            rest = &rest[end + 2 + size + 2..];
        }
    }
    let retry_after = header("retry-after").map(|s| Duration::from_secs(s.parse().unwrap()));
    (head[9..12].parse().unwrap(), retry_after, body)
}

fn stand(at: At) -> Session {
    let now = Instant::now();
    match at {
        At::StreamList => session(1, MAX_OBJECT),
        At::Page | At::NextPage => {
            let mut session = session(1, MAX_OBJECT);
            session.response(422, None, now, &mut |_| ());
            session.end(now, &mut |_| ()).unwrap_err();
            if at == At::NextPage {
                session.response(200, None, now, &mut |_| ());
                let page = br#"{"metadata":{"resourceVersion":"200","continue":"x"},
                    "items":[{}]}"#;
                assert!(session.chunk(page, now, &mut |_| ()).is_continue());
                session.end(now, &mut |_| ()).unwrap();
            }
            session
        }
        At::Probe(version) => {
            let mut session = watching(version);
            session.response(200, None, now, &mut |_| ());
            session.failed(&Fault::Ended, now);
            session.wake();
            session
        }
        At::Watch(version) => watching(version),
    }
}

/// What is asked next, and after what wait.
fn next(session: &mut Session, now: Instant) -> String {
    let waits = match session.next() {
        Next::WaitUntil(until) => {
            session.wake();
            let seconds = (until - now).as_secs();
            if seconds > 0 { format!("wait {seconds}s+ ") } else { "wait ".to_owned() }
        }
        Next::Ask(_) => String::new(),
    };
    let Next::Ask(ask) = session.next() else { unreachable!() };
    let ask = match ask {
        Ask::StreamList { .. } => "stream".to_owned(),
        Ask::Page { next, limit } => {
            let limit = limit.map(|limit| format!(" {limit}")).unwrap_or_default();
            let next = next.map(|token| format!(" after {}", &token[..4])).unwrap_or_default();
            format!("page{limit}{next}")
        }
        Ask::Probe => "probe".to_owned(),
        Ask::Watch { from, .. } => format!("watch from {from}"),
    };
    waits + &ask
}

fn check(case: &Case, chunk_size: usize) {
    let (name, at, expected, fault, follows) = *case;
    let (code, retry_after, body) = reply(name);
    let mut session = stand(at);
    let now = Instant::now();
    let mut told = Vec::new();
    let mut tell = |t: StreamEvent<'_>| told.push(word(&t));
    session.response(code, retry_after, now, &mut tell);
    let flow =
        body.chunks(chunk_size).try_for_each(|chunk| match session.chunk(chunk, now, &mut tell) {
            ControlFlow::Break(fault) => Err(fault),
            ControlFlow::Continue(()) => Ok(()),
        });
    let outcome = flow.and_then(|()| session.end(now, &mut tell));
    let outcome = outcome.err().map(|fault| fault.to_string()).unwrap_or_default();
    let context = format!("{name} at {at:?}, chunks of {chunk_size}");
    assert_eq!(told, expected, "{context}");
    let as_said = if fault.is_empty() { outcome.is_empty() } else { outcome.starts_with(fault) };
    assert!(as_said, "{context}: {outcome:?}, not {fault:?}");
    assert_eq!(next(&mut session, now), follows, "{context}");
}

#[test]
fn replies_of_a_real_apiserver() {
    for case in cases() {
        for chunk_size in [1, 7, 100, 4096, usize::MAX] {
            check(case, chunk_size);
        }
    }
}

#[test]
fn every_list_and_watch_reply_is_replayed() {
    let mut left_out = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let ours = name.starts_with("list") || name.starts_with("watch-");
        if ours && !cases().any(|case| case.0 == name) {
            left_out.push(name);
        }
    }
    assert!(left_out.is_empty(), "{left_out:?}");
}
