//! `--service-cidr`: makes every address of the range one of this host, without giving any of
//! them to an interface (a local route to `lo`: AnyIP, Linux 2.6.37).
//!
//! The kernel then takes connections to all ClusterIPs, refuses those that nothing listens on,
//! and answers for them on a bridge (ARP), so that a container can own a part of its network as
//! ClusterIPs. Needs CAP_NET_ADMIN.
//!
//! Each process has a route of its own, with a metric that no other has, so that of two processes
//! with one range, as in a rolling upgrade, each can come and go without a moment in which the
//! range has no route. The process removes its route when it has drained. What a killed process
//! left behind is removed by the next one that starts: a socket with a name made of the metric
//! tells whether the owner still lives. A route that another program removes is added again.
//!
//! Left out: binding. An IPv6 address of the range is bound with `IPV6_FREEBIND`, because there
//! the kernel asks for an address of an interface.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::str::FromStr;
use std::time::Duration;

use daemon::Failure;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Error, Handle, RouteMessageBuilder};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::host_network::{HostNetwork, ipv6_is_disabled};

/// `lo` is the first interface of every network namespace, so the kernel gives it this index.
const LOOPBACK_INDEX: u32 = 1;
/// The table that the kernel looks into first, for its own addresses (ip-route(8): `local`).
const LOCAL_TABLE: u32 = 255;
/// Marks the route as ours, as routing daemons mark theirs. No other program is known by it
/// (iproute2, `rt_protos`).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(83);
/// A wider range is a mistake: the host would own most of the network's addresses.
const SHORTEST_PREFIX: (u8, u8) = (8, 16);
/// Metrics below are for routes that people and other programs make.
const FIRST_METRIC: u32 = 1 << 16;
/// Random metrics that are tried before the process gives up; two are never equal in practice.
const METRIC_TRIES: usize = 16;

/// How often the routes are looked after, in case another program removed one. Adding a route
/// that is there costs the kernel microseconds.
const ASSERT_INTERVAL: Duration = Duration::from_millis(250);

/// The routes that this process has, for as long as it needs them.
#[derive(Debug)]
pub(crate) struct ServiceRoutes {
    keeper: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    /// Ranges without a route, because this host has IPv6 disabled.
    unused: Vec<IpNet>,
}

/// Adds the routes, again if somebody takes them away, and removes them at the end.
#[derive(Debug)]
struct Keeper {
    handle: Handle,
    owner: Owner,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    range: IpNet,
    /// It is not there and could not be added, which has been logged.
    missing: bool,
}

/// A metric that is this process's alone.
#[derive(Debug)]
struct Owner {
    metric: u32,
    /// Open while the process lives; its name holds the metric.
    _alive: UnixDatagram,
}

/// A network as a flag gives it.
///
/// # Errors
///
/// When it is not one, or when its address has bits set beyond its prefix length.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, String> {
    let not_a_cidr = "is not a CIDR (example: 10.96.0.0/16)";
    let (ip, length) = text.split_once('/').ok_or(not_a_cidr)?;
    // Not through the network's own parser, which accepts leading zeros.
    let ip = IpAddr::from_str(ip).map_err(|_| not_a_cidr)?;
    let length = length.parse().map_err(|_| not_a_cidr)?;
    let net = IpNet::new(ip, length).map_err(|_| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        format!("the prefix length must be at most {longest}")
    })?;
    if net.addr() != net.network() {
        return Err(format!("has bits set beyond the prefix length: write {}", net.trunc()));
    }
    Ok(net)
}

/// A range of ClusterIPs as a flag gives it.
///
/// # Errors
///
/// When it is not a network, or one that no host should own as a whole.
pub fn parse_service_cidr(text: &str) -> Result<IpNet, String> {
    let net = parse_network(text)?;
    let ip = net.addr();
    let shortest = if ip.is_ipv4() { SHORTEST_PREFIX.0 } else { SHORTEST_PREFIX.1 };
    if net.prefix_len() < shortest {
        return Err(format!(
            "would make too many addresses this host's own: use a prefix length of at least \
             {shortest}"
        ));
    }
    if net.contains(&loopback_of(ip)) {
        return Err("contains loopback addresses: use another range".to_owned());
    }
    Ok(net)
}

