//! `--service-cidr`: makes every address of the range one of this host, without giving any of
//! them to an interface (a local route to `lo`: AnyIP, Linux 2.6.37).
//!
//! The kernel then takes connections to all ClusterIPs, refuses those that nothing listens on,
//! and answers for them on a bridge (ARP), so that a container can own a part of its network as
//! ClusterIPs. Needs CAP_NET_ADMIN. The route is removed when the process has drained: what is
//! left of a process that was killed is taken over by the next one with the same range. Until
//! then a route that somebody removes, as a predecessor does that ends later, is added again.
//!
//! Left out: binding. An IPv6 address of the range is bound with `IPV6_FREEBIND`, because there
//! the kernel asks for an address of an interface.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use daemon::Failure;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{Error, Handle, RouteMessageBuilder};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// `lo` is the first interface of every network namespace, so the kernel gives it this index.
const LOOPBACK_INDEX: u32 = 1;
/// The table that the kernel looks into first, for its own addresses (ip-route(8): `local`).
const LOCAL_TABLE: u32 = 255;
/// Marks the route as ours, as routing daemons mark theirs. No other program is known by it
/// (iproute2, `rt_protos`).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(83);
/// A wider range is a slip: the host would take most of the network for itself.
const SHORTEST_PREFIX: (u8, u8) = (8, 16);

/// How often the routes are looked after. Where two processes overlap, as in a rolling update,
/// the one that ends takes the route along that the other needs: so long nobody has it, which is
/// less than a client's first retransmission takes (a second, RFC 6298, 2.1). Asking for a route
/// that is there costs the kernel microseconds.
const ASSERT_INTERVAL: Duration = Duration::from_millis(250);

/// The routes that this process has, for as long as it needs them.
#[derive(Debug)]
pub(crate) struct ServiceRoutes {
    keeper: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Adds the routes, again if somebody takes them away, and removes them at the end.
#[derive(Debug)]
struct Keeper {
    handle: Handle,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    range: IpNet,
    /// This process added it.
    ours: bool,
    /// It is not there and could not be added, which has been said.
    missing: bool,
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
pub(crate) fn parse_cidr(text: &str) -> Result<IpNet, String> {
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
        IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

impl ServiceRoutes {
    /// Adds a route for each range, and looks after them from then on. Either all of them are
    /// there afterwards or none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, most often because the process lacks CAP_NET_ADMIN.
    pub(crate) async fn add(ranges: &[IpNet]) -> Result<ServiceRoutes, Failure> {
        if ranges.is_empty() {
            return Ok(ServiceRoutes { keeper: None });
        }
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| Failure::failed("--service-cidr: no netlink socket", error))?;
        tokio::spawn(connection);
        let mut keeper = Keeper { handle, routes: Vec::new() };
        for range in ranges.iter().copied() {
            match add(&keeper.handle, range).await {
                Ok(ours) => keeper.routes.push(Route { range, ours, missing: false }),
                Err(error) => {
                    keeper.remove().await;
                    return Err(refused(range, &error));
                }
            }
        }
        let (stop, stopped) = oneshot::channel();
        Ok(ServiceRoutes { keeper: Some((stop, tokio::spawn(keeper.keep(stopped)))) })
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

impl Keeper {
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

    /// Adds again what somebody else removed.
    async fn assert(&mut self) {
        for Route { range, ours, missing } in &mut self.routes {
            match self.handle.route().add(route(*range)).execute().await {
                Ok(()) => {
                    tracing::warn!(%range, "the local route was removed by another program: added \
                                            again");
                    (*ours, *missing) = (true, false);
                }
                Err(error) if code(&error) == -nix::libc::EEXIST => *missing = false,
                Err(error) => {
                    if !std::mem::replace(missing, true) {
                        let hint = refused(*range, &error);
                        tracing::error!(%hint, "the local route is gone");
                    }
                }
            }
        }
    }

    async fn remove(self) {
        for Route { range, .. } in self.routes.into_iter().filter(|route| route.ours) {
            match self.handle.route().del(route(range)).execute().await {
                Ok(()) => tracing::info!(%range, "local route removed"),
                // Another process with the same range ended a moment ago.
                Err(error) if code(&error) == -nix::libc::ESRCH => {}
                Err(error) => tracing::warn!(%range, %error, "cannot remove the local route"),
            }
        }
    }
}

/// Whether the route is ours; one that somebody else made serves as well, and stays.
async fn add(handle: &Handle, range: IpNet) -> Result<bool, Error> {
    let add = || handle.route().add(route(range)).execute();
    let added = match add().await {
        Err(error) if code(&error) == -nix::libc::EEXIST => {
            // Left behind by a process that was killed, if the kernel finds it by our mark.
            match handle.route().del(route(range)).execute().await {
                Ok(()) => add().await,
                Err(_) => {
                    tracing::info!(%range, "a local route exists already and will not be removed \
                                            at the end");
                    return Ok(false);
                }
            }
        }
        added => added,
    };
    added?;
    tracing::info!(%range, "local route added");
    Ok(true)
}

fn route(range: IpNet) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.network(), range.prefix_len())
        .expect("a range is no longer than its address");
    let builder = builder.output_interface(LOOPBACK_INDEX).table_id(LOCAL_TABLE);
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

    fn check(text: &str, expected: Result<&str, &str>) {
        match (parse_cidr(text), expected) {
            (Ok(net), Ok(expected)) => assert_eq!(net.to_string(), expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
            (parsed, _) => panic!("{text}: {parsed:?}"),
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
