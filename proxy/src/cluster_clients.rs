//! Which clients are within the cluster: its pods, and this node itself.
//!
//! Kubernetes gives them policy `Cluster` at every address of a Service; traffic policy `Local`
//! for external traffic is for all others. Pods are told by `--cluster-cidr`, or else by the
//! networks of this node's bridges, which container runtimes plug their containers into. The
//! addresses are read again when the kernel says that some have changed. Control publishes the
//! set, the data threads look at it without waiting.
//!
//! Left out: pods of other nodes where `--cluster-cidr` is not given; they count as outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::{Instant, sleep_until, timeout};

use crate::host_network::HostNetwork;
#[cfg(test)]
use crate::host_network::InterfaceAddress;

/// Addresses often change together: they are read this long after the first change.
const SETTLE: Duration = Duration::from_millis(50);
/// They are read again after this even if the kernel reported no change, because its reports are
/// lost when they come faster than they are read.
const REFRESH: Duration = Duration::from_secs(30);
/// A kernel that does not answer must not hold up the start.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes of addresses. A link that goes takes its addresses along.
const GROUPS: [MulticastGroup; 2] = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

#[derive(Debug, Default)]
pub(crate) struct ClusterClients {
    networks: ArcSwap<Networks>,
    flags: Flags,
}

#[derive(Clone, Debug, Default)]
struct Flags {
    /// `--cluster-cidr`.
    cluster_cidrs: Vec<IpNet>,
    /// `--service-cidr`: a client on this node that dials one of these addresses has that very
    /// address for its source.
    service_cidrs: Vec<IpNet>,
}

/// Whose clients are within the cluster.
#[derive(Debug, Default, PartialEq)]
struct Networks {
    /// This node's addresses.
    node: BTreeSet<IpAddr>,
    ranges: Vec<IpNet>,
    host: Arc<HostNetwork>,
}

impl ClusterClients {
    fn new(host: &HostNetwork, flags: Flags) -> ClusterClients {
        ClusterClients { networks: ArcSwap::from_pointee(Networks::of(host, &flags)), flags }
    }

    /// Clients with these addresses alone, which are those of this host.
    #[cfg(test)]
    pub(crate) fn of(addresses: impl IntoIterator<Item = IpAddr>) -> ClusterClients {
        let node: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let host = node.iter().map(|ip| InterfaceAddress {
            interface: "eth0".to_owned(),
            ip: *ip,
            network: IpNet::from(*ip),
            is_inner_bridge: false,
        });
        let host = Arc::new(HostNetwork { addresses: host.collect() });
        let networks = Networks { node, host, ..Networks::default() };
        ClusterClients { networks: ArcSwap::from_pointee(networks), flags: Flags::default() }
    }

    /// Reads this host's addresses, and follows them from then on.
    pub(crate) async fn follow(
        cluster_cidrs: &[IpNet],
        service_cidrs: &[IpNet],
    ) -> Arc<ClusterClients> {
        let clients = Arc::new(ClusterClients::new(
            &HostNetwork::default(),
            Flags { cluster_cidrs: cluster_cidrs.to_vec(), service_cidrs: service_cidrs.to_vec() },
        ));
        match rtnetlink::new_multicast_connection(&GROUPS) {
            Ok((connection, handle, changes)) => {
                tokio::spawn(connection);
                clients.read(&handle).await;
                let clients = clients.clone();
                tokio::spawn(async move {
                    let mut changes = changes;
                    loop {
                        let refresh = Instant::now() + REFRESH;
                        tokio::select! {
                            change = changes.next() => match change {
                                Some(_) => sleep_until(Instant::now() + SETTLE).await,
                                None => return,
                            },
                            () = sleep_until(refresh) => {}
                        }
                        // What has come meanwhile is covered by the same reading.
                        while changes.try_recv().is_ok() {}
                        clients.read(&handle).await;
                    }
                });
            }
            Err(error) => tracing::warn!(
                %error,
                "cannot read this host's addresses: for traffic policy Local only loopback and \
                 --cluster-cidr count as within the cluster"
            ),
        }
        clients
    }

