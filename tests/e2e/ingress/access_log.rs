//! The access log, on standard output.

use std::io::Read as _;

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use super::kit::{
    ALL, Client, Endpoint, Speaks, World, annotated, eventually, get, ingress, raw, service,
    status_of,
};
use crate::support::{Net, PATIENCE};

fn manifests() -> String {
    service("web", &["127.N.N.10"])
        + &service("down", &["127.N.N.20"])
        + &ingress("i", &[("a.com", "Prefix", "/shop", "web"), ("a.com", "Prefix", "/", "down")])
}

/// An ingress and the file that its standard output goes to.
fn logging(net: Net, flags: &[&str]) -> (World, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    let flags = [&["--log", "warn"], flags].concat();
    let world = World::start_writing(net, &manifests(), &flags, file.reopen().unwrap()).0;
    (world, file)
}

/// The lines, once there are so many.
async fn lines(file: &NamedTempFile, count: usize) -> Vec<String> {
    let lines = eventually("lines", || {
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        async move { (lines.len() >= count).then_some(lines) }
    })
    .await;
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

#[tokio::test]
async fn lines_of_text_have_the_combined_format() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let (world, log) = logging(net, &["--access-log", "all"]);
    let mut count = 0;
    for speaks in ALL {
        let answer = get(&world, speaks, "a.com", "/shop/x?a=1").await;
        let missing = get(&world, speaks, "b.com", "/").await;
        count += 2;
        let lines = lines(&log, count).await;
        let id = answer.body.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        let protocol = match speaks {
            Speaks::Http1 | Speaks::Http1OverTls => "HTTP/1.1",
            Speaks::Http2 | Speaks::Http2OverTls => "HTTP/2.0",
        };
        let line = &lines[count - 2];
        let (client, rest) = line.split_once(" - - [").unwrap();
        client.parse::<std::net::IpAddr>().unwrap();
        let (time, rest) = rest.split_once("] ").unwrap();
        let format = "%d/%b/%Y:%H:%M:%S %z";
        let time = jiff::Timestamp::strptime(format, time).unwrap();
        assert!(time.duration_until(jiff::Timestamp::now()).as_secs() < 300, "{line}");
        let (rest, times) = rest.split_once(" connect=").unwrap();
        let expected = format!(
            "\"GET /shop/x?a=1 {protocol}\" 200 {} \"-\" \"-\" host=\"a.com\" id={id} \
             ingress=default/i service=default/web:80 endpoint={}:9000 tries=1",
            answer.body.len(),
            world.net.ip(10),
        );
        assert_eq!(rest, expected);
        let times: Vec<_> = times.split([' ', '=']).collect();
        let [connect, "head", head, "total", total, "end", "completion"] = times[..] else {
            panic!("{line}");
        };
        let seconds = [connect, head, total].map(|time| time.parse::<f64>().unwrap());
        assert!(seconds.is_sorted() && seconds[2] > 0.0, "{line}");
        let line = &lines[count - 1];
        let expected = format!("\"GET / {protocol}\" 404 {} ", missing.body.len());
        assert!(line.contains(&expected), "{line}");
        assert!(line.contains(" ingress=- service=- endpoint=- tries=0 connect=- "), "{line}");
        assert!(line.ends_with(" end=no_route"), "{line}");
    }
}

/// What a client writes cannot forge a line, nor a field of it.
#[tokio::test]
async fn a_client_cannot_forge_lines() {
    let request = b"GET /shop/\"y\" HTTP/1.1\r\nHost: a.com\r\nUser-Agent: \"\tx\xff\\\r\n\
        Referer: http://r/\r\nConnection: close\r\n\r\n";
    for format in ["text", "json"] {
        let net = Net::new();
        let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
        let (world, log) = logging(net, &["--access-log", "all", "--access-log-format", format]);
        let status = status_of(&raw(world.http, request).await);
        let line = &lines(&log, 1).await[0];
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["status"], status, "{line}");
            assert_eq!(line["user_agent"], "\"\tx\u{fffd}\\", "{line}");
            assert_eq!(line["referer"], "http://r/", "{line}");
        } else {
            let agent = r#"" \x22\x09x\xFF\x5C" "#.replacen(' ', " \"", 1);
            assert!(line.contains(&agent), "{agent} in {line}");
            assert!(line.contains(r"/\x22y\x22 HTTP/1.1"), "{line}");
            assert_eq!(line.matches('"').count(), 8, "{line}");
        }
        // A request that cannot be read has a line as well.
        let status = status_of(&raw(world.http, b"G\x01T / HTTP/1.1\r\n\r\n").await);
        let line = lines(&log, 2).await.pop().unwrap();
        let expected = match format {
            "json" => format!(r#","status":{status},"#),
            _ => format!(r#""-" {status} "#),
        };
        assert!(line.contains(&expected), "{line}");
    }
}

