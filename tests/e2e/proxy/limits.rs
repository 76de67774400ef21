//! Few descriptors, many frontends, and endpoints that get their client's address.

use std::collections::BTreeSet;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::*;

/// Sets the process's limit of descriptors, and returns what it was.
fn limit_descriptors(process: &Switchyard, to: u64) -> u64 {
    let pid = Pid::from_raw(process.pid() as i32).unwrap();
    // The hard limit stays, so that the soft one can be raised again.
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(to), maximum };
    prlimit(Some(pid), Resource::Nofile, limit).unwrap().current.unwrap()
}

/// The number of the process's next descriptor.
fn next_descriptor(process: &Switchyard) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap();
    let number = |name: std::ffi::OsString| name.to_str().unwrap().parse().unwrap();
    let open: BTreeSet<u64> = open.map(|entry| number(entry.unwrap().file_name())).collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

/// User and system time of the process.
fn cpu_time(process: &Switchyard) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime, in hundredths of a second (proc(5), USER_HZ).
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn without_descriptors_old_connections_live_and_new_ones_wait_at_rest() {
    const A_MOMENT: Duration = Duration::from_millis(100);
    let fixture = Fixture::start(&manifest(CLUSTER_IP, &[11]), &[]);
    fixture.talkers(8080, &[11]);
    let (vip, process) = (fixture.addr(1, 80), fixture.process());
    let mut old: Vec<TcpStream> = (0..20).map(|_| dial(vip).unwrap()).collect();
    for client in &mut old {
        exchange(client).unwrap();
    }
    // Descriptors that were closed left low numbers free. The limit applies to numbers, and
    // descriptors that are closed later must be below it.
    while next_descriptor(process) < 2 * old.len() as u64 {
        let mut client = dial(vip).unwrap();
        exchange(&mut client).unwrap();
        old.push(client);
    }
    // One is left: enough for a client, not for its endpoint.
    let before = limit_descriptors(process, next_descriptor(process) + 1);
    let mut waiting: Vec<TcpStream> = (0..8).map(|_| dial(vip).unwrap()).collect();
    for client in &mut waiting {
        client.set_read_timeout(Some(A_MOMENT)).unwrap();
        client.write_all(b"?").unwrap();
    }
    let (used, since) = (cpu_time(process), Instant::now());
    waiting.retain_mut(|client| client.read_exact(&mut [0]).is_err());
    let (used, elapsed) = (cpu_time(process) - used, since.elapsed());
    assert!(!waiting.is_empty(), "served without a descriptor");
    assert!(used < elapsed / 5, "{used:?} of CPU time in {elapsed:?}");
    for client in &mut old {
        exchange(client).unwrap();
    }
    old.truncate(5);
    let room = Instant::now();
    for client in &mut waiting {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert!(room.elapsed() < PROMPTLY, "{:?}", room.elapsed());
    }
    limit_descriptors(process, before);
    assert_eq!(ask(vip).unwrap(), 11);
}

#[test]
fn ten_thousand_frontends_are_served_by_any_number_of_workers() {
    const SERVICES: usize = 10_000;
    let ip = |number: usize| (number / 200 + 1, number % 200 + 1);
    let (net, folder) = (Net::new(), Folder::new());
    let endpoint = net.addr(11, 8080);
    let mut items = Vec::with_capacity(2 * SERVICES);
    for number in 0..SERVICES {
        let (third, fourth) = ip(number);
        items.push(serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": "demo", "name": format!("s{number}") },
            "spec": {
                "clusterIP": format!("127.254.{third}.{fourth}"),
                "ports": [{ "port": endpoint.port() }],
            },
        }));
        items.push(serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "namespace": "demo", "name": format!("s{number}"),
                "labels": { "kubernetes.io/service-name": format!("s{number}") },
            },
            "ports": [{ "port": endpoint.port() }],
            "endpoints": [{ "addresses": [endpoint.ip().to_string()] }],
        }));
    }
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
    folder.replace("all.json", &list.to_string());
    talker(endpoint, 11);
    let feed = folder.path().to_str().unwrap();
    let args = ["proxy", "--feed", feed, "--workers", "4"];
    let limited = "ulimit -n 20000 && exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_switchyard")]).args(args);
    let admin = net.addr(250, 7411);
    command.arg("--admin").arg(admin.to_string());
    let process = Switchyard::spawn(command, admin);
    // With this many objects, a debug build on a busy machine needs longer than the usual time-out.
    let begun = Instant::now();
    while process.admin_get("/readyz").0 != 200 {
        assert!(begun.elapsed() < PATIENCE * 4, "{:?}", process.admin_get("/readyz"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = process.status();
    assert_eq!(status["proxy"]["frontends"], SERVICES);
    assert_eq!(status["proxy"]["problemCount"], 0, "{status}");
    // Some have a listener for each worker, the others share one.
    let listeners = status["proxy"]["listeners"].as_u64().unwrap();
    assert!((10_000..20_000).contains(&listeners), "{listeners}");
    for number in (0..SERVICES).step_by(97) {
        let (third, fourth) = ip(number);
        let vip = SocketAddr::from(([127, 254, third as u8, fourth as u8], endpoint.port()));
        assert_eq!(ask(vip).unwrap(), 11, "{vip}");
    }
    // One that shares: all clients at once.
    let (third, fourth) = ip(SERVICES - 1);
    let vip = SocketAddr::from(([127, 254, third as u8, fourth as u8], endpoint.port()));
    let mut clients: Vec<TcpStream> = (0..100).map(|_| dial(vip).unwrap()).collect();
    for client in &mut clients {
        assert_eq!(exchange(client).unwrap(), 11);
    }
}

#[test]
fn an_endpoint_is_told_of_its_client() {
    let annotated = "{ name: web, namespace: demo, \
        annotations: { switchyard.dev/proxy-protocol: v2 } }";
    let annotated =
        manifest(CLUSTER_IP, &[11]).replacen("{ name: web, namespace: demo }", annotated, 1);
    let fixture = Fixture::start(&annotated, &[]);
    let listener = TcpListener::bind(fixture.addr(11, 8080)).unwrap();
    let vip = fixture.addr(1, 80);
    let expected = |client: &TcpStream| {
        let (SocketAddr::V4(client), SocketAddr::V4(vip)) = (client.local_addr().unwrap(), vip)
        else {
            panic!("IPv6")
        };
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend(client.ip().octets().into_iter().chain(vip.ip().octets()));
        header.extend(client.port().to_be_bytes().into_iter().chain(vip.port().to_be_bytes()));
        header
    };
    // A client that waits for the endpoint to speak, and one that speaks first.
    for request in [&b""[..], b"request"] {
        let mut client = dial(vip).unwrap();
        client.write_all(request).unwrap();
        let (mut endpoint, _) = listener.accept().unwrap();
        endpoint.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = vec![0; 28 + request.len()];
        endpoint.read_exact(&mut got).unwrap();
        assert_eq!(got, [expected(&client), request.to_vec()].concat());
        endpoint.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }
}
