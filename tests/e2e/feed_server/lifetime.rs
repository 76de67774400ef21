//! The end of a feed server, orderly or not, and its return.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::kit::{Feed, SERVICES, STREAMING, service};
use crate::support::Folder;

#[test]
fn watches_end_in_order_at_sigterm() {
    let feed = Feed::start();
    let mut lines = feed.watch(&format!("{SERVICES}?{STREAMING}"));
    lines.until_bookmark();
    let begun = Instant::now();
    feed.process.signal(Signal::SIGTERM);
    assert_eq!(lines.next(), None, "the last chunk, not a broken connection");
    assert!(feed.process.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_server_that_was_killed_comes_back_with_higher_versions() {
    let state = Folder::new();
    let dir = state.path().display().to_string();
    let feed = Feed::with(&["--state-dir", &dir]);
    let mut versions = vec![feed.version()];
    let created = feed.json(SERVICES)["items"][0]["metadata"]["creationTimestamp"].clone();
    let uid = feed.json(SERVICES)["items"][0]["metadata"]["uid"].clone();
    let mut feed = feed;
    for round in 0..3 {
        let ip = format!("10.96.0.{}", 20 + round);
        feed.folder.replace("more.yaml", &service("more", &ip));
        // What an operator's clock does must not matter: the state says what was given out.
        let Feed { process, net, folder, .. } = feed;
        process.signal(Signal::SIGKILL);
        assert!(!process.wait().success());
        feed = Feed::serving(net, folder, &["--state-dir", &dir]);
        versions.push(feed.version());
        let web = feed.json("/api/v1/namespaces/shop/services/web");
        assert_eq!(web["metadata"]["uid"], uid);
        let more = feed.json("/api/v1/namespaces/shop/services/more");
        assert_eq!(more["spec"]["clusterIP"], ip.as_str());
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    let old = versions[0];
    let event = feed.watch(&format!("{SERVICES}?watch=1&resourceVersion={old}")).event();
    assert_eq!(event["object"]["code"], 410, "an earlier process's version");
    assert!(created.is_string());
}

#[test]
fn ages_outlive_the_process_with_a_state_folder() {
    let state = Folder::new();
    let dir = state.path().display().to_string();
    let created = |feed: &Feed| {
        feed.json("/api/v1/namespaces/shop/services/web")["metadata"]["creationTimestamp"].clone()
    };
    let feed = Feed::with(&["--state-dir", &dir]);
    let first = created(&feed);
    crate::support::eventually("the state is written", || {
        let text = std::fs::read_to_string(state.file("feed-server.json")).ok()?;
        text.contains("services/shop/web").then_some(())
    });
    let Feed { process, net, folder, .. } = feed;
    process.signal(Signal::SIGKILL);
    process.wait();
    // The next second, so that a new time would differ.
    let begun = jiff::Timestamp::now().as_second();
    crate::support::eventually("the clock", || {
        (jiff::Timestamp::now().as_second() > begun).then_some(())
    });
    let feed = Feed::serving(net, folder, &["--state-dir", &dir]);
    assert_eq!(created(&feed), first);
}

#[test]
fn a_state_folder_that_cannot_be_written_keeps_nobody_from_serving() {
    let state = Folder::new();
    let dir = state.path().display().to_string();
    // As good as a full disk, also for root: the file cannot be made beside the old one.
    let in_the_way = state.file(".feed-server.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let feed = Feed::with(&["--state-dir", &dir]);
    assert_eq!(feed.json(SERVICES)["items"].as_array().map(Vec::len), Some(1));
    assert!(!state.file("feed-server.json").exists());
    std::fs::remove_dir(&in_the_way).unwrap();
    crate::support::eventually("the state is written", || {
        state.file("feed-server.json").exists().then_some(())
    });
}
