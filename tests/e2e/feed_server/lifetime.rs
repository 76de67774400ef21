//! Stop, crash and restart of a feed server.

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use super::kit::{Feed, SERVICES, SLICES, STREAMING, service};
use crate::support::{Folder, PROMPTLY, Switchyard, eventually};

const WEB: &str = "/api/v1/namespaces/shop/services/web";

#[test]
fn watches_end_in_order_at_sigterm() {
    let feed = Feed::start();
    let mut lines = feed.watch(&format!("{SERVICES}?{STREAMING}"));
    lines.until_bookmark();
    let begun = Instant::now();
    feed.process.signal(Signal::SIGTERM);
    assert_eq!(lines.next(), None, "the last chunk, not a broken connection");
    assert!(feed.process.wait().success());
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
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
        // The clock of the machine must not matter: the state contains the versions that were used.
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
        let text = std::fs::read_to_string(state.file("feed.objects")).ok()?;
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

/// Kills the feed and starts another with the same state.
fn killed(feed: Feed, dir: &str) -> Feed {
    let Feed { process, net, folder, .. } = feed;
    process.signal(Signal::SIGKILL);
    assert!(!process.wait().success());
    Feed::serving(net, folder, &["--state-dir", dir])
}

#[test]
fn the_last_good_state_outlives_a_feed_that_is_killed() {
    let state = Folder::new();
    let dir = state.path().display().to_string();
    let feed = Feed::with(&["--state-dir", &dir]);
    let ip = |feed: &Feed| feed.json(WEB)["spec"]["clusterIP"].clone();
    let saved = |what: &str| {
        eventually("the state is written", || {
            let text = std::fs::read_to_string(state.file("feed.objects")).ok()?;
            text.contains(what).then_some(())
        });
    };
    saved("10.96.0.10");
    // The objects that this text should define cannot be known.
    feed.folder.replace("shop.yaml", "kind: Service\nspec: [");
    let feed = killed(feed, &dir);
    assert_eq!(ip(&feed), "10.96.0.10");
    assert_eq!(feed.json(SLICES)["items"].as_array().unwrap().len(), 1);
    let rejected = feed.process.status()["feed"]["rejected"].clone();
    assert_eq!(rejected.as_array().unwrap().len(), 1, "{rejected}");
    // One bad object beside a good one, after a second restart.
    let broken = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                  spec: {clusterIP: wrong, ports: [{port: 80}]}\n";
    feed.folder.replace("shop.yaml", &(service("more", "10.96.0.77") + broken));
    let feed = killed(feed, &dir);
    assert_eq!(ip(&feed), "10.96.0.10");
    let more = feed.json("/api/v1/namespaces/shop/services/more");
    assert_eq!(more["spec"]["clusterIP"], "10.96.0.77");
    assert_eq!(feed.json(SLICES)["items"], json!([]), "it is in no file any more");
    // Fixed manifests are used, and objects deleted while no feed runs are removed.
    saved("10.96.0.77");
    std::fs::remove_file(feed.folder.file("shop.yaml")).unwrap();
    feed.folder.replace("other.yaml", &service("other", "10.96.0.78"));
    let feed = killed(feed, &dir);
    eventually("what no file has is gone", || (feed.get(WEB).code == 404).then_some(()));
    assert_eq!(feed.json(SERVICES)["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_folder_that_is_emptied_or_away_at_the_start_takes_nothing_away() {
    let state = Folder::new();
    let dir = state.path().display().to_string();
    let feed = Feed::with(&["--state-dir", &dir]);
    let Feed { process, net, folder, .. } = feed;
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
    let aside = folder.path().with_extension("aside");
    std::fs::rename(folder.path(), &aside).unwrap();
    let mut feed = Feed::serving(net, folder, &["--state-dir", &dir]);
    for what in ["away", "empty"] {
        assert_eq!(feed.json(WEB)["spec"]["clusterIP"], "10.96.0.10", "{what}");
        assert_eq!(feed.process.status()["feed"]["state"], "fault", "{what}");
        if what == "away" {
            std::fs::create_dir(feed.folder.path()).unwrap();
            feed = killed(feed, &dir);
        }
    }
    std::fs::remove_dir(feed.folder.path()).unwrap();
    std::fs::rename(&aside, feed.folder.path()).unwrap();
    eventually("the folder is back", || {
        (feed.process.status()["feed"]["state"] == "synced").then_some(())
    });
    feed.folder.replace("shop.yaml", &service("web", "10.96.0.99"));
    eventually("and is followed", || {
        (feed.json(WEB)["spec"]["clusterIP"] == "10.96.0.99").then_some(())
    });
}

#[test]
fn a_state_that_cannot_be_written_stops_no_feed() {
    let state = Folder::new();
    // Makes every write fail.
    std::fs::create_dir_all(state.file("feed.objects.new/x")).unwrap();
    let dir = state.path().display().to_string();
    let feed = Feed::with(&["--state-dir", &dir]);
    assert_eq!(feed.json(WEB)["spec"]["clusterIP"], "10.96.0.10");
    std::fs::remove_dir_all(state.file("feed.objects.new")).unwrap();
    feed.process.signal(Signal::SIGTERM);
    assert!(feed.process.wait().success());
    let text = std::fs::read_to_string(state.file("feed.objects")).unwrap();
    assert!(text.contains("10.96.0.10"), "it was tried again: {text}");
}

#[test]
fn a_state_folder_is_one_feeds_alone() {
    let state = Folder::new();
    let dir = state.path().display().to_string();
    let feed = Feed::with(&["--state-dir", &dir]);
    let manifests = feed.folder.path().display().to_string();
    let listen = feed.net.addr(2, 7400).to_string();
    let args = ["feed", "--dir", &manifests, "--listen", &listen, "--state-dir", &dir];
    let second = Switchyard::start(feed.net.addr(2, 7401), &args);
    assert_eq!(second.wait().code(), Some(1));
}
