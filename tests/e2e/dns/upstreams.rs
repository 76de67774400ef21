//! Which upstream is asked, and how: servers that are silent, that come back, that do not support
//! EDNS, that forward to us, and that are asked over TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

use super::forwarding::{
    FORWARDED, OBJECTS, answer, is_probe, listening, reply_to, send, start, upstream,
    upstream_with_probes,
};
use super::kit::{Dns, PORT, client_of, exchange, framed, metric_of, question, show};
use crate::support::{Folder, Net, PROMPTLY, Switchyard, eventually};

fn down(dns: &Dns) -> usize {
    dns.process.status()["dns"]["upstreamsDown"].as_array().unwrap().len()
}

/// Three dead upstreams and a good one: each question took two seconds or failed.
#[test]
fn dead_upstreams_cost_little() {
    let net = Net::new();
    for last in 1..4 {
        upstream(net.addr(last, 5353), |_, _, _| {});
    }
    upstream(net.addr(4, 5353), answer);
    let addrs = [1, 2, 3, 4].map(|last| net.addr(last, 5353));
    let dns = start(&addrs, &[]);
    let begun = Instant::now();
    for number in 0..40 {
        let asked = format!("www{number}.example.com A");
        let expected = format!("www{number}.example.com 60 A 192.0.2.1");
        assert_eq!(dns.show(&asked), ["NoError", &expected]);
    }
    assert!(begun.elapsed() < PROMPTLY);
    let good = format!("switchyard_dns_upstream_answers_total{{upstream=\"{}\"}} ", addrs[3]);
    assert!(dns.metric(&good) >= 40.0);
}

#[test]
fn an_upstream_that_comes_back_is_noticed_without_a_client() {
    let net = Net::new();
    let answers = Arc::new(AtomicBool::new(false));
    let switch = answers.clone();
    let addr = net.addr(1, 5353);
    upstream_with_probes(addr, move |query, socket, peer| {
        if switch.load(Relaxed) {
            answer(query, socket, peer);
        }
    });
    let dns = start(&[addr], &["--upstream-timeout", "100ms"]);
    assert_eq!(dns.show("www.example.com A"), ["ServFail"]);
    eventually("down", || (down(&dns) == 1).then_some(()));
    let up = format!("switchyard_dns_upstream_up{{upstream=\"{addr}\"}} ");
    assert_eq!(dns.metric(&up), 0.0);
    answers.store(true, Relaxed);
    eventually("up", || (down(&dns) == 0).then_some(()));
    assert_eq!(dns.show("www2.example.com A")[0], "NoError");
    assert_eq!(dns.metric(&up), 1.0);
}

/// An upstream that answers FORMERR to every OPT record, and one that drops such queries.
#[test]
fn upstreams_without_edns() {
    let net = Net::new();
    let formerr = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        if query.edns.is_some() {
            reply.answers.clear();
            reply.edns = None;
            reply.metadata.response_code = ResponseCode::FormErr;
        }
        send(socket, peer, &reply);
    });
    let dropping = upstream(net.addr(2, 5353), |query, socket, peer| {
        if query.edns.is_none() {
            answer(query, socket, peer);
        }
    });
    for (last, asked) in [(1, formerr), (2, dropping)] {
        let dns = start(&[net.addr(last, 5353)], &[]);
        for name in ["a.example A", "b.example A", "c.example A"] {
            assert_eq!(dns.show(name)[0], "NoError", "{last} {name}");
        }
        let asked = asked.lock().unwrap();
        let edns: Vec<bool> = asked.iter().map(|(query, _)| query.edns.is_some()).collect();
        assert_eq!(edns, [true, false, false, false], "{last}");
    }
}

