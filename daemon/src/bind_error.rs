//! Why an address cannot be bound, and what to do: which process holds it, which privilege is
//! missing, or that no interface has it.
//!
//! The holder is found in `/proc` (proc_pid_net(5)): the inode of the socket in `/proc/net`, then
//! the process that has it open. Only root can see this for the processes of other users.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::failure::Failure;

/// What is bound at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// `st` of a listening TCP socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// What is wrong with the address, and what to do, in one line. `flag` is the flag that gives
/// another address; empty if there is none.
pub fn describe(
    address: SocketAddr,
    transport: Transport,
    flag: &str,
    error: &io::Error,
) -> String {
    let or_another = match flag {
        "" => String::new(),
        flag => format!(", or choose another address with {flag}"),
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => match holder(address, transport) {
            Some(holder) => format!("{address} is in use by {holder}: stop it{or_another}"),
            None => format!("{address} is in use by another process: stop it{or_another}"),
        },
        io::ErrorKind::PermissionDenied if address.port() < 1024 => format!(
            "{address}: ports below 1024 need a privilege: \
             `setcap cap_net_bind_service=+ep` on the binary, \
             `sysctl net.ipv4.ip_unprivileged_port_start=0`, or in a systemd unit \
             `AmbientCapabilities=CAP_NET_BIND_SERVICE`{or_another}"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("{address}: no interface of this machine has this address{or_another}")
        }
        _ if flag.is_empty() => format!("{address}: {error}"),
        _ => format!("{address}: {error}; choose another address with {flag}"),
    }
}

/// [`describe`] as the failure that ends a process.
pub fn failure(
    address: SocketAddr,
    transport: Transport,
    flag: &str,
    error: &io::Error,
) -> Failure {
    let what = format!("cannot listen: {}", describe(address, transport, flag, error));
    Failure::Failed { what, source: None }
}

/// The process that has the address bound, as `nginx (process 4711)`. `None` if it belongs to
/// another user or has ended.
fn holder(address: SocketAddr, transport: Transport) -> Option<String> {
    let files: [&str; 2] = match transport {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let tables = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let inodes: Vec<String> = tables.flat_map(|table| inodes(&table, address, transport)).collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if sockets.is_empty() {
        return None;
    }
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    });
    for (pid, folder) in processes {
        let has_it = std::fs::read_dir(folder.join("fd")).is_ok_and(|descriptors| {
            descriptors.filter_map(Result::ok).any(|descriptor| {
                let target = std::fs::read_link(descriptor.path());
                target.is_ok_and(|target| sockets.iter().any(|socket| target == Path::new(socket)))
            })
        });
        if has_it {
            return Some(format!("{} (process {pid})", name_of(&folder)));
        }
    }
    None
}

/// The program's name; for Switchyard, with its subcommand.
fn name_of(folder: &Path) -> String {
    let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
    let name = name.trim();
    if name != "switchyard" {
        return name.to_owned();
    }
    let command = std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
    let subcommand = command.split('\0').nth(1).unwrap_or_default();
    format!("{name} {subcommand}").trim_end().to_owned()
}

/// The sockets of a table of `/proc/net` that keep `address` from being bound.
fn inodes(table: &str, address: SocketAddr, transport: Transport) -> Vec<String> {
    let rows = table.lines().skip(1).filter_map(|row| {
        let fields: Vec<&str> = row.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_bound = transport == Transport::Udp || *state == LISTENING;
        let conflicts = conflict(parse_local(local)?, address);
        (is_bound && conflicts).then(|| (*inode).to_owned())
    });
    rows.collect()
}

/// Whether two sockets cannot both have their address: same port, and the same IP or one of them
/// on all IPs.
fn conflict(held: SocketAddr, wanted: SocketAddr) -> bool {
    let (a, b) = (held.ip().to_canonical(), wanted.ip().to_canonical());
    held.port() == wanted.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// An address as `/proc/net` writes it: each four bytes as a number in the machine's byte order,
/// in hexadecimal, and the port.
fn parse_local(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = ip.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn tcp(address: SocketAddr, flag: &str) -> String {
        let error = TcpListener::bind(address).unwrap_err();
        describe(address, Transport::Tcp, flag, &error)
    }

    #[test]
    fn an_address_in_use_names_its_holder() {
        let me = std::fs::read_to_string("/proc/self/comm").unwrap();
        let holder = format!("{} (process {})", me.trim(), std::process::id());
        for ip in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
            let Ok(held) = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)) else {
                continue; // No IPv6 here.
            };
            let address = held.local_addr().unwrap();
            let wanted = format!(
                "{address} is in use by {holder}: stop it, or choose another address \
                         with --http"
            );
            assert_eq!(tcp(address, "--http"), wanted);
        }
        // A socket on all addresses blocks a single one, and the other way round.
        let held = TcpListener::bind("0.0.0.0:0").unwrap();
        let one = SocketAddr::new([127, 0, 0, 1].into(), held.local_addr().unwrap().port());
        assert!(tcp(one, "").contains(&holder));
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let error = UdpSocket::bind(address).unwrap_err();
        let said = describe(address, Transport::Udp, "--listen", &error);
        assert!(said.contains(&holder), "{said}");
    }

    #[test]
    fn a_missing_privilege_says_how_to_get_it() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let at = "0.0.0.0:80".parse().unwrap();
        let said = describe(at, Transport::Tcp, "--http", &error);
        for way in ["setcap cap_net_bind_service", "ip_unprivileged_port_start", "Ambient"] {
            assert!(said.contains(way), "{said}");
        }
    }

    #[test]
    fn an_address_of_another_machine_says_so() {
        let said = tcp("192.0.2.1:8080".parse().unwrap(), "--http");
        assert!(said.contains("no interface of this machine has this address"), "{said}");
    }

    #[test]
    fn addresses_of_proc_are_read() {
        let ours: SocketAddr = "127.0.0.1:7411".parse().unwrap();
        let word = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        assert_eq!(parse_local(&format!("{word}:1CF3")), Some(ours));
        for text in ["", "0100007F", "0100007:1CF3", "0100007F:zz", "01:1CF3"] {
            assert_eq!(parse_local(text).filter(|at| *at == ours), None, "{text}");
        }
    }
}
