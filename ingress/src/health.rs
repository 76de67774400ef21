//! Active health checks of endpoints, where annotations ask for them.
//!
//! They run on the control runtime: one task for each endpoint, which begins at a random moment of
//! its first interval, so that checks are spread over time. A data path reads only the result, a
//! flag of the endpoint. While no endpoint of a Service is healthy, all are used.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::snapshot::{Endpoint, HealthCheck, HealthTarget, Probe};

/// Endpoints that are checked; the others count as healthy.
const MAX_CHECKED: usize = 4_096;
/// Checks at one time.
const MAX_PROBES: usize = 128;
/// Of an answer, so many bytes are read for its status.
const MAX_STATUS_BYTES: usize = 64;
/// An interval is lengthened by up to a tenth, so that checks do not fall into step.
const JITTER: f64 = 0.1;

/// The checks of all endpoints.
#[derive(Debug)]
pub(crate) struct Checks {
    tasks: HashMap<usize, Task>,
    probes: Arc<Semaphore>,
    is_full: bool,
}

#[derive(Debug)]
struct Task {
    check: HealthCheck,
    /// Keeps its address from being used again for another endpoint.
    endpoint: Arc<Endpoint>,
    task: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
        // What is not checked is not unhealthy.
        self.endpoint.set_healthy(true);
    }
}

impl Checks {
    pub(crate) fn new() -> Checks {
        let probes = Arc::new(Semaphore::new(MAX_PROBES));
        Checks { tasks: HashMap::new(), probes, is_full: false }
    }

    /// Checks these endpoints from now on, and no others.
    pub(crate) fn set(&mut self, targets: Vec<HealthTarget>) {
        if targets.is_empty() && self.tasks.is_empty() {
            return;
        }
        let mut before = std::mem::take(&mut self.tasks);
        let is_full = targets.len() > MAX_CHECKED;
        if is_full && !self.is_full {
            tracing::warn!(limit = MAX_CHECKED, "too many endpoints to check: some are not");
        }
        self.is_full = is_full;
        for HealthTarget { service, endpoint, check } in targets.into_iter().take(MAX_CHECKED) {
            let key = Arc::as_ptr(&endpoint) as usize;
            // Several routes lead to it.
            if self.tasks.contains_key(&key) {
                continue;
            }
            let same = before.remove(&key).filter(|task| task.check == check);
            let task = same.unwrap_or_else(|| {
                let run = run(service, endpoint.clone(), check.clone(), self.probes.clone());
                Task { check, endpoint, task: tokio::spawn(run) }
            });
            self.tasks.insert(key, task);
        }
    }
}

async fn run(service: String, endpoint: Arc<Endpoint>, check: HealthCheck, probes: Arc<Semaphore>) {
    endpoint.set_healthy(true);
    sleep(check.interval.mul_f64(random())).await;
    let (mut successes, mut failures) = (0, 0);
    loop {
        let result = {
            let _permit = probes.acquire().await;
            let asked = timeout(check.timeout, probe(&endpoint, &check.probe)).await;
            asked.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        };
        let address = endpoint.address;
        match result {
            Ok(()) => (successes, failures) = (successes + 1, 0),
            Err(_) => (successes, failures) = (0, failures + 1),
        }
        if endpoint.is_healthy() && failures >= check.unhealthy_threshold {
            endpoint.set_healthy(false);
            let error = result.err().map(|error| error.to_string()).unwrap_or_default();
            tracing::warn!(%service, %address, error, "endpoint is unhealthy");
        } else if !endpoint.is_healthy() && successes >= check.healthy_threshold {
            endpoint.set_healthy(true);
            tracing::info!(%service, %address, "endpoint is healthy again");
        }
        sleep(check.interval.mul_f64(1.0 + JITTER * random())).await;
    }
}

/// A number from 0 to 1.
fn random() -> f64 {
    rand::rng().random()
}

/// Asks an endpoint once.
async fn probe(endpoint: &Endpoint, probe: &Probe) -> io::Result<()> {
    let mut stream = TcpStream::connect(endpoint.address).await?;
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http(path) => {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: switchyard-health-check\r\n\
                 Accept: */*\r\nConnection: close\r\n\r\n",
                endpoint.address
            );
            stream.write_all(request.as_bytes()).await?;
            http_status(stream).await
        }
        Probe::Grpc => grpc_health(stream, &endpoint.address.to_string()).await,
    }
}

/// Reads the status of an answer.
async fn http_status(mut stream: TcpStream) -> io::Result<()> {
    let mut read = Vec::new();
    while !read.contains(&b'\n') && read.len() < MAX_STATUS_BYTES {
        if stream.read_buf(&mut read).await? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&read);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_whitespace().nth(1));
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(io::Error::other(format!("status {status}"))),
        None => Err(io::Error::other("the answer is not HTTP/1.1")),
    }
}

/// Calls `grpc.health.v1.Health/Check` for the whole server.
async fn grpc_health(stream: TcpStream, authority: &str) -> io::Result<()> {
    let (mut client, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    let exchange = async {
        let request =
            http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
                .version(http::Version::HTTP_2)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .map_err(io::Error::other)?;
        let (response, mut body) = client.send_request(request, false).map_err(io::Error::other)?;
        // An empty message: no compression, and no bytes.
        body.send_data(Bytes::from_static(&[0; 5]), true).map_err(io::Error::other)?;
        let mut body = response.await.map_err(io::Error::other)?.into_body();
        let mut message = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(io::Error::other)?;
            let _ = body.flow_control().release_capacity(data.len());
            message.extend_from_slice(&data);
            if message.len() > MAX_STATUS_BYTES {
                break;
            }
        }
        // Behind the five bytes of its frame: field 1, a number, 1 for SERVING.
        match message.get(5..) {
            Some([0x08, 0x01, ..]) => Ok(()),
            _ => Err(io::Error::other("the health service does not answer SERVING")),
        }
    };
    tokio::select! {
        result = exchange => result,
        ended = connection => match ended {
            Ok(()) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A health service that answers one call with this message, after the five bytes of its frame.
    async fn grpc_server(message: &'static [u8]) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()["content-type"], "application/grpc");
                let response = http::Response::builder().header("content-type", "application/grpc");
                let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
                body.send_data(Bytes::from_static(message), false).unwrap();
                let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())];
                body.send_trailers(trailers.into_iter().collect()).unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_grpc_server_is_healthy_if_it_says_serving() {
        let table: [(&[u8], bool); 3] = [
            (&[0, 0, 0, 0, 2, 0x08, 1], true),
            (&[0, 0, 0, 0, 2, 0x08, 2], false),
            (&[0, 0, 0, 0, 0], false),
        ];
        for (message, is_healthy) in table {
            let address = grpc_server(message).await;
            let stream = TcpStream::connect(address).await.unwrap();
            let asked = grpc_health(stream, &address.to_string()).await;
            assert_eq!(asked.is_ok(), is_healthy, "{message:?}: {asked:?}");
        }
    }

    #[tokio::test]
    async fn a_status_below_400_is_healthy() {
        let table = [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 404 No\r\n\r\n", false),
            ("HTTP/1.1 503 No\r\n\r\n", false),
            ("SSH-2.0\r\n", false),
            ("", false),
        ];
        for (answer, is_healthy) in table {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            server.write_all(answer.as_bytes()).await.unwrap();
            drop(server);
            assert_eq!(http_status(stream).await.is_ok(), is_healthy, "{answer:?}");
        }
    }
}
