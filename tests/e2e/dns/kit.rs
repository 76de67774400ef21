//! What the DNS tests share: a responder that follows a folder, and clients of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use hickory_proto::op::Message;

use crate::support::{Folder, Net, PATIENCE, Switchyard};

#[path = "../../../dns/src/oracle/text.rs"]
mod text;

pub(crate) use text::{question, rows, show, with_edns};

/// The objects that the table of rows is about.
pub(crate) const OBJECTS: &str = include_str!("objects.yaml");
/// One Service, for tests that are about something else.
pub(crate) const ONE_SERVICE: &str = "{ apiVersion: v1, kind: Service, \
     metadata: { name: web, namespace: ns }, \
     spec: { clusterIP: 10.0.0.1, ports: [{ name: http, port: 80 }] } }";
/// A question about it.
pub(crate) const WEB: &str = "web.ns.svc.Z A";

/// Not the default port, which a responder of this machine may use on all addresses.
pub(crate) const PORT: u16 = 5311;

/// A port that is free on all addresses, over UDP and TCP. Not chosen by the kernel, which gives
/// ports of its range to connections of other tests.
pub(crate) fn free_port(ip: &str) -> u16 {
    // Tests that run in parallel begin at different ports.
    static CALLS: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let call = CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let first = 20_000 + (std::process::id() % 5_000) as u16 + call * 100;
    let is_free = |port: &u16| {
        let address = format!("{ip}:{port}");
        UdpSocket::bind(&address).is_ok() && std::net::TcpListener::bind(&address).is_ok()
    };
    (first..first + 5_000).find(is_free).unwrap()
}

/// A responder that follows a folder of its own.
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) net: Net,
    pub(crate) folder: Folder,
    pub(crate) process: Switchyard,
    pub(crate) addr: SocketAddr,
}

impl Dns {
    /// Starts one for a folder with this manifest, without an upstream, and waits for it to be
    /// ready.
    pub(crate) fn start(manifest: &str) -> Dns {
        Dns::start_with(manifest, &["--upstream", "none"])
    }

    /// Starts one with flags besides `--feed` and `--listen`.
    pub(crate) fn start_with(manifest: &str, flags: &[&str]) -> Dns {
        let net = Net::new();
        let folder = Folder::new();
        folder.replace("objects.yaml", manifest);
        let addr = net.addr(53, PORT);
        let listen = addr.to_string();
        let mut args = vec!["dns", "--feed", folder.path().to_str().unwrap(), "--listen", &listen];
        args.extend(flags);
        let process = Switchyard::ready(net.addr(53, 7431), &args);
        Dns { net, folder, process, addr }
    }

    /// A socket of a client on loopback, towards the responder.
    pub(crate) fn client(&self) -> UdpSocket {
        client_of(self.addr)
    }

    /// A connection to the responder.
    pub(crate) fn connect(&self) -> Connection {
        Connection::to(self.addr)
    }

    /// Asks over UDP, with EDNS, so that answers are whole.
    pub(crate) fn ask(&self, asked: &str) -> Message {
        exchange(&self.client(), &with_edns(question(asked), 1232, false))
    }

    /// The reply as lines, over UDP.
    pub(crate) fn show(&self, asked: &str) -> Vec<String> {
        show(&self.ask(asked))
    }

    /// The value of the first metric line with this prefix.
    pub(crate) fn metric(&self, start: &str) -> f64 {
        metric_of(&self.process, start)
    }
}

/// The value of a process's first metric line with this prefix.
pub(crate) fn metric_of(process: &Switchyard, start: &str) -> f64 {
    let text = process.admin_get("/metrics").1;
    let line = text.lines().find(|line| line.starts_with(start));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}

/// A connected UDP socket with a time-out.
pub(crate) fn client_of(addr: SocketAddr) -> UdpSocket {
    let own = if addr.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(own).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(addr).unwrap();
    socket
}

/// Sends a message and reads the reply to it.
pub(crate) fn exchange(socket: &UdpSocket, message: &Message) -> Message {
    socket.send(&message.to_vec().unwrap()).unwrap();
    receive(socket)
}

pub(crate) fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 65_535];
    let len = socket.recv(&mut buffer).expect("a reply");
    Message::from_vec(&buffer[..len]).expect("a reply that another codec can read")
}

/// A TCP connection that frames messages.
#[derive(Debug)]
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    pub(crate) fn to(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection(stream)
    }

    pub(crate) fn send(&mut self, message: &Message) {
        self.0.write_all(&framed(message)).unwrap();
    }

    pub(crate) fn receive(&mut self) -> Message {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).expect("a reply");
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut bytes).unwrap();
        Message::from_vec(&bytes).expect("a reply that another codec can read")
    }

    pub(crate) fn ask(&mut self, message: &Message) -> Message {
        self.send(message);
        self.receive()
    }

    /// Whether the responder has ended the connection without another octet; waits for that.
    pub(crate) fn is_ended(&mut self) -> bool {
        match self.0.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A message with its length before it.
pub(crate) fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()
}