#[tokio::test]
async fn lines_of_json_say_what_became_of_requests() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let (world, log) = logging(net, &["--access-log", "all", "--access-log-format", "json"]);
    let answer = get(&world, Speaks::Http2OverTls, "a.com", "/shop/x?a=1").await;
    get(&world, Speaks::Http1, "a.com", "/none").await;
    let lines = lines(&log, 2).await;
    let lines: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let time = lines[0]["time"].as_str().unwrap();
    time.parse::<jiff::Timestamp>().unwrap();
    let endpoint = format!("{}:9000", world.net.ip(10));
    let expected = [
        ("client", world.net.ip(1).to_string()),
        ("method", "GET".to_owned()),
        ("host", "a.com".to_owned()),
        ("path", "/shop/x".to_owned()),
        ("query", "a=1".to_owned()),
        ("protocol", "HTTP/2.0".to_owned()),
        ("ingress", "default/i".to_owned()),
        ("path_type", "Prefix".to_owned()),
        ("rule_path", "/shop".to_owned()),
        ("service", "default/web:80".to_owned()),
        ("endpoint", endpoint),
        ("ended_by", "completion".to_owned()),
    ];
    for (name, value) in expected {
        if name != "client" {
            assert_eq!(lines[0][name], value, "{name} of {}", lines[0]);
        }
    }
    assert_eq!(lines[0]["bytes"], answer.body.len(), "{}", lines[0]);
    assert_eq!((&lines[0]["status"], &lines[0]["tries"]), (&200.into(), &1.into()));
    let number = |name: &str| lines[0][name].as_f64().unwrap();
    assert!(number("connect_ms") <= number("head_ms"), "{}", lines[0]);
    assert!(number("head_ms") <= number("total_ms"), "{}", lines[0]);
    assert_eq!((&lines[1]["status"], &lines[1]["ended_by"]), (&502.into(), &"unreachable".into()));
    assert!(lines[1].get("query").is_none() && lines[1].get("connect_ms").is_none());
}

#[tokio::test]
async fn errors_and_samples() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let (world, log) = logging(net, &["--access-log", "errors"]);
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    for _ in 0..20 {
        client.get("a.com", "/shop").await;
    }
    client.get("b.com", "/").await;
    client.get("a.com", "/none").await;
    assert!(lines(&log, 1).await[0].contains(" 502 "));
    drop(world);

    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let (world, log) = logging(net, &["--access-log", "sampled"]);
    let mut client = Client::connect(&world, Speaks::Http2, "a.com").await;
    for _ in 0..1500 {
        client.get("a.com", "/shop").await;
    }
    client.get("a.com", "/none").await;
    // What is still buffered is written at the end.
    world.ingress.signal(Signal::SIGTERM);
    drop(client);
    assert!(world.ingress.wait().success());
    let text = std::fs::read_to_string(log.path()).unwrap();
    let samples = text.lines().filter(|line| line.contains(" 200 ")).count();
    assert!((1..200).contains(&samples), "{samples} of 1500");
    assert_eq!(text.lines().filter(|line| line.contains(" 502 ")).count(), 1);
}

#[tokio::test]
async fn an_ingress_is_left_out_by_its_annotation() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let file = NamedTempFile::new().unwrap();
    let quiet = [("nginx.ingress.kubernetes.io/enable-access-log", "false")];
    let manifests = manifests() + &annotated("quiet", "quiet.com", "web", &quiet);
    let flags = ["--log", "warn", "--access-log", "all"];
    let (world, _) = World::start_writing(net, &manifests, &flags, file.reopen().unwrap());
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    assert_eq!(client.get("quiet.com", "/first").await.status, 200);
    assert_eq!(client.get("a.com", "/shop/last").await.status, 200);
    assert!(lines(&file, 1).await[0].contains("/shop/last"));
}

/// A reader that reads nothing delays no request, and no end of the process.
#[tokio::test]
async fn a_log_that_nobody_reads_delays_nothing() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let (mut reader, writer) = std::io::pipe().unwrap();
    let flags = ["--log", "warn", "--access-log", "all"];
    let (world, _) = World::start_writing(net, &manifests(), &flags, writer);
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    let long = format!("/shop/{}", "x".repeat(4000));
    let mut count = 0;
    let lost = "switchyard_ingress_access_log_lost_total";
    while world.metric(lost) == 0.0 {
        assert!(count < 100_000, "lines are lost at some time");
        for _ in 0..100 {
            assert_eq!(client.get("a.com", &long).await.status, 200);
        }
        count += 100;
    }
    // It reads again: what is written now arrives.
    let read = std::thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        text
    });
    let begun = std::time::Instant::now();
    loop {
        let before = world.metric(lost);
        for _ in 0..100 {
            client.get("a.com", &long).await;
        }
        count += 100;
        if world.metric(lost) == before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "lines are still lost");
    }
    client.get("a.com", "/shop/last").await;
    count += 1;
    world.ingress.signal(Signal::SIGTERM);
    drop(client);
    assert!(world.ingress.wait().success());
    let text = String::from_utf8(read.join().unwrap()).unwrap();
    let whole = text.lines().filter(|line| line.ends_with(" end=completion")).count();
    assert!((1..count).contains(&whole), "{whole} of {count}");
    assert!(text.ends_with(" end=completion\n"));
    assert!(text.contains("/shop/last"));
}
