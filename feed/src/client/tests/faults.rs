//! One test a fault: the state is a fresh list's soon after the fault's end, and what vanished
//! meanwhile is not served for longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::fake::{Act, Fake, Misdeed, bookmark, error, line};
use super::*;
use crate::update::Update;
use model::{Kind, Model};

const KINDS: Kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice, Kind::Ingress]);
/// From the end of a fault until the state is a fresh list's, on a busy machine. That it takes two
/// seconds is tested in simulated time, in the faults of a session.
pub(super) const RECOVERY: Duration = Duration::from_secs(60);
/// What a list of these tests may take.
const MAX_LIST: usize = 1 << 20;
/// How long other conditions may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A client of a fake server.
pub(super) struct World {
    pub(super) fake: Fake,
    pub(super) daemon: Daemon,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    model: Model,
    updates: u64,
    /// Names of Services in all changes so far.
    changes: BTreeSet<String>,
}

impl World {
    /// A client that has listed `first` and `second`.
    async fn new() -> World {
        World::with(Patience::default(), |_| ()).await
    }

    async fn with(patience: Patience, prepare: impl FnOnce(&Fake)) -> World {
        let fake = Fake::start().await;
        prepare(&fake);
        fake.put("first");
        fake.put("second");
        let world = World::follow(fake, &patience, None);
        world.in_sync(PATIENCE).await;
        world
    }

    fn follow(fake: Fake, patience: &Patience, token_file: Option<PathBuf>) -> World {
        let config = ApiConfig {
            token_file,
            ca_file: None,
            allow_local_endpoints: false,
            stale_after: Duration::from_millis(300),
        };
        let url = format!("http://{}", fake.address).parse().unwrap();
        World::follow_url(fake, &url, patience, &config)
    }

    pub(super) fn follow_url(
        fake: Fake,
        url: &Uri,
        patience: &Patience,
        config: &ApiConfig,
    ) -> World {
        World::follow_as(Daemon::detached("test", 1), fake, url, patience, config)
    }

    pub(super) fn follow_as(
        daemon: Daemon,
        fake: Fake,
        url: &Uri,
        patience: &Patience,
        config: &ApiConfig,
    ) -> World {
        let (url, token_file) = (url.clone(), config.token_file.clone());
        let place = ApiSource::Url { url, token_file, ca_file: config.ca_file.clone() };
        let address = "fake".into();
        let follow = Follow { place, address, local_endpoints: true, max_list: MAX_LIST };
        let updates = follow.begin(config, patience, KINDS, &daemon).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        tokio::spawn(consume(updates, seen.clone()));
        World { fake, daemon, seen }
    }

    /// Name → port, which tells the version.
    pub(super) fn here(&self) -> BTreeMap<String, u64> {
        let model = self.seen.lock().unwrap().model.clone();
        let services = model.services();
        services
            .map(|e| (e.service.name.name.to_string(), u64::from(e.service.ports[0].port.get())))
            .collect()
    }

    pub(super) fn there(&self) -> BTreeMap<String, u64> {
        let state = self.fake.state();
        state.services.iter().map(|(name, v)| (name.clone(), 1 + v % 60_000)).collect()
    }