fn loopback_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Why a range must not be this host's own: it covers a network that this host is connected to,
/// whose hosts could no longer be reached. A range may be a part of such a network.
pub(crate) fn overlap(range: &IpNet, host: &HostNetwork) -> Option<String> {
    let mut addresses = host.addresses.iter();
    let address = addresses.find(|address| {
        // A single address connects to no network; some programs give ClusterIPs to an interface.
        let is_network = address.network.prefix_len() < address.network.max_prefix_len();
        let is_owned = range.contains(&address.network) || range.contains(&address.ip);
        is_network && is_owned && !address.ip.is_loopback()
    })?;
    let (interface, network, ip) = (&address.interface, &address.network, &address.ip);
    Some(match range.contains(network) {
        true => format!(
            "{range} covers {network}, the network of interface {interface}, whose hosts could \
             not be reached: use a range that no network uses"
        ),
        false => format!(
            "{range} contains {ip}, the address of interface {interface}: use a part of {network} \
             that no host uses"
        ),
    })
}

impl ServiceRoutes {
    /// Adds a route for each range, and looks after them from then on. Either all of them are
    /// there afterwards or none. IPv6 ranges are left out where IPv6 is disabled.
    ///
    /// # Errors
    ///
    /// When a range covers a connected network, or the kernel refuses, most often because the
    /// process lacks CAP_NET_ADMIN.
    pub(crate) async fn add(ranges: &[IpNet]) -> Result<ServiceRoutes, Failure> {
        if ranges.is_empty() {
            return Ok(ServiceRoutes { keeper: None, unused: Vec::new() });
        }
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| Failure::failed("--service-cidr: no netlink socket", error))?;
        tokio::spawn(connection);
        check_overlaps(ranges, &handle).await?;
        let owner = Owner::new().map_err(|error| {
            Failure::failed("--service-cidr: cannot open a socket for the route's owner", error)
        })?;
        remove_left_behind().await;
        let has_no_v6 = ipv6_is_disabled();
        let (unused, used): (Vec<IpNet>, Vec<IpNet>) =
            ranges.iter().partition(|range| has_no_v6 && range.addr().is_ipv6());
        for range in &unused {
            tracing::warn!(%range, "{}", UNUSED_RANGE);
        }
        let mut keeper = Keeper { handle, owner, routes: Vec::new() };
        for range in used {
            match keeper.add(range).await {
                Ok(()) => tracing::info!(%range, "local route added"),
                // Only a process that shares the metric could have added it.
                Err(error) if code(&error) == -nix::libc::EEXIST => {}
                Err(error) => {
                    keeper.remove().await;
                    return Err(refused(range, &error));
                }
            }
            keeper.routes.push(Route { range, missing: false });
        }
        let (stop, stopped) = oneshot::channel();
        let keeper = Some((stop, tokio::spawn(keeper.keep(stopped))));
        Ok(ServiceRoutes { keeper, unused })
    }

    /// Ranges that are not used, because IPv6 is disabled on this host.
    pub(crate) fn unused(&self) -> &[IpNet] {
        &self.unused
    }

    /// Removes what was added.
    pub(crate) async fn remove(self) {
        let Some((stop, keeper)) = self.keeper else { return };
        let _ = stop.send(());
        if let Err(error) = keeper.await {
            tracing::warn!(%error, "the local routes may not have been removed");
        }
    }
}

/// What is said of an IPv6 range on a host without IPv6.
pub(crate) const UNUSED_RANGE: &str = "IPv6 is disabled on this host: the range of --service-cidr \
    is not used, IPv4 is served. Enable it (sysctl net.ipv6.conf.all.disable_ipv6=0, and \
    net.ipv6.conf.lo.disable_ipv6=0) or leave the range out";

