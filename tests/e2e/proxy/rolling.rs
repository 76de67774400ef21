//! Every endpoint of a Service is replaced, one after another, under load: nothing fails, and each
//! set of endpoints is used in exact turns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::*;

const OLD: [u8; 4] = [11, 12, 13, 14];
const NEW: [u8; 4] = [21, 22, 23, 24];
/// Minimum number of turns of each set before the next one.
const TURNS: usize = 5;

#[test]
fn a_rolling_replacement_fails_nothing_and_keeps_the_turns_from_a_folder() {
    let fixture = Fixture::start(&manifest(NODE_PORT, &OLD), &[]);
    replace_all(&fixture);
}

#[test]
fn a_rolling_replacement_fails_nothing_and_keeps_the_turns_over_the_network() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("web.yaml", &net.fill(&manifest(NODE_PORT, &OLD)));
    let dir = folder.path().to_str().unwrap();
    let listen = net.addr(251, 7400).to_string();
    let feed = ["feed", "--dir", dir, "--listen", &listen];
    let _feed = Switchyard::ready(net.addr(251, 7401), &feed);
    let mut fixture = Fixture { net, folder, process: None };
    fixture.follow(&format!("http://{listen}"), &[]);
    replace_all(&fixture);
}

/// Clients that run until they are stopped; their failures fail the test.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn new() -> Load {
        Load { stop: Arc::default(), served: Arc::default(), clients: Vec::new() }
    }

    fn add(&mut self, mut request: impl FnMut() + Send + 'static) {
        let (stop, served) = (self.stop.clone(), self.served.clone());
        self.clients.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                request();
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    /// The number of connections served.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a connection or a request failed");
        }
        self.served.load(Ordering::Relaxed)
    }
}

fn replace_all(fixture: &Fixture) {
    fixture.talkers(8080, &OLD);
    fixture.talkers(8080, &NEW);
    let (vip, node) = (fixture.addr(1, 80), fixture.addr(200, 30080));
    let mut load = Load::new();
    // On the NodePort, which has its own turns: kept connections, and constantly new ones.
    let mut kept: Vec<_> = (0..OLD.len()).map(|_| (dial(node).unwrap(), None)).collect();
    load.add(move || {
        for (client, name) in &mut kept {
            let answered = exchange(client).unwrap();
            assert_eq!(*name.get_or_insert(answered), answered);
        }
    });
    for _ in 0..3 {
        load.add(move || {
            let mut client = dial(node).unwrap();
            (0..3).for_each(|_| _ = exchange(&mut client).unwrap());
        });
    }
    // On the ClusterIP: one connection after another, so that their order is known.
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let names = seen.clone();
    load.add(move || names.lock().unwrap().push(ask(vip).unwrap()));

    let mut sets = vec![OLD.to_vec()];
    for (from, to) in OLD.into_iter().zip(NEW).chain(NEW.into_iter().zip(OLD)) {
        let mut next = sets.last().unwrap().clone();
        next.iter_mut().filter(|name| **name == from).for_each(|name| *name = to);
        next.sort_unstable();
        sets.push(next);
    }
    let mut since = 0;
    for (place, set) in sets.iter().enumerate() {
        if place > 0 {
            fixture.edit(&manifest(NODE_PORT, set));
            eventually("the set is served", || is_served(fixture, set).then_some(()));
            // A connection in progress may already have had its endpoint.
            since = seen.lock().unwrap().len() + 1;
        }
        let enough = since + TURNS * set.len();
        eventually("turns are had", || (seen.lock().unwrap().len() >= enough).then_some(()));
        let served = seen.lock().unwrap()[since..enough].to_vec();
        let mut counts = BTreeMap::new();
        served.iter().for_each(|name| *counts.entry(*name).or_insert(0) += 1);
        let expected = set.iter().map(|name| (*name, TURNS)).collect();
        assert_eq!(counts, expected, "{served:?}");
    }
    assert!(load.end() > 0);
    let seen = seen.lock().unwrap();
    assert!(has_its_turns(&sets, &seen), "{seen:?}");
}

fn is_served(fixture: &Fixture, set: &[u8]) -> bool {
    let page = fixture.process().admin_get("/snapshot").1;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let wanted: Vec<_> = set.iter().map(|name| fixture.addr(*name, 8080).to_string()).collect();
    let mut frontends = page["frontends"].as_array().unwrap().iter();
    frontends.all(|frontend| frontend["endpoints"] == serde_json::json!(wanted))
}

/// Whether these connections, in this order, are turns of these sets, which changed at unknown
/// moments: the next endpoint stays the next, and new ones come after the others.
fn has_its_turns(sets: &[Vec<u8>], connections: &[u8]) -> bool {
    let then = |order: &[u8], set: &[u8]| -> Vec<u8> {
        let stay = order.iter().filter(|name| set.contains(name));
        stay.chain(set.iter().filter(|name| !order.contains(name))).copied().collect()
    };
    // The possible states after each connection: the current set, in the order of its turns.
    let mut possible = BTreeSet::from([(0, sets[0].clone())]);
    for name in connections {
        let mut next = BTreeSet::new();
        for (place, order) in possible {
            let (mut place, mut order) = (place, order);
            loop {
                if order[0] == *name {
                    let mut order = order.clone();
                    order.rotate_left(1);
                    next.insert((place, order));
                }
                place += 1;
                let Some(set) = sets.get(place) else { break };
                order = then(&order, set);
            }
        }
        possible = next;
    }
    possible.iter().any(|(place, _)| *place == sets.len() - 1)
}