/// An upstream that relays what it is asked back to us, and later answers by itself.
#[test]
fn a_loop_is_not_used_until_it_is_none() {
    let net = Net::new();
    let (addr, looping, good) = (net.addr(53, PORT), net.addr(1, 5353), net.addr(2, 5353));
    let relays = Arc::new(AtomicBool::new(true));
    let asked = Arc::new(AtomicUsize::new(0));
    let (switch, counted) = (relays.clone(), asked.clone());
    upstream_with_probes(looping, move |query, socket, peer| {
        if !is_probe(query) {
            counted.fetch_add(1, Relaxed);
        }
        if !switch.load(Relaxed) {
            return answer(query, socket, peer);
        }
        let (message, socket) = (query.clone(), socket.try_clone().unwrap());
        std::thread::spawn(move || {
            let relay = client_of(addr);
            relay.send(&message.to_vec().unwrap()).unwrap();
            let mut buffer = [0; 1500];
            if let Ok(len) = relay.recv(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], peer);
            }
        });
    });
    upstream(good, answer);
    let folder = Folder::new();
    folder.replace("objects.yaml", OBJECTS);
    let path = folder.path().to_str().unwrap();
    let (listen, upstreams) = (addr.to_string(), format!("{looping},{good}"));
    let args = ["dns", "--feed", path, "--listen", &listen, "--upstream", &upstreams];
    let process = listening(net, addr, &args);
    // Nobody has asked anything.
    let reason = eventually("the loop in /readyz", || {
        let (status, body) = process.admin_get("/readyz");
        (status == 503 && body.contains("loop")).then_some(body)
    });
    assert!(reason.contains(&format!("upstream {looping} forwards to this server")), "{reason}");
    for name in ["a.example A", "b.example A"] {
        let reply = exchange(&client_of(addr), &question(name));
        assert_eq!(show(&reply)[0], "NoError");
    }
    assert_eq!(asked.load(Relaxed), 0);
    relays.store(false, Relaxed);
    eventually("readiness", || (process.admin_get("/readyz").0 == 200).then_some(()));
    assert_eq!(process.status()["dns"]["upstreamLoops"], serde_json::json!([]));
}

/// A server for DNS over TLS that answers all questions, and the certificate to trust.
fn tls_upstream(addr: SocketAddr, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind(addr).unwrap());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            std::thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).unwrap();
                    let reply = reply_to(&Message::from_vec(&query).unwrap());
                    stream.write_all(&framed(&reply)).unwrap();
                }
            });
        }
    });
    made.cert.pem()
}

#[test]
fn over_tls() {
    let net = Net::new();
    let (addr, at) = (net.addr(53, PORT), net.addr(1, 853));
    let folder = Folder::new();
    folder.replace("objects.yaml", OBJECTS);
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), tls_upstream(at, "dns.example")).unwrap();
    let start = |admin: u8, name: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.env("SSL_CERT_FILE", roots.path()).args(["dns", "--feed"]).arg(folder.path());
        let admin = net.addr(admin, 7431);
        command.args(["--listen", &addr.to_string(), "--admin", &admin.to_string()]);
        let upstream = format!("tls://{}#{name}", at.ip());
        command.args(["--upstream", &upstream, "--workers", "1"]);
        let process = Switchyard::spawn(command, admin);
        eventually("readiness", || (process.admin_get("/readyz").0 == 200).then_some(()));
        (process, client_of(addr))
    };
    let (process, client) = start(53, "dns.example");
    for _ in 0..3 {
        assert_eq!(show(&exchange(&client, &question("www.example.com A"))), FORWARDED);
    }
    let upstreams = process.status()["dns"]["upstreams"].clone();
    assert_eq!(upstreams, serde_json::json!([format!("tls://{at}#dns.example")]));
    drop(process);
    // The certificate is for another name.
    let (process, client) = start(54, "other.example");
    assert_eq!(show(&exchange(&client, &question("www.example.com A"))), ["ServFail"]);
    let failures = format!(
        "switchyard_dns_upstream_failures_total{{upstream=\"tls://{at}#other.example\",\
         reason=\"tls\"}} "
    );
    assert!(metric_of(&process, &failures) >= 1.0);
}
