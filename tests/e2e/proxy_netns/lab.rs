//! Network namespaces as machines: a bridge in a namespace of its own, and hosts plugged into it.
//!
//! The bridge is not in the host's namespace, where the firewall of a container runtime may drop
//! frames between its ports.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::support::PATIENCE;

/// A network of machines that is deleted with the test.
#[derive(Debug)]
pub struct Lab {
    bridge: Namespace,
}

/// A machine: `10.77.0.N` and `fd77::N` on the bridge. Or a container of one, see [`Host::pod`].
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    ip: Ipv4Addr,
    last: u8,
}

#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace(format!("switchyard-{}-{number}", std::process::id()));
        ip(&format!("netns add {}", namespace.0));
        namespace.ip("link set lo up");
        namespace
    }

    fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

impl Lab {
    pub fn new() -> Lab {
        let bridge = Namespace::new();
        bridge.ip("link add br0 type bridge mcast_snooping 0");
        bridge.ip("link set br0 up");
        Lab { bridge }
    }

    pub fn host(&self, last: u8) -> Host {
        let namespace = Namespace::new();
        let peer = &namespace.0;
        self.bridge.ip(&format!("link add p{last} type veth peer name eth0 netns {peer}"));
        self.bridge.ip(&format!("link set p{last} master br0 up"));
        namespace.ip(&format!("addr add 10.77.0.{last}/24 dev eth0"));
        namespace.ip(&format!("addr add fd77::{last}/64 dev eth0 nodad"));
        namespace.ip("link set eth0 up");
        Host { namespace, ip: Ipv4Addr::new(10, 77, 0, last), last }
    }

    /// Disconnects a machine: it does not answer any more, not even with a refusal.
    pub fn unplug(&self, host: &Host) {
        self.bridge.ip(&format!("link set p{} down", host.last));
    }
}

impl Host {
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// A container `10.25.0.N` behind a bridge of this machine, `10.25.0.1`.
    pub fn pod(&self, last: u8) -> Host {
        let (pod, bridge) = (Namespace::new(), "pods");
        if !self.show("link show").contains(&format!(" {bridge}:")) {
            self.set(&format!("link add {bridge} type bridge mcast_snooping 0"));
            self.set(&format!("addr add 10.25.0.1/24 dev {bridge}"));
            self.set(&format!("link set {bridge} up"));
        }
        self.set(&format!("link add v{last} type veth peer name eth0 netns {}", pod.0));
        self.set(&format!("link set v{last} master {bridge} up"));
        pod.ip(&format!("addr add 10.25.0.{last}/24 dev eth0"));
        pod.ip("link set eth0 up");
        pod.ip("route add default via 10.25.0.1");
        Host { namespace: pod, ip: Ipv4Addr::new(10, 25, 0, last), last }
    }

    /// Runs `ip` with these arguments on the machine.
    pub fn set(&self, arguments: &str) {
        self.namespace.ip(arguments);
    }

    /// What `ip` prints with these arguments on the machine.
    pub fn show(&self, arguments: &str) -> String {
        let all = ["-n", &self.namespace.0].into_iter().chain(arguments.split(' '));
        let output = Command::new("ip").args(all).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `work` on the machine: its sockets and its child processes belong to it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace.0)).unwrap();
        let on_host = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| match scope.spawn(on_host).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// The name of the `echo` that a connection from here reaches.
    pub fn ask(&self, addr: SocketAddr) -> std::io::Result<String> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"?\n")?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(name(&answer))
        })
    }

    /// Whether a connection from here is refused.
    pub fn is_refused(&self, addr: SocketAddr) -> bool {
        let refused = std::io::ErrorKind::ConnectionRefused;
        self.ask(addr).is_err_and(|error| error.kind() == refused)
    }

    /// A UDP socket here, connected to `addr`.
    pub fn udp(&self, addr: SocketAddr) -> UdpSocket {
        self.run(|| {
            let any: IpAddr = match addr {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(addr).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket
        })
    }
}

/// One try: the name of the `echo` that answered.
pub fn udp_ask(socket: &UdpSocket) -> std::io::Result<String> {
    let mut answer = [0; 100];
    socket.send(b"?")?;
    let length = socket.recv(&mut answer)?;
    Ok(name(&String::from_utf8_lossy(&answer[..length])))
}

fn name(answer: &str) -> String {
    answer.split(' ').next().unwrap_or_default().to_owned()
}
