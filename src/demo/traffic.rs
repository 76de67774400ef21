//! The demo's traffic: one function for each part, which sends, compares and prints.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use http::Version;
use tokio::time::Instant;

use super::client::{self, Answer};
use super::stage::{FEED_PORT, Stage};
use super::table::{Row, Table};

/// Requests in a row of the table that shows balancing: a multiple of 2 and of 3 endpoints.
const REQUESTS: usize = 30;

/// The port of the Services. It differs from the ingress's port: an ingress that listens on all
/// addresses would block it for ClusterIPs.
const SERVICE_PORT: u16 = 8000;

/// How long a change of the folder may take until it is served; it takes about 20 ms at best.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends everything and prints a row for each.
///
/// # Errors
///
/// When the table cannot be printed or the folder cannot be written; traffic that fails is a
/// row, not an error.
pub(crate) async fn send<W: Write>(stage: &Stage, table: &mut Table<W>) -> anyhow::Result<()> {
    dns(stage, table).await?;
    proxy(stage, table).await?;
    ingress(stage, table).await?;
    feed(stage, table).await?;
    change(stage, table).await
}

async fn dns<W: Write>(stage: &Stage, table: &mut Table<W>) -> anyhow::Result<()> {
    let server = stage.node(1053);
    let web = stage.ip(0, 10).to_string();
    let db = [stage.ip(3, 1).to_string(), stage.ip(3, 2).to_string()];
    let (a, srv) = (RecordType::A, RecordType::SRV);
    let queries = [
        ("web.demo.svc.cluster.local.", a, vec![web]),
        ("db.demo.svc.cluster.local.", a, db.to_vec()),
        ("db-1.db.demo.svc.cluster.local.", a, db[1..].to_vec()),
        (
            "_sql._tcp.db.demo.svc.cluster.local.",
            srv,
            vec!["db-0:5432".to_owned(), "db-1:5432".to_owned()],
        ),
        ("web.demo.cluster.local.", a, vec![]),
    ];
    for (name, record_type, expected) in queries {
        let (answered, as_expected) = match client::resolve(server, name, record_type).await {
            Err(error) => (error.to_string(), false),
            Ok(answer) => {
                let mut data: Vec<_> = answer.answers.iter().map(|r| brief(&r.data)).collect();
                data.sort();
                let found = !expected.is_empty();
                let code = if found { ResponseCode::NoError } else { ResponseCode::NXDomain };
                let as_expected = data == expected && answer.metadata.response_code == code;
                let text = if found { data.join(", ") } else { "no such name".to_owned() };
                (text, as_expected)
            }
        };
        let sent = format!("{record_type} {}", name.trim_end_matches('.'));
        table.print(&Row { part: "dns", sent, answered, expected: as_expected })?;
    }
    Ok(())
}

/// Record data in a short form: for an SRV record, the first label of the target and the port.
fn brief(data: &RData) -> String {
    match data {
        RData::SRV(srv) => {
            let target = srv.target.to_string();
            let host = target.split('.').next().unwrap_or_default();
            format!("{host}:{}", srv.port)
        }
        other => other.to_string(),
    }
}

async fn proxy<W: Write>(stage: &Stage, table: &mut Table<W>) -> anyhow::Result<()> {
    let cluster_ip = SocketAddr::new(stage.ip(0, 10), SERVICE_PORT);
    let sent = format!("{REQUESTS} TCP to ClusterIP {cluster_ip}");
    let answered = tally(REQUESTS, || http_name(cluster_ip)).await;
    table.print(&even_row("proxy", sent, &answered, "web", 3))?;

    let node_port = stage.node(30080);
    let sent = format!("{REQUESTS} TCP to NodePort {node_port}");
    let answered = tally(REQUESTS, || http_name(node_port)).await;
    table.print(&even_row("proxy", sent, &answered, "api", 2))?;

    let sent = format!("{REQUESTS} UDP to NodePort {node_port}");
    let answered = tally(REQUESTS, || async move {
        let answer = client::datagram(node_port, b"hello").await?;
        Ok(answer.trim_end_matches(" hello").to_owned())
    })
    .await;
    table.print(&even_row("proxy", sent, &answered, "api", 2))?;

    let refused = SocketAddr::new(stage.ip(0, 10), SERVICE_PORT + 1);
    let outcome = tokio::net::TcpStream::connect(refused).await;
    let expected = matches!(&outcome,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused);
    let answered = match outcome {
        Ok(_) => "connected".to_owned(),
        Err(_) if expected => "refused".to_owned(),
        Err(error) => error.to_string(),
    };
    let sent = format!("an unserved port, {refused}");
    table.print(&Row { part: "proxy", sent, answered, expected })?;
    Ok(())
}

