//! The control side over a mode that only takes notes.

use std::cell::RefCell;
use std::rc::Rc;

use model::{Changes, Model, Object};

use super::*;
use crate::datapath::Report;
use crate::handover::Offer;
use crate::objects::{port, service, slice};
use crate::resolver::FrontendAddress;

/// What the control side asked of the mode.
#[derive(Debug, Default)]
struct Notes {
    /// The frontends of each sync, as addresses.
    synced: Vec<Vec<String>>,
    drained: bool,
    report: Report,
    due: Option<Instant>,
    tended: usize,
}

/// A mode without sockets.
#[derive(Clone, Default)]
struct FakeDatapath(Rc<RefCell<Notes>>);

impl Datapath for FakeDatapath {
    const MODE: &str = "fake";

    async fn sync(&mut self, snapshot: &Snapshot, changed: &BTreeSet<FrontendAddress>) {
        let served = changed.iter().filter(|address| snapshot.frontend(address).is_some());
        let served = served.map(ToString::to_string).collect();
        self.0.borrow_mut().synced.push(served);
    }

    fn report(&self) -> Report {
        self.0.borrow().report.clone()
    }

    fn due(&self) -> Option<Instant> {
        self.0.borrow().due
    }

    async fn tend(&mut self) {
        let mut notes = self.0.borrow_mut();
        (notes.due, notes.tended) = (None, notes.tended + 1);
    }

    async fn take_over(&mut self, offers: Vec<Offer>) -> Vec<bool> {
        vec![false; offers.len()]
    }

    async fn hand_over(&mut self) -> bool {
        false
    }

    async fn drain(self) {
        self.0.borrow_mut().drained = true;
    }
}

/// Runs a control side over the mode beside `test`, then shuts it down.
async fn follow(datapath: FakeDatapath, test: impl AsyncFnOnce(feed::Publisher, Daemon)) {
    let daemon = Daemon::detached("proxy", 1);
    let (publisher, updates) = feed::mailbox();
    let room = Room::new(1000, 10, Limits::default());
    let readiness = daemon.readiness.clone();
    let unprogrammed = readiness.block("waiting for the first snapshot");
    let proxy = Proxy {
        flags: Node::default(),
        node: Node::default(),
        metrics: ProxyMetrics::register(&daemon.metrics),
        published: Arc::default(),
        readiness: ServesNothing { readiness, held: None },
        datapath,
        health_checks: HealthChecks::new(
            (Vec::new(), Arc::default()),
            room,
            daemon.shutdown.clone(),
        ),
        snapshot: Snapshot::default(),
        inbox: Inbox::default(),
    };
    let all = async {
        test(publisher, daemon.clone()).await;
        daemon.shutdown.begin();
    };
    tokio::join!(proxy.follow(updates, &daemon, unprogrammed), all);
}

/// Waits on a paused clock until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    let limit = Duration::from_secs(3600);
    let waits = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(limit, waits).await.expect("the condition never held");
}

/// Adds Service `name` with one endpoint to the model.
fn add(model: &mut Model, changes: &mut Changes, name: &str, ip: &str) {
    let ports = vec![port("", 80, model::Protocol::Tcp, None)];
    let targets = [("", model::Protocol::Tcp, 8080)];
    model.apply(Object::Service(Arc::new(service(name, &[ip], ports))), changes);
    let slice = slice(name, name, &targets, &["10.0.0.1"]);
    model.apply(Object::EndpointSlice(Arc::new(slice)), changes);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_programmed_before_every_kind_is_listed_and_then_all_of_it() {
    let datapath = FakeDatapath::default();
    follow(datapath.clone(), async |publisher, daemon| {
        let (mut model, mut changes) = (Model::default(), Changes::default());
        add(&mut model, &mut changes, "first", "10.96.0.1");
        publisher.publish(model.clone(), changes, std::time::Instant::now(), false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(datapath.0.borrow().synced.is_empty());
        assert_eq!(daemon.readiness.reasons(), ["waiting for the first snapshot"]);
        let mut changes = Changes::default();
        add(&mut model, &mut changes, "second", "10.96.0.2");
        publisher.publish(model, changes, std::time::Instant::now(), true);
        until(|| daemon.readiness.reasons().is_empty()).await;
        assert_eq!(datapath.0.borrow().synced, [["10.96.0.1:80/TCP", "10.96.0.2:80/TCP"]]);
        assert!(!datapath.0.borrow().drained);
    })
    .await;
    assert!(datapath.0.borrow().drained);
}

#[tokio::test(start_paused = true)]
async fn a_mode_that_serves_nothing_is_not_ready_until_it_serves_again() {
    let datapath = FakeDatapath::default();
    let reason = "none of 1 frontends could be opened".to_owned();
    datapath.0.borrow_mut().report.serves_nothing = Some(reason.clone());
    follow(datapath.clone(), async |publisher, daemon| {
        publisher.publish(Model::default(), Changes::default(), std::time::Instant::now(), true);
        until(|| daemon.readiness.reasons() == [reason.as_str()]).await;
        {
            let mut notes = datapath.0.borrow_mut();
            notes.report = Report::default();
            notes.due = Some(Instant::now() + Duration::from_secs(5));
        }
        // What is due by time is looked at after the next update at the latest.
        publisher.publish(Model::default(), Changes::default(), std::time::Instant::now(), true);
        until(|| datapath.0.borrow().tended == 1).await;
        assert!(daemon.readiness.reasons().is_empty());
    })
    .await;
}