    /// Waits until the state here is the server's.
    pub(super) async fn in_sync(&self, within: Duration) {
        let begun = Instant::now();
        while self.here() != self.there() || self.updates() == 0 {
            let took = begun.elapsed();
            assert!(took < within, "{:?} here, {:?} there", self.here(), self.there());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn all_changes(&self) -> BTreeSet<String> {
        self.seen.lock().unwrap().changes.clone()
    }

    pub(super) fn updates(&self) -> u64 {
        self.seen.lock().unwrap().updates
    }

    pub(super) fn page(&self) -> serde_json::Value {
        self.daemon.admin.status()["feed"].clone()
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < PATIENCE, "never: {what}: {}", self.page());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn requests(&self, containing: &str) -> usize {
        let state = self.fake.state();
        state.requests.iter().filter(|request| request.contains(containing)).count()
    }
}

async fn consume(mut updates: Updates, seen: Arc<Mutex<Seen>>) {
    while let Some(Update { model, changes, synced, .. }) = updates.next().await {
        assert!(synced);
        let mut seen = seen.lock().unwrap();
        seen.model = model;
        seen.updates += 1;
        seen.changes.extend(changes.services.iter().map(|name| name.name.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_arrive() {
    let world = World::new().await;
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
    world.fake.put("first");
    world.in_sync(RECOVERY).await;
    world.fake.delete("second");
    world.in_sync(RECOVERY).await;
    assert_eq!(world.requests("sendInitialEvents"), 3, "one streaming list a kind");
    assert_eq!(world.requests("limit="), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_ends_or_breaks_resumes() {
    let world = World::new().await;
    for act in [Act::End, Act::Break, Act::End, Act::Break] {
        world.fake.act(act);
        world.fake.put("third");
        world.fake.delete("third");
        world.fake.put("first");
        world.in_sync(RECOVERY).await;
    }
    assert_eq!(world.requests("sendInitialEvents"), 3, "nothing is listed anew");
    assert!(world.requests("limit=1") >= 4, "but the version is probed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubled_and_reordered_events_end_well() {
    let world = World::new().await;
    let version = world.fake.state().version;
    let raw = |text: String| world.fake.act(Act::Raw(text));
    raw(line("MODIFIED", "second", version) + &line("MODIFIED", "second", version));
    raw(line("ADDED", "first", version - 1));
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
    // A deletion, then the addition before it: the object must not come back.
    world.fake.delete("third");
    let version = world.fake.state().version;
    world.until("deleted", |world| world.here() == world.there()).await;
    raw(line("ADDED", "third", version - 1));
    world.fake.put("first");
    world.in_sync(RECOVERY).await;
    assert!(world.requests("sendInitialEvents") > 3, "what is out of order is listed anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_means_a_new_list() {
    let world = World::new().await;
    world.fake.put_untold(&["third"], &["second"]);
    world.fake.act(Act::Raw(error(410)));
    world.in_sync(RECOVERY).await;
    // And at the beginning of a watch.
    world.fake.put_untold(&["fourth"], &["first"]);
    world.fake.act(Act::Break);
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_line_is_asked_for_again() {
    let world = World::new().await;
    for act in [Act::End, Act::Break] {
        let text = line("DELETED", "first", world.fake.state().version + 1);
        world.fake.act(Act::Raw(text[..text.len() / 2].to_owned()));
        world.fake.act(act);
        world.fake.put("third");
        world.in_sync(RECOVERY).await;
        assert!(world.here().contains_key("first"));
    }
    world.fake.act(Act::Raw("{\"type\":\"DEL\n".to_owned()));
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_waited_out() {
    for code in [500, 503, 502, 504, 408] {
        let world = World::new().await;
        world.fake.state().refuse.extend(vec![(code, String::new()); 9]);
        world.fake.act(Act::Break);
        world.fake.put("third");
        world.fake.delete("second");
        world.until("errors are over", |world| world.fake.state().refuse.is_empty()).await;
        world.in_sync(RECOVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_heeded() {
    let world = World::new().await;
    let refuse = vec![(429, "Retry-After: 1\r\n".to_owned()); 3];
    world.fake.state().refuse.extend(refuse);
    let begun = Instant::now();
    world.fake.act(Act::Break);
    world.until("all are refused", |world| world.fake.state().refuse.is_empty()).await;
    world.fake.put("third");
    world.in_sync(Duration::from_secs(1) + RECOVERY).await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_left_and_found_again() {
    let patience = Patience {
        silence_ours: Duration::from_secs(1),
        silence_in_list: Duration::from_secs(1),
        response: Duration::from_secs(1),
        ..Patience::default()
    };
    let world = World::with(patience, |_| ()).await;
    world.fake.state().frozen = true;
    world.until("lost", |world| world.page()["connected"] == false).await;
    assert_eq!(world.here().len(), 2, "it is still served");
    world.fake.put_untold(&["third"], &["second"]);
    world.fake.state().frozen = false;
    world.fake.wake();
    world.in_sync(RECOVERY).await;
    world.until("found", |world| world.page()["connected"] == true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_set_back_is_believed() {
    let world = World::new().await;
    {
        let mut state = world.fake.state();
        state.version = 700;
        state.oldest = 600;
        state.services = [("old".to_owned(), 650)].into();
    }
    world.fake.act(Act::Break);
    world.in_sync(RECOVERY).await;
    // Within a stream: the server starts to count anew and does not end the watch.
    let world = World::new().await;
    {
        let mut state = world.fake.state();
        state.version = 700;
        state.oldest = 600;
        state.services = [("old".to_owned(), 650)].into();
    }
    world.fake.act(Act::Raw(bookmark(700, false)));
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_behind_the_address_is_listed_anew() {
    let world = World::with(Patience::default(), |fake| fake.state().ours = false).await;
    {
        let mut state = world.fake.state();
        state.identity = "second".into();
        // It knows later versions, and even serves ours.
        state.version += 500;
        state.oldest = 0;
        state.services = [("other".to_owned(), 1400)].into();
    }
    world.fake.act(Act::Break);
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_vanishes_during_a_list_is_not_kept() {
    let world = World::new().await;
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
    world.fake.act(Act::Raw(error(410)));
    world.fake.delete("second");
    world.fake.put("fourth");
    world.fake.act(Act::Break);
    world.fake.delete("third");
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookmarks_alone_move_the_version() {
    let world = World::new().await;
    for _ in 0..20 {
        world.fake.state().version += 1;
        world.fake.wake();
    }
    let version = world.fake.state().version;
    world
        .until("told", |world| {
            world.page()["kinds"]["Service"]["resourceVersion"] == *version.to_string()
        })
        .await;
    // Only from that version can it resume.
    world.fake.state().oldest = version;
    world.fake.act(Act::Break);
    let resumed = format!("resourceVersion={version}");
    // A change before that could still come over the old connection.
    world.until("resumed", |world| world.requests(&resumed) >= 1).await;
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
    assert_eq!(world.requests("sendInitialEvents"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_giant_line_costs_nobody_else_anything() {
    let world = World::new().await;
    let version = world.fake.state().version;
    let giant = line("ADDED", "giant", version)
        .replace("\"spec\"", &format!("\"x\":\"{}\",\"spec\"", "x".repeat(MAX_OBJECT)));
    world.fake.act(Act::Raw(giant));
    world
        .until("named", |world| world.page()["rejected"][0]["object"] == "Service shop/giant")
        .await;
    world.fake.put("third");
    world.in_sync(PATIENCE).await;
    assert_eq!(world.requests("limit=1"), 0, "the watch goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_streaming_lists_is_read_in_pages() {
    let prepare = |fake: &Fake| {
        fake.state().streaming = false;
        for n in 0..7 {
            fake.put(&format!("s{n}"));
        }
    };
    let world = World::with(Patience::default(), prepare).await;
    assert!(world.requests("continue=") >= 4);
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
    world.fake.state().expire_tokens = 1;
    world.fake.put_untold(&["s8"], &["s1"]);
    world.fake.act(Act::Raw(error(410)));
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_goes_and_comes_fifty_times() {
    // As if each time it had been there for long.
    let patience = Patience { healthy: Duration::ZERO, ..Patience::default() };
    let mut world = World::with(patience, |_| ()).await;
    for round in 0..50 {
        world.fake.stop().await;
        match round % 3 {
            0 => world.fake.put("first"),
            1 => world.fake.put_untold(&["second", "third"], &["second"]),
            _ => world.fake.delete("third"),
        }
        assert!(world.here().contains_key("first"), "served all the while");
        world.fake.resume().await;
        world.in_sync(RECOVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_feed_is_told_and_its_state_served() {
    let mut world = World::new().await;
    assert!(world.daemon.readiness.reasons().is_empty());
    let metrics = |world: &World| world.daemon.metrics.encode();
    assert!(metrics(&world).contains("switchyard_feed_connected 1"));
    assert!(metrics(&world).contains("switchyard_objects{kind=\"Service\",state=\"served\"} 2"));
    world.fake.stop().await;
    world.until("lost", |world| world.page()["connected"] == false).await;
    assert!(metrics(&world).contains("switchyard_feed_connected 0"));
    world.until("stale", |world| !world.daemon.readiness.reasons().is_empty()).await;
    let reason = world.daemon.readiness.reasons().remove(0);
    assert!(reason.starts_with("feed stale: lost fake at 2"), "{reason}");
    assert_eq!(world.page()["state"], "lost");
    assert!(world.page()["lostSince"].is_string());
    assert_eq!(world.here().len(), 2);
    world.fake.put_untold(&[], &["second"]);
    world.fake.resume().await;
    world.in_sync(RECOVERY).await;
    world.until("back", |world| world.daemon.readiness.reasons().is_empty()).await;
    assert_eq!(world.page()["state"], "synced");
    assert!(world.page()["lostSince"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_server_is_applied_after_a_short_quiet() {
    let world = World::with(Patience::default(), |fake| {
        let mut state = fake.state();
        state.ours = false;
        state.bookmarks = false;
    })
    .await;
    let updates = world.updates();
    for n in 0..50 {
        world.fake.put(&format!("s{n}"));
    }
    world.in_sync(RECOVERY).await;
    assert!(world.updates() - updates < 10, "{} updates", world.updates() - updates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_it_is_told_who_we_are_it_waits() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "wrong").unwrap();
    let fake = Fake::start().await;
    fake.state().token = Some("right".into());
    fake.put("first");
    let patience = Patience { backoff: Duration::from_millis(200), ..Patience::default() };
    let world = World::follow(fake, &patience, Some(file.clone()));
    world
        .until("refused", |world| {
            let reasons = world.daemon.readiness.reasons();
            reasons.len() == 3 && reasons.iter().all(|reason| reason.contains("401 no"))
        })
        .await;
    let reasons = world.daemon.readiness.reasons();
    let services = "waiting for the list of Services: 401 no; the token in ";
    assert!(reasons.iter().any(|reason| reason.starts_with(services)), "{reasons:?}");
    // The file is read anew when the server refuses what was in it.
    std::fs::write(&file, "right").unwrap();
    world.in_sync(PATIENCE).await;
    assert!(world.daemon.readiness.reasons().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_objects_are_named_and_their_last_good_state_stays() {
    let world = World::new().await;
    let version = world.fake.state().version;
    let invalid = line("MODIFIED", "first", version).replace("\"port\":", "\"port\":-");
    world.fake.act(Act::Raw(invalid));
    world
        .until("named", |world| world.page()["rejected"][0]["object"] == "Service shop/first")
        .await;
    let message = world.page()["rejected"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("must be between 1 and 65535"), "{message}");
    assert!(world.here().contains_key("first"));
    assert!(
        world
            .daemon
            .metrics
            .encode()
            .contains("switchyard_objects{kind=\"Service\",state=\"rejected\"} 1")
    );
    world.fake.put("first");
    world.in_sync(RECOVERY).await;
    world.until("fixed", |world| world.page()["errors"] == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_kind_does_not_delay_the_others() {
    const REFUSED: &str =
        "403 no; a client without a token may not read this: give --feed-token-file";
    let world = World::new().await;
    world.fake.state().forbid = Some("/ingresses");
    world.fake.act(Act::Break);
    world.until("refused", |world| world.page()["kinds"]["Ingress"]["fault"] == REFUSED).await;
    // The first change may wait a second for the kind to come back; no later one does.
    let mut took = Vec::new();
    while took.len() < 60 && !took.iter().any(|took| *took < Duration::from_millis(500)) {
        let begun = Instant::now();
        world.fake.put("first");
        world.in_sync(RECOVERY).await;
        took.push(begun.elapsed());
    }
    assert!(took.len() < 60, "all of them are late: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_no_apis_does_not_make_our_feed_a_foreign_server() {
    let page = "<html>please wait</html>";
    for (code, headers, body, told) in [
        (200, "", page, "200 <html>please wait</html>"),
        (200, "Content-Encoding: gzip\r\n", "\u{1f}\u{8}", "200"),
        (302, "Location: /login\r\n", "", "302"),
        (404, "", "no such page", "404 no such page"),
    ] {
        let world = World::new().await;
        world.fake.state().impostor = Some((code, headers, body));
        world.fake.act(Act::Break);
        let told = format!("no Kubernetes API at this address: /version returned {told}");
        let is_told = |kind: &serde_json::Value| kind["fault"] == *told;
        world
            .until("all kinds are at fault", |world| {
                world.page()["kinds"].as_object().unwrap().values().all(is_told)
            })
            .await;
        world.fake.put("third");
        world.fake.state().impostor = None;
        world.in_sync(RECOVERY).await;
        let kinds = world.page()["kinds"].clone();
        assert_eq!(kinds["Service"]["server"], "switchyard feed", "{code}");
        assert_eq!(world.requests("kube-system"), 0, "it is asked as our own feed: {code}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_heeded_when_the_server_is_asked_who_it_is() {
    let world = World::new().await;
    world.fake.state().impostor =
        Some((429, "Retry-After: 2\r\n", "{\"kind\":\"Status\",\"message\":\"no\"}"));
    world.fake.act(Act::Break);
    world.until("refused", |world| world.page()["kinds"]["Service"]["fault"] == "429 no").await;
    let refused = Instant::now();
    world.fake.state().impostor = None;
    world.fake.put("third");
    world.in_sync(Duration::from_secs(2) + RECOVERY).await;
    // Well above the 100 ms that the first wait would take at most.
    assert!(refused.elapsed() >= Duration::from_millis(1500), "{:?}", refused.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_giant_in_a_list_keeps_its_last_good_state() {
    for streaming in [true, false] {
        let prepare = |fake: &Fake| fake.state().streaming = streaming;
        let world = World::with(Patience::default(), prepare).await;
        world.fake.state().giant = Some("second");
        world.fake.put_untold(&["third"], &["first"]);
        world.fake.act(Act::Raw(error(410)));
        world.in_sync(PATIENCE).await;
        assert!(world.here().contains_key("second"));
        let page = world.page();
        assert_eq!(page["rejected"][0]["object"], "Service shop/second");
        assert_eq!(page["rejected"][0]["message"], "its JSON is longer than 8 MiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_name_is_an_error_until_the_next_list() {
    let world = World::new().await;
    let nameless = format!("{{\"type\":\"ADDED\",\"x\":\"{}\"}}\n", "x".repeat(MAX_OBJECT));
    world.fake.act(Act::Raw(nameless));
    world.until("counted", |world| world.page()["errors"] == 1).await;
    world.fake.act(Act::Raw(error(410)));
    world.until("listed anew", |world| world.page()["errors"] == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_an_end_is_left() {
    let patience = Patience { backoff: Duration::from_millis(300), ..Patience::default() };
    let world = World::with(patience, |_| ()).await;
    world.fake.state().endless = true;
    world.fake.put_untold(&["third"], &["second"]);
    world.fake.act(Act::Raw(error(410)));
    let fault = "the list takes more than 1 MiB";
    world.until("left", |world| world.page()["kinds"]["Service"]["fault"] == fault).await;
    assert_eq!(world.here().len(), 2, "nothing of it is served, and nothing is gone");
    world.fake.state().endless = false;
    world.in_sync(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_watches_tell_nothing_is_stale() {
    for misdeed in [Misdeed::Half, Misdeed::Gone, Misdeed::Empty, Misdeed::Stuck] {
        let world = World::new().await;
        world.fake.state().misdeed = Some(misdeed);
        let ends = matches!(misdeed, Misdeed::Gone | Misdeed::Empty);
        world.fake.act(if ends { Act::End } else { Act::Break });
        world.until("stale", |world| !world.daemon.readiness.reasons().is_empty()).await;
        let reason = world.daemon.readiness.reasons().remove(0);
        assert!(reason.starts_with("feed stale: lost fake at 2"), "{misdeed:?}: {reason}");
        world.until("lost", |world| world.page()["connected"] == false).await;
        // It asks again and again, and is answered, in a way, each time.
        let asked = world.requests("watch=1");
        if misdeed != Misdeed::Stuck {
            world.until("asked again", |world| world.requests("watch=1") > asked + 6).await;
        }
        assert_eq!(world.daemon.readiness.reasons(), [reason], "{misdeed:?}");
        world.fake.state().misdeed = None;
        world.fake.wake();
        world.fake.put("third");
        world.in_sync(RECOVERY).await;
        world.until("well", |world| world.daemon.readiness.reasons().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_list_that_does_not_end_is_stale() {
    let patience = Patience { silence_in_list: PATIENCE, ..Patience::default() };
    let world = World::with(patience, |_| ()).await;
    {
        let mut state = world.fake.state();
        state.oldest = state.version + 1;
        state.held = true;
    }
    world.fake.act(Act::Raw(error(410)));
    world.until("stale", |world| !world.daemon.readiness.reasons().is_empty()).await;
    let reason = world.daemon.readiness.reasons().remove(0);
    assert!(reason.ends_with("the list that began does not end"), "{reason}");
    world.fake.state().held = false;
    world.fake.act(Act::Break);
    world.until("well", |world| world.daemon.readiness.reasons().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_shows_that_the_server_answers() {
    let world = World::new().await;
    world.fake.act(Act::Break);
    world.until("lost", |world| world.page()["connected"] == false).await;
    // No bookmark, no event: it is open, and that is all that a quiet server can show.
    world.until("found", |world| world.page()["connected"] == true).await;
    assert!(world.daemon.metrics.encode().contains("switchyard_feed_connected 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_bookmarks_is_not_lost_while_nothing_changes() {
    let patience = Patience { silence: Duration::from_millis(100), ..Patience::default() };
    let world = World::with(patience, |fake| {
        let mut state = fake.state();
        state.ours = false;
        state.bookmarks = false;
    })
    .await;
    world.until("synced", |world| world.page()["state"] == "synced").await;
    // Each silence asks whether the server still answers.
    let asked = world.requests("limit=1");
    world
        .until("asked", |world| {
            assert_eq!(world.page()["state"], "synced", "{}", world.page());
            world.requests("limit=1") >= asked + 12
        })
        .await;
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
    assert_eq!(world.requests("sendInitialEvents"), 3, "nothing is listed anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_the_connection_after_each_response_is_followed() {
    let world = World::with(Patience::default(), |fake| {
        let mut state = fake.state();
        state.ours = false;
        state.closes = true;
    })
    .await;
    world.fake.put("third");
    world.in_sync(RECOVERY).await;
    assert!(world.page()["fault"].is_null(), "{}", world.page());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_a_client_without_a_token_says_so() {
    let fake = Fake::start().await;
    {
        let mut state = fake.state();
        (state.ours, state.closes, state.anonymous_version) = (false, true, true);
        state.token = Some("right".into());
    }
    let world = World::follow(fake, &Patience::default(), None);
    world
        .until("refused", |world| {
            let reasons = world.daemon.readiness.reasons();
            let all = |part: &str| reasons.iter().all(|reason| reason.contains(part));
            reasons.len() == 3 && all("401 no; give a token: --feed-token-file")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_replaced_is_used_soon() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first").unwrap();
    let fake = Fake::start().await;
    fake.state().token = Some("first".into());
    let patience = Patience {
        backoff: Duration::from_secs(3600),
        backoff_ours: Duration::from_secs(3600),
        ..Patience::default()
    };
    let world = World::follow(fake, &patience, Some(file.clone()));
    world.in_sync(PATIENCE).await;
    world.fake.state().token = Some("second".into());
    world.fake.act(Act::End);
    let fault = |world: &World| world.page()["fault"].as_str().map(str::to_owned);
    let is_refused = |world: &World| fault(world).is_some_and(|fault| fault.contains("401"));
    world.until("refused", is_refused).await;
    std::fs::write(&file, "second").unwrap();
    world.fake.put("third");
    world.in_sync(PATIENCE).await;
}