async fn ingress<W: Write>(stage: &Stage, table: &mut Table<W>) -> anyhow::Result<()> {
    let http = stage.node(8080);
    let balanced = [("http://shop.example/", "web", 3), ("http://shop.example/api/v1", "api", 2)];
    for (url, service, endpoints) in balanced {
        let answered = tally(REQUESTS, || async move {
            let answer = client::get(http, url).await?;
            Ok(answer.name().unwrap_or_else(|| answer.status.to_string()))
        })
        .await;
        let sent = format!("{REQUESTS} times GET {url}");
        table.print(&even_row("ingress", sent, &answered, service, endpoints))?;
    }
    let table_of_statuses = [
        ("http://eu.shop.example/status", 200),
        ("http://eu.shop.example/status/more", 404),
        ("http://other.example/", 404),
    ];
    for (url, status) in table_of_statuses {
        let (answered, got) = describe(client::get(http, url).await);
        let expected = got.is_some_and(|answer| answer.status == status);
        table.print(&Row { part: "ingress", sent: format!("GET {url}"), answered, expected })?;
    }
    let url = "https://shop.example/";
    let answer = client::get_tls(stage.node(8443), url, stage.certificate()).await;
    let (answered, got) = describe(answer);
    let expected =
        got.is_some_and(|answer| answer.status == 200 && answer.version == Version::HTTP_2);
    let sent = format!("GET {url}, TLS verified");
    table.print(&Row { part: "ingress", sent, answered, expected })?;
    Ok(())
}

/// Lists the Services in the same way as any Kubernetes client.
async fn feed<W: Write>(stage: &Stage, table: &mut Table<W>) -> anyhow::Result<()> {
    let server = stage.node(FEED_PORT);
    let path = "/api/v1/namespaces/demo/services";
    let names = client::get(server, &format!("http://{server}{path}")).await.map(|answer| {
        let list: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names = items.iter().filter_map(|item| item["metadata"]["name"].as_str());
        names.collect::<Vec<_>>().join(", ")
    });
    let expected = names.as_ref().is_ok_and(|names| names == "api, db, web");
    let answered = names.unwrap_or_else(|error| error.to_string());
    table.print(&Row { part: "feed", sent: format!("GET {path}"), answered, expected })?;
    Ok(())
}

/// Removes an endpoint from the folder, and measures the time until no connection reaches it.
async fn change<W: Write>(stage: &Stage, table: &mut Table<W>) -> anyhow::Result<()> {
    let manifest = stage.manifest("web.yaml").unwrap_or_default();
    let gone = format!("  - addresses: [{}]\n", stage.ip(1, 3));
    stage.replace("web.yaml", &manifest.replace(&gone, ""))?;
    let begun = Instant::now();
    let cluster_ip = SocketAddr::new(stage.ip(0, 10), SERVICE_PORT);
    let mut since_change = Duration::ZERO;
    let mut answered = BTreeMap::new();
    while begun.elapsed() < CHANGE_TIMEOUT {
        since_change = begun.elapsed();
        answered = tally(6, || http_name(cluster_ip)).await;
        if !answered.contains_key("web-3") {
            break;
        }
    }
    let part = "feed";
    let sent = format!("web-3 removed: served after {} ms", since_change.as_millis());
    table.print(&even_row(part, sent, &answered, "web", 2))?;
    stage.replace("web.yaml", &manifest)?;
    Ok(())
}

async fn http_name(address: SocketAddr) -> anyhow::Result<String> {
    let answer = client::get(address, &format!("http://{address}/")).await?;
    Ok(answer.name().unwrap_or_else(|| answer.status.to_string()))
}

/// Sends one request after another. Returns how often each name, or error, answered.
async fn tally<F, Fut>(count: usize, mut send: F) -> BTreeMap<String, usize>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<String>>,
{
    let mut answered = BTreeMap::new();
    for _ in 0..count {
        let name = send().await.unwrap_or_else(|error| error.to_string());
        *answered.entry(name).or_default() += 1;
    }
    answered
}

/// A row that expects `endpoints` endpoints of the Service, each as often as the others.
fn even_row(
    part: &'static str,
    sent: String,
    answered: &BTreeMap<String, usize>,
    service: &str,
    endpoints: usize,
) -> Row {
    let total: usize = answered.values().sum();
    let expected = answered.len() == endpoints
        && answered.keys().all(|name| name.starts_with(&format!("{service}-")))
        && answered.values().all(|count| *count == total / endpoints);
    let answered = if expected {
        let names: Vec<&str> = answered.keys().map(String::as_str).collect();
        format!("{}: {} each", names.join(", "), total / endpoints)
    } else {
        let counts: Vec<_> = answered.iter().map(|(name, n)| format!("{name}: {n}")).collect();
        counts.join(", ")
    };
    Row { part, sent, answered, expected }
}

fn describe(answer: anyhow::Result<Answer>) -> (String, Option<Answer>) {
    match answer {
        Err(error) => (error.to_string(), None),
        Ok(answer) => {
            let name = answer.name().map(|name| format!(" from {name}")).unwrap_or_default();
            (format!("{:?} {}{name}", answer.version, answer.status), Some(answer))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_even_spread_over_all_endpoints_is_expected() {
        let table = [
            (vec![("web-1", 10), ("web-2", 10)], true),
            (vec![("web-1", 11), ("web-2", 9)], false),
            (vec![("web-1", 20)], false),
            (vec![("web-1", 10), ("api-1", 10)], false),
            (vec![], false),
        ];
        for (answered, expected) in table {
            let answered: BTreeMap<_, _> =
                answered.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
            let row = even_row("proxy", String::new(), &answered, "web", 2);
            assert_eq!(row.expected, expected, "{row:?}");
        }
    }
}
