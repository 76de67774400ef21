//! One proxy replaces another, as in a rolling upgrade: no connect fails meanwhile.

use super::*;

/// How often a client connects.
const INTERVAL: Duration = Duration::from_millis(10);
/// Connects before, between and after handovers.
const CONNECTS: usize = 20;

/// Clients that connect again and again until told to end; each failure of theirs is kept.
struct Clients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Clients {
    fn start(addrs: Vec<SocketAddr>) -> Clients {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, count) = (stop.clone(), served.clone());
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for addr in &addrs {
                    match ask(*addr) {
                        Ok(_) => _ = count.fetch_add(1, Ordering::Relaxed),
                        Err(error) => failures.push(format!("{addr}: {error}")),
                    }
                }
                std::thread::sleep(INTERVAL);
            }
            failures
        });
        Clients { stop, served, thread }
    }

    fn eventually_serve_more(&self) {
        let enough = self.served.load(Ordering::Relaxed) + CONNECTS;
        let is_enough = || self.served.load(Ordering::Relaxed) >= enough;
        eventually("clients are served", || is_enough().then_some(()));
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join().unwrap();
        assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), &failures[0]);
    }
}

fn has_no_problem(proxy: &Switchyard) -> bool {
    proxy.status()["proxy"]["problemCount"] == 0
}

#[test]
fn no_connect_fails_while_one_proxy_replaces_another() {
    let mut fixture = Fixture::start(&manifest(NODE_PORT, &[11, 12]), &[]);
    fixture.talkers(8080, &[11, 12]);
    let feed = fixture.folder.path().to_str().unwrap().to_owned();
    let node_ip = fixture.net.ip(200).to_string();
    let addrs = [fixture.addr(1, 80), fixture.addr(200, 30080)];
    let clients = Clients::start(addrs.to_vec());
    clients.eventually_serve_more();
    // Of more data threads than the one before, and of fewer.
    for (admin, workers) in [(251, "3"), (252, "1"), (253, "2")] {
        let args = ["proxy", "--feed", &feed, "--workers", workers, "--node-ip", &node_ip];
        let next = Switchyard::ready(fixture.addr(admin, 7411), &args);
        let problems = next.status()["proxy"]["problems"].to_string();
        for addr in addrs {
            assert!(problems.contains(&format!("{addr} is taken by another process")));
        }
        clients.eventually_serve_more();
        // It has had no client while the other one serves.
        assert_eq!(accepted(&next), 0);
        let last = fixture.process.replace(next).unwrap();
        last.signal(Signal::SIGTERM);
        assert!(last.wait().success());
        clients.eventually_serve_more();
        assert!(has_no_problem(fixture.process()));
        assert!(accepted(fixture.process()) > 0);
    }
    clients.end();
}

#[test]
fn an_answer_under_way_and_the_next_datagram_arrive_over_a_handover() {
    let mut fixture = Fixture::start(&manifest(CLUSTER_IP, &[11]), &[]);
    // An endpoint that answers when the test says so.
    let endpoint = UdpSocket::bind(fixture.addr(11, 8080)).unwrap();
    endpoint.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = UdpSocket::bind(fixture.addr(101, 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(fixture.addr(1, 80)).unwrap();
    client.send(b"1").unwrap();
    let mut question = [0; 9];
    let (_, asker) = endpoint.recv_from(&mut question).unwrap();
    let feed = fixture.folder.path().to_str().unwrap().to_owned();
    let next = Switchyard::ready(fixture.addr(251, 7411), &["proxy", "--feed", &feed]);
    let last = fixture.process.replace(next).unwrap();
    last.signal(Signal::SIGTERM);
    // The answer comes through the process that drains, the next question goes to the new one.
    endpoint.send_to(b"one", asker).unwrap();
    assert!(last.wait().success());
    client.send(b"2").unwrap();
    let (_, next_asker) = endpoint.recv_from(&mut question).unwrap();
    assert_ne!(next_asker, asker);
    endpoint.send_to(b"two", next_asker).unwrap();
    let mut answers: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let mut answer = [0; 9];
            let length = client.recv(&mut answer).unwrap();
            answer[..length].to_vec()
        })
        .collect();
    answers.sort();
    assert_eq!(answers, [b"one".to_vec(), b"two".to_vec()]);
}

/// Connections that a proxy has accepted.
fn accepted(proxy: &Switchyard) -> u64 {
    let metrics = proxy.admin_get("/metrics").1;
    let lines = metrics.lines().filter(|line| line.starts_with("switchyard_proxy_connections_t"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}