async fn check_overlaps(ranges: &[IpNet], handle: &Handle) -> Result<(), Failure> {
    match HostNetwork::read(handle).await {
        Ok(host) => match ranges.iter().find_map(|range| overlap(range, &host)) {
            Some(why) => Err(Failure::Configuration(format!("--service-cidr: {why}"))),
            None => Ok(()),
        },
        Err(error) => {
            tracing::warn!(%error, "cannot check --service-cidr against this host's networks");
            Ok(())
        }
    }
}

impl Owner {
    fn new() -> std::io::Result<Owner> {
        let mut failure = None;
        for _ in 0..METRIC_TRIES {
            let metric = rand::random_range(FIRST_METRIC..i32::MAX as u32);
            match bind_name(metric) {
                Ok(alive) => return Ok(Owner { metric, _alive: alive }),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
    }
}

/// A socket whose name says that the owner of the metric lives. Names in the abstract namespace
/// belong to the network namespace, as routes do, and go with their process.
fn bind_name(metric: u32) -> std::io::Result<UnixDatagram> {
    let name = format!("switchyard/service-route/{metric}");
    UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(name)?)
}

/// Removes routes whose process was killed.
async fn remove_left_behind() {
    let Ok((connection, handle, _)) = rtnetlink::new_connection_with_strict_check() else { return };
    tokio::spawn(connection);
    for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        let Ok(builder) = RouteMessageBuilder::<IpAddr>::new().destination_prefix(any, 0) else {
            continue;
        };
        // The scope must be 0, or the kernel refuses the request.
        let builder = builder.table_id(LOCAL_TABLE).kind(RouteType::Local);
        let mut wanted = builder.protocol(PROTOCOL).build();
        wanted.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Destination(_)));
        let listed = handle.route().get(wanted).execute();
        // An old kernel lists more than it was asked for; one without IPv6 lists nothing.
        let Ok(routes) = listed.try_collect::<Vec<_>>().await else { continue };
        for (range, metric) in routes.iter().filter_map(range_of) {
            // Its owner lives.
            if bind_name(metric).is_err() {
                continue;
            }
            match handle.route().del(route(range, metric)).execute().await {
                Ok(()) => tracing::info!(%range, "removed a local route that was left behind"),
                Err(error) => tracing::debug!(%range, %error, "a route that was left behind"),
            }
        }
    }
}

/// The range and the metric of a route that is one of ours.
fn range_of(route: &RouteMessage) -> Option<(IpNet, u32)> {
    let (mut ip, mut metric, mut table) = (None, None, u32::from(route.header.table));
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => ip = Some(IpAddr::from(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => ip = Some(IpAddr::from(*v6)),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let is_ours = table == LOCAL_TABLE
        && route.header.protocol == PROTOCOL
        && route.header.kind == RouteType::Local;
    let range = IpNet::new(ip?, route.header.destination_prefix_length).ok()?;
    metric.filter(|metric| is_ours && *metric >= FIRST_METRIC).map(|metric| (range, metric))
}

impl Keeper {
    async fn add(&self, range: IpNet) -> Result<(), Error> {
        self.handle.route().add(route(range, self.owner.metric)).execute().await
    }

    async fn keep(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut interval = interval(ASSERT_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                _ = interval.tick() => self.assert().await,
            }
        }
        self.remove().await;
    }

    /// Adds again what another program removed.
    async fn assert(&mut self) {
        for place in 0..self.routes.len() {
            let range = self.routes[place].range;
            let missing = match self.add(range).await {
                Ok(()) => {
                    tracing::warn!(%range, "another program removed the local route: added again");
                    false
                }
                Err(error) if code(&error) == -nix::libc::EEXIST => false,
                Err(error) => {
                    if !self.routes[place].missing {
                        let reason = refused(range, &error);
                        tracing::error!(%reason, "the local route is gone");
                    }
                    true
                }
            };
            self.routes[place].missing = missing;
        }
    }

    async fn remove(self) {
        for Route { range, .. } in &self.routes {
            let route = route(*range, self.owner.metric);
            match self.handle.route().del(route).execute().await {
                Ok(()) => tracing::info!(%range, "local route removed"),
                Err(error) if code(&error) == -nix::libc::ESRCH => {}
                Err(error) => tracing::warn!(%range, %error, "cannot remove the local route"),
            }
        }
    }
}

fn route(range: IpNet, metric: u32) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.network(), range.prefix_len())
        .expect("a range is no longer than its address");
    let builder = builder.output_interface(LOOPBACK_INDEX).table_id(LOCAL_TABLE).priority(metric);
    builder.kind(RouteType::Local).scope(RouteScope::Host).protocol(PROTOCOL).build()
}

