//! Shortages between machines: full buffers for datagrams, missing endpoint hosts, no free local
//! ports.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::*;

const BURST: usize = 2000;

/// A UDP socket whose own buffer holds the whole burst.
fn with_large_buffer(addr: &str) -> UdpSocket {
    let socket = UdpSocket::bind(addr).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Sends a burst from this machine; how many datagrams come back.
fn burst(from: &Host, to: &str) -> usize {
    let socket = from.run(|| with_large_buffer("0.0.0.0:0"));
    socket.connect(to).unwrap();
    for number in 0..BURST {
        let mut datagram = [7; 100];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        socket.send(&datagram).unwrap();
    }
    let (mut back, mut silent) = (std::collections::BTreeSet::new(), 0);
    // Datagrams in flight arrive within seconds, even on a busy machine.
    while back.len() < BURST && silent < 50 {
        let mut datagram = [0; 100];
        match socket.recv(&mut datagram) {
            Ok(_) => drop(back.insert(datagram)),
            Err(_) => silent += 1,
        }
    }
    back.len()
}

#[test]
#[ignore = "needs root"]
fn a_burst_of_datagrams_comes_back_whole() {
    let cluster = Cluster::start(&manifest("", &[(14, "a")]), &[]);
    let pod = cluster.lab.host(14);
    let endpoint = pod.run(|| with_large_buffer("0.0.0.0:8080"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut datagram = [0; 2000];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = endpoint.recv_from(&mut datagram) {
                    endpoint.send_to(&datagram[..length], from).unwrap();
                }
            }
        });
        let counts = (burst(&cluster.client, "10.77.0.14:8080"), burst(&cluster.client, VIP));
        over.store(true, Ordering::Relaxed);
        assert_eq!(counts, (BURST, BURST), "directly, and by the proxy");
    });
}

/// The sum of a counter over all Services.
fn metric(cluster: &Cluster, name: &str) -> u64 {
    let page = cluster.node.run(|| cluster.proxy.as_ref().unwrap().admin_get("/metrics").1);
    let lines = page.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "needs root"]
fn a_udp_endpoint_whose_host_is_gone_rests() {
    let cluster = Cluster::start(&manifest("", &ALL[..2]), &[]);
    for vip in [VIP, VIP6] {
        let answers = || {
            let socket = cluster.client.udp(vip.parse().unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            udp_ask(&socket).ok()
        };
        eventually("both answer", || {
            let both = [answers()?, answers()?];
            (both[0] != both[1]).then_some(())
        });
    }
    cluster.lab.unplug(&cluster.pods[0].1);
    for vip in [VIP, VIP6] {
        eventually("new clients get the other one", || {
            let sockets: Vec<_> =
                (0..6).map(|_| cluster.client.udp(vip.parse().unwrap())).collect();
            let answers: Vec<_> = sockets
                .iter()
                .map_while(|socket| {
                    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                    udp_ask(socket).ok()
                })
                .collect();
            (answers == ["pod12"; 6]).then_some(())
        });
    }
}

#[test]
#[ignore = "needs root"]
fn a_udp_endpoint_that_nobody_resolves_counts_as_failed() {
    let cluster = Cluster::start(&manifest("", &[(99, "a")]), &[]);
    for vip in [VIP, VIP6] {
        let before = metric(&cluster, "switchyard_proxy_connect_failures_total");
        let socket = cluster.client.udp(vip.parse().unwrap());
        assert!(udp_ask(&socket).is_err());
        eventually("the kernel's report is heard", || {
            (metric(&cluster, "switchyard_proxy_connect_failures_total") > before).then_some(())
        });
    }
}

#[test]
#[ignore = "needs root"]
fn connections_beyond_the_ports_of_one_address_leave_from_another() {
    let cluster = Cluster::new(&manifest("", &ALL[..1]));
    let mut cluster = cluster;
    cluster.node.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
    });
    cluster.node.set("addr add 10.77.0.201/24 dev eth0");
    cluster.run_proxy(&[]);
    cluster.eventually_answers(&cluster.client, VIP, &ALL_NAMES[..1]);
    let vip: SocketAddr = VIP.parse().unwrap();
    // The client closes first, so that each connection keeps its local port for a minute.
    for number in 0..150 {
        assert_eq!(cluster.client.ask(vip).ok().as_deref(), Some("pod11"), "{number}");
    }
    assert!(metric(&cluster, "switchyard_proxy_source_port_exhaustions_total") > 0);
    let failed = (0..100).filter(|_| cluster.client.ask(vip).is_err()).count();
    assert!(failed > 0, "there were more ports than the test knows of");
    let problems = cluster.status()["proxy"]["problems"].clone();
    let problem = &problems.as_array().unwrap()[0];
    assert_eq!(
        (&problem["service"], &problem["what"]),
        (&"demo/web".into(), &"source ports".into())
    );
}