    async fn read(&self, handle: &Handle) {
        let network = match timeout(READ_TIMEOUT, HostNetwork::read(handle)).await {
            Ok(Ok(network)) => network,
            Ok(Err(error)) => return tracing::warn!(%error, "cannot read this host's addresses"),
            Err(_) => return tracing::warn!("cannot read this host's addresses: no answer"),
        };
        let networks = Networks::of(&network, &self.flags);
        let before = self.networks.swap(Arc::new(networks));
        let ranges = &self.networks.load().ranges;
        if before.ranges != *ranges {
            tracing::info!(?ranges, "networks of clients within the cluster");
        }
    }

    /// This host's addresses, as they were last read.
    pub(crate) fn host(&self) -> Arc<HostNetwork> {
        self.networks.load().host.clone()
    }

    /// Whether a client with this source address is a pod or runs on this node.
    pub(crate) fn contains(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let networks = self.networks.load();
        networks.node.contains(&client)
            || networks.ranges.iter().any(|range| range.contains(&client))
    }
}

impl Networks {
    fn of(host: &HostNetwork, flags: &Flags) -> Networks {
        let is_link_local = |network: &IpNet| match network {
            IpNet::V4(network) => network.addr().is_link_local(),
            IpNet::V6(network) => network.addr().is_unicast_link_local(),
        };
        let bridges = host.addresses.iter().filter(|address| address.is_inner_bridge);
        let bridges = bridges.map(|address| address.network);
        let mut ranges: Vec<IpNet> = match &flags.cluster_cidrs[..] {
            [] => bridges.filter(|network| !is_link_local(network)).collect(),
            given => given.to_vec(),
        };
        ranges.push(Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8).trunc().into());
        ranges.push(IpAddr::V6(Ipv6Addr::LOCALHOST).into());
        ranges.extend(&flags.service_cidrs);
        ranges.sort_unstable();
        ranges.dedup();
        let node = host.addresses.iter().map(|address| address.ip).collect();
        Networks { node, ranges, host: Arc::new(host.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_network::InterfaceAddress;

    fn host() -> HostNetwork {
        let address = |interface: &str, text: &str, is_inner_bridge| {
            let net: IpNet = text.parse().unwrap();
            let interface = interface.to_owned();
            InterfaceAddress { interface, ip: net.addr(), network: net.trunc(), is_inner_bridge }
        };
        HostNetwork {
            addresses: vec![
                address("eth0", "192.0.2.7/24", false),
                address("docker0", "172.17.0.1/16", true),
                address("docker0", "fe80::1/64", true),
                address("br-lan", "198.51.100.7/24", false),
            ],
        }
    }

    fn check(cluster_cidrs: &[&str], client: &str, expected: bool) {
        let parse = |cidr: &&str| cidr.parse().unwrap();
        let flags = Flags {
            cluster_cidrs: cluster_cidrs.iter().map(parse).collect(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        };
        let clients = ClusterClients::new(&host(), flags);
        let found = clients.contains(client.parse().unwrap());
        assert_eq!(found, expected, "{cluster_cidrs:?} {client}");
    }

    #[test]
    fn pods_and_the_node_are_within_the_cluster() {
        for cidrs in [&[][..], &["10.244.0.0/16"]] {
            check(cidrs, "127.0.0.1", true);
            check(cidrs, "::1", true);
            check(cidrs, "::ffff:127.0.0.1", true);
            check(cidrs, "192.0.2.7", true);
            check(cidrs, "192.0.2.8", false);
            check(cidrs, "10.96.0.1", true);
            // A bridge to the outside has clients that are no pods.
            check(cidrs, "198.51.100.8", false);
            check(cidrs, "fe80::8", false);
        }
        check(&[], "172.17.0.2", true);
        check(&["10.244.0.0/16"], "172.17.0.2", false);
        check(&["10.244.0.0/16"], "10.244.1.2", true);
    }
}