/// The kernel's error number, negative as netlink tells it; 0 if it is not the kernel's.
fn code(error: &Error) -> i32 {
    match error {
        Error::NetlinkError(message) => message.raw_code(),
        _ => 0,
    }
}

fn refused(range: IpNet, error: &Error) -> Failure {
    let hint: &dyn Display = match -code(error) {
        nix::libc::EPERM | nix::libc::EACCES => {
            &"it needs CAP_NET_ADMIN (docker: --cap-add NET_ADMIN); or add the route yourself and \
              leave the flag out"
        }
        nix::libc::ENETDOWN => &"the interface lo is down: ip link set lo up",
        _ => error,
    };
    let what = format!("--service-cidr: cannot add a local route for {range}: {hint}");
    match code(error) {
        0 => Failure::Failed { what, source: None },
        code => Failure::failed(what, std::io::Error::from_raw_os_error(-code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_network::InterfaceAddress;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (parse_service_cidr(text), expected) {
            (Ok(net), Ok(expected)) => assert_eq!(net.to_string(), expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
            (parsed, _) => panic!("{text}: {parsed:?}"),
        }
    }

    #[test]
    fn a_range_that_covers_a_connected_network_is_refused() {
        let address = |interface: &str, text: &str| {
            let net: IpNet = text.parse().unwrap();
            let interface = interface.to_owned();
            let (ip, network) = (net.addr(), net.trunc());
            InterfaceAddress { interface, ip, network, is_inner_bridge: false }
        };
        let host = HostNetwork {
            addresses: vec![
                address("lo", "127.0.0.1/8"),
                address("br0", "10.25.0.1/24"),
                address("eth0", "10.97.0.5/16"),
                address("eth0", "fd00:25::1/64"),
                address("dummy0", "10.96.0.10/32"),
            ],
        };
        for (range, expected) in [
            ("10.25.0.0/16", Some("covers 10.25.0.0/24, the network of interface br0")),
            ("10.25.0.0/24", Some("covers 10.25.0.0/24")),
            ("10.25.0.0/28", Some("contains 10.25.0.1, the address of interface br0")),
            ("10.25.0.128/25", None),
            ("10.97.96.0/20", None),
            ("10.96.0.0/16", None),
            ("fd00:25::/48", Some("covers fd00:25::/64, the network of interface eth0")),
            ("fd00:25::1:0/112", None),
            ("fd00:96::/112", None),
        ] {
            let found = overlap(&range.parse().unwrap(), &host);
            match (found, expected) {
                (Some(found), Some(expected)) => {
                    assert!(found.contains(expected), "{range}: {found}");
                }
                (found, expected) => assert_eq!(found.as_deref(), expected, "{range}"),
            }
        }
    }

    #[test]
    fn ranges_that_a_host_may_take_for_its_own() {
        check("10.96.0.0/16", Ok("10.96.0.0/16"));
        check("fd00:96::/112", Ok("fd00:96::/112"));
        check("10.96.0.7/32", Ok("10.96.0.7/32"));
        check("10.96.0.1/16", Err("write 10.96.0.0/16"));
        check("10.96.0.0", Err("not a CIDR"));
        check("10.96.0.0/", Err("not a CIDR"));
        check("010.96.0.0/16", Err("not a CIDR"));
        check("10.96.0.0/33", Err("at most 32"));
        check("fd00::/129", Err("at most 128"));
        check("0.0.0.0/0", Err("at least 8"));
        check("::/0", Err("at least 16"));
        check("127.0.0.0/16", Err("loopback"));
        check("fd00::/8", Err("at least 16"));
    }
}
