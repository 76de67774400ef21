//! A feed server with its own folder, and a minimal HTTP/1.1 client that shows responses exactly as
//! they were sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::support::{Folder, Net, PATIENCE, Switchyard, own_token};

/// A Service, its slice and a Secret.
pub(crate) const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.2]}]
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: shop}
stringData: {password: sesame}
";

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const STREAMING: &str =
    "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

/// A Service with nothing but a name and a cluster IP.
pub(crate) fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

/// A running feed server.
pub(crate) struct Feed {
    pub(crate) process: Switchyard,
    pub(crate) addr: SocketAddr,
    pub(crate) net: Net,
    pub(crate) folder: Folder,
}

impl Feed {
    /// Serves a folder with [`SHOP`] in it.
    pub(crate) fn start() -> Feed {
        Feed::with(&[])
    }

    pub(crate) fn with(args: &[&str]) -> Feed {
        let folder = Folder::new();
        folder.replace("shop.yaml", SHOP);
        Feed::serving(Net::new(), folder, args)
    }

    pub(crate) fn serving(net: Net, folder: Folder, args: &[&str]) -> Feed {
        let addr = net.addr(1, 7400);
        let (dir, listen) = (folder.path().display().to_string(), addr.to_string());
        let mut all = vec!["feed", "--dir", &dir];
        if !args.contains(&"--listen") {
            all.extend(["--listen", &listen]);
        }
        all.extend(args);
        let process = Switchyard::ready(net.addr(1, 7401), &all);
        Feed { process, addr, net, folder }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        request(self.addr, "GET", path, &[])
    }

    /// Sends the token of the feed's own user.
    pub(crate) fn get_with_token(&self, path: &str) -> Reply {
        let token = format!("Authorization: Bearer {}", own_token(self.addr));
        request(self.addr, "GET", path, &[&token])
    }

    /// The JSON of a path that must exist.
    pub(crate) fn json(&self, path: &str) -> Value {
        let reply = self.get(path);
        assert_eq!(reply.code, 200, "{path}: {}", reply.text());
        reply.json()
    }

    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        let list = self.json(&format!("{SERVICES}?limit=1"));
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn watch(&self, path: &str) -> Lines {
        Lines::open(self.addr, path)
    }

    /// A number that `/metrics` shows under that name.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.process.admin_get("/metrics");
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// Sends one request on a connection of its own and reads the whole answer.
pub(crate) fn request(addr: SocketAddr, method: &str, path: &str, headers: &[&str]) -> Reply {
    let mut stream = connect(addr);
    stream.write_all(head(addr, method, path, headers).as_bytes()).unwrap();
    answer(&mut BufReader::new(stream))
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn head(addr: SocketAddr, method: &str, path: &str, headers: &[&str]) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        text.push_str(&format!("Host: {addr}\r\n"));
    }
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    text + "\r\n"
}

/// Reads an answer whose connection closes after it.
pub(crate) fn answer<R: Read>(stream: &mut BufReader<R>) -> Reply {
    let (code, head) = read_head(stream);
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while let Some(chunk) = read_chunk(stream) {
            body.extend(chunk);
        }
    } else {
        stream.read_to_end(&mut body).unwrap();
    }
    Reply { code, head, body }
}

fn read_head<R: Read>(stream: &mut BufReader<R>) -> (u16, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "closed within the head: {head}");
    }
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
}

/// The next chunk; `None` after the last.
fn read_chunk<R: Read>(stream: &mut BufReader<R>) -> Option<Vec<u8>> {
    let mut size = String::new();
    stream.read_line(&mut size).unwrap();
    let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("{size:?}"));
    let mut chunk = vec![0; size + 2];
    stream.read_exact(&mut chunk).unwrap();
    chunk.truncate(size);
    (size > 0).then_some(chunk)
}

/// The lines of a watch.
pub(crate) struct Lines {
    stream: BufReader<TcpStream>,
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn open(addr: SocketAddr, path: &str) -> Lines {
        let mut stream = connect(addr);
        stream.write_all(head(addr, "GET", path, &[]).as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let (code, head) = read_head(&mut stream);
        assert_eq!(code, 200, "{path}: {head}");
        Lines { stream, rest: Vec::new() }
    }

    /// The next line; `None` at the orderly end of the stream.
    pub(crate) fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.rest.extend(read_chunk(&mut self.stream)?);
        }
    }

    /// The next line that is not a bookmark.
    pub(crate) fn event(&mut self) -> Value {
        loop {
            let line = self.next().expect("the stream goes on");
            if line["type"] != "BOOKMARK" {
                return line;
            }
        }
    }

    /// Lines up to the next bookmark, as `TYPE name`, and the bookmark's version.
    pub(crate) fn until_bookmark(&mut self) -> (Vec<String>, u64) {
        let mut told = Vec::new();
        loop {
            let line = self.next().expect("the stream goes on");
            let metadata = &line["object"]["metadata"];
            if line["type"] == "BOOKMARK" {
                return (told, metadata["resourceVersion"].as_str().unwrap().parse().unwrap());
            }
            let kind = line["type"].as_str().unwrap();
            told.push(format!("{kind} {}", metadata["name"].as_str().unwrap()));
        }
    }
}
