//! A cold start while the feed is away.

use std::path::Path;

use tempfile::TempDir;

use super::fake::Fake;
use super::faults::{PATIENCE, RECOVERY, World};
use super::*;

fn follow(fake: Fake, state_dir: &Path) -> World {
    let daemon = Daemon { state_dir: Some(state_dir.to_owned()), ..Daemon::detached("test", 1) };
    let config = ApiConfig {
        token_file: None,
        ca_file: None,
        allow_local_endpoints: false,
        stale_after: Duration::from_secs(300),
    };
    let url = format!("http://{}", fake.address).parse().unwrap();
    World::follow_as(daemon, fake, &url, &Patience::default(), &config)
}

/// A folder in which a process has saved `first` and `second`, and a server that has gone.
async fn saved() -> (TempDir, Fake) {
    let folder = TempDir::new().unwrap();
    let fake = Fake::start().await;
    fake.put("first");
    fake.put("second");
    let world = follow(fake, folder.path());
    world.in_sync(PATIENCE).await;
    world.until("saved", |_| folder.path().join("test.objects").exists()).await;
    let World { mut fake, .. } = world;
    fake.stop().await;
    (folder, fake)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_saved_is_served_until_the_feed_comes() {
    let (folder, fake) = saved().await;
    let mut world = follow(fake, folder.path());
    assert_eq!(world.daemon.readiness.reasons().len(), 3, "it waits for the feed first");
    world.in_sync(PATIENCE).await;
    assert!(world.daemon.readiness.reasons().is_empty());
    let page = world.page();
    assert_eq!(page["source"], "snapshot");
    assert_eq!(page["address"], "fake");
    assert_eq!(page["connected"], false);
    assert_eq!(page["objects"]["Service"], 2);
    assert!(page["snapshotSaved"].is_string());
    // What vanished meanwhile goes when the feed comes.
    world.fake.put_untold(&["third"], &["second"]);
    world.fake.resume().await;
    world.in_sync(RECOVERY).await;
    assert_eq!(world.page()["source"], "fake");
    assert!(world.page()["snapshotSaved"].is_null());
    let changes = world.all_changes();
    assert!(changes.contains("second"), "the consumer is told: {changes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_there_is_not_preceded_by_what_was_saved() {
    let (folder, mut fake) = saved().await;
    fake.put_untold(&["third"], &["second"]);
    fake.resume().await;
    let world = follow(fake, folder.path());
    world.in_sync(PATIENCE).await;
    assert!(!world.all_changes().contains("second"), "it was never served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_file_is_as_good_as_none() {
    let (folder, fake) = saved().await;
    let path = folder.path().join("test.objects");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("first", "worst")).unwrap();
    let mut world = follow(fake, folder.path());
    world.until("looked at", |world| world.page()["snapshotFault"].is_string()).await;
    let fault = "the checksum does not match: the file was changed or cut off";
    assert_eq!(world.page()["snapshotFault"], fault);
    // It takes the feed to say how things are.
    assert_eq!(world.updates(), 0);
    assert_eq!(world.daemon.readiness.reasons().len(), 3);
    world.fake.resume().await;
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_refuses_does_not_take_back_what_was_saved() {
    let (folder, fake) = saved().await;
    let mut world = follow(fake, folder.path());
    world.in_sync(PATIENCE).await;
    assert!(world.daemon.readiness.reasons().is_empty());
    world.fake.state().refuse = vec![(500, String::new()); 1000].into();
    world.fake.resume().await;
    let is_refused = |kind: &serde_json::Value| {
        kind["fault"].as_str().is_some_and(|fault| fault.starts_with("500"))
    };
    world
        .until("all kinds are refused", |world| {
            world.page()["kinds"].as_object().unwrap().values().all(is_refused)
        })
        .await;
    assert_eq!(world.page()["source"], "snapshot");
    assert_eq!(world.daemon.readiness.reasons(), [""; 0], "it serves all the while");
    world.fake.state().refuse.clear();
    world.until("the feed is followed", |world| world.page()["source"] == "fake").await;
}
