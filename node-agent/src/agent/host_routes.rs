//! Routes by which the node's own packets for Services reach the device at which
//! they are balanced: the service networks, each ClusterIP outside of them, and
//! external IPs and load balancers' addresses.
//!
//! An external IP may be anybody's, and all that is sent to it would come this way:
//! so the node's own addresses, other nodes' and pods' are not routed so. Packets to
//! the node's own are met at the loopback device; other nodes serve their own.
//!
//! Routes of an earlier agent are recognised by their protocol number and device.
//! Invariant: a change costs the routes that it touches. This module must not
//! know what happens to the packets.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use super::reserved::{Holder, Reserved};
use crate::{
    compile,
    kernel::netlink::{Netlink, NetlinkError, Route},
    model::objects::{Node as NodeObject, ObjectKey, Service},
    routing::NodeAddresses,
};

/// The routes that there should be, and those that there are.
#[derive(Debug, Default)]
pub struct HostRoutes {
    networks: Vec<IpNetwork>,
    /// Addresses outside of `networks`, of Services that have such.
    by_service: HashMap<ObjectKey, Vec<Address>>,
    /// How many Services have each of these addresses, as a ClusterIP and otherwise.
    addresses: BTreeMap<IpAddr, Counts>,
    /// Addresses that are led through no device of ours.
    reserved: Reserved,
    /// Through which device and from which addresses.
    through: Option<(u32, NodeAddresses)>,
    present: BTreeMap<IpNetwork, Route>,
    /// Destinations to look at again.
    changed: BTreeSet<IpNetwork>,
}

/// An address and whether it is a ClusterIP.
type Address = (IpAddr, bool);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    cluster: usize,
    external: usize,
}

impl Counts {
    fn of(&mut self, cluster: bool) -> &mut usize {
        if cluster { &mut self.cluster } else { &mut self.external }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Set(Route),
    Delete(Route),
}

impl HostRoutes {
    /// Says where ClusterIPs are; `services` are all Services there are.
    pub fn set_networks<'a>(&mut self, networks: &[IpNetwork], services: impl Iterator<Item = &'a Service>) {
        if self.networks == networks {
            return;
        }
        self.changed.extend(self.networks.iter().chain(networks));
        self.networks = networks.to_vec();
        services.for_each(|service| self.set_service(&service.key, Some(service)));
    }

    /// Says which addresses are the node's own and pods'; whether that touches a route.
    pub fn set_own(&mut self, own: &BTreeSet<IpAddr>, cluster_cidrs: &[IpNetwork]) -> bool {
        let own = own.iter().copied().map(IpNetwork::from);
        self.reserve(None, own.chain(cluster_cidrs.iter().copied()))
    }

    /// A Node is so now, or gone; whether that touches a route.
    pub fn set_node(&mut self, key: &ObjectKey, node: Option<&NodeObject>) -> bool {
        let addresses = node.into_iter().flat_map(|node| node.addresses.iter().copied().map(IpNetwork::from));
        let pods = node.into_iter().flat_map(|node| node.pod_cidrs.iter().copied());
        self.reserve(Some(key.clone()), addresses.chain(pods))
    }

    fn reserve(&mut self, holder: Holder, networks: impl Iterator<Item = IpNetwork>) -> bool {
        let before = self.changed.len();
        for network in self.reserved.set(holder, networks) {
            let (first, last) = ends(&network);
            let within = self.addresses.range(first..=last).map(|(ip, _)| IpNetwork::from(*ip));
            self.changed.extend(within);
        }
        self.changed.len() > before
    }

    /// A Service is so now, or gone.
    pub fn set_service(&mut self, key: &ObjectKey, service: Option<&Service>) {
        let addresses = service.map(compile::addresses).unwrap_or_default();
        let addresses = addresses.into_iter().map(|address| (IpAddr::from(address.addr), address.rejects));
        let is_inside = |ip: &IpAddr| self.networks.iter().any(|network| network.contains(*ip));
        let addresses: Vec<Address> = addresses.filter(|(ip, _)| !is_inside(ip)).collect();
        let before = self.by_service.get(key).map(Vec::as_slice).unwrap_or_default();
        if before == addresses {
            return;
        }
        for (ip, cluster) in before {
            if let Some(counts) = self.addresses.get_mut(ip) {
                *counts.of(*cluster) -= 1;
                if (counts.cluster, counts.external) == (0, 0) {
                    self.addresses.remove(ip);
                }
            }
        }
        self.changed.extend(before.iter().chain(&addresses).map(|(ip, _)| IpNetwork::from(*ip)));
        for (ip, cluster) in &addresses {
            *self.addresses.entry(*ip).or_default().of(*cluster) += 1;
        }
        match addresses.is_empty() {
            true => self.by_service.remove(key),
            false => self.by_service.insert(key.clone(), addresses),
        };
    }

    /// Whether a route to there was made and not removed.
    pub fn has(&self, destination: &IpNetwork) -> bool {
        self.present.contains_key(destination)
    }

    /// Whether the routes lead through this device, and give these source addresses.
    pub fn lead_through(&self, ifindex: u32, sources: NodeAddresses) -> bool {
        self.through == Some((ifindex, sources))
    }

    /// Leads the routes through a device and finds out which of them there are already.
    pub async fn check(&mut self, netlink: &Netlink, ifindex: u32, sources: NodeAddresses) -> Result<(), NetlinkError> {
        let ours = netlink.our_routes().await?.into_iter().filter(|route| route.ifindex == ifindex);
        self.found(ifindex, sources, ours.collect());
        Ok(())
    }

    fn found(&mut self, ifindex: u32, sources: NodeAddresses, routes: Vec<Route>) {
        let present: BTreeMap<_, _> = routes.into_iter().map(|route| (route.destination, route)).collect();
        if (self.through, &self.present) == (Some((ifindex, sources)), &present) {
            return;
        }
        self.changed.extend(self.networks.iter().chain(self.present.keys()).chain(present.keys()));
        self.changed.extend(self.addresses.keys().map(|ip| IpNetwork::from(*ip)));
        self.present = present;
        self.through = Some((ifindex, sources));
    }

    /// Makes and removes routes. What fails is tried again by the next call.
    pub async fn apply(&mut self, netlink: &Netlink) -> Result<(), NetlinkError> {
        let mut result = Ok(());
        for operation in self.operations() {
            let done = match &operation {
                Operation::Set(route) => netlink.set_route(route).await,
                Operation::Delete(route) => netlink.delete_route(route).await.map(drop),
            };
            match done {
                Ok(()) => self.done(operation),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// What is to be done; what needn't be any more is forgotten.
    fn operations(&mut self) -> Vec<Operation> {
        let mut changed = std::mem::take(&mut self.changed);
        let mut operations = Vec::new();
        changed.retain(|destination| {
            let (wanted, present) = (self.wanted(*destination), self.present.get(destination).copied());
            let operation = match (wanted, present) {
                (wanted, present) if wanted == present => None,
                (Some(wanted), _) => Some(Operation::Set(wanted)),
                (None, present) => present.map(Operation::Delete),
            };
            operations.extend(operation);
            operation.is_some()
        });
        self.changed = changed;
        operations
    }

    fn done(&mut self, operation: Operation) {
        let destination = match operation {
            Operation::Set(route) => {
                self.present.insert(route.destination, route);
                route.destination
            }
            Operation::Delete(route) => {
                self.present.remove(&route.destination);
                route.destination
            }
        };
        self.changed.remove(&destination);
    }

    fn wanted(&self, destination: IpNetwork) -> Option<Route> {
        let (ifindex, sources) = self.through?;
        let ip = destination.ip();
        let is_ours = |counts: &Counts| counts.cluster > 0 || !self.reserved.contains(ip);
        let is_single = IpNetwork::from(ip) == destination && self.addresses.get(&ip).is_some_and(is_ours);
        if !self.networks.contains(&destination) && !is_single {
            return None;
        }
        let source = if destination.is_ipv4() { sources.v4.map(IpAddr::V4) } else { sources.v6.map(IpAddr::V6) };
        Some(Route { destination, ifindex, gateway: None, source, mtu: None })
    }
}

/// The first and the last address of a network.
fn ends(network: &IpNetwork) -> (IpAddr, IpAddr) {
    match network {
        IpNetwork::V4(v4) => (v4.network().into(), v4.broadcast().into()),
        IpNetwork::V6(v6) => (v6.network().into(), v6.broadcast().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::objects::{LoadBalancerIngress, ServiceType, TrafficPolicy};

    fn service(name: &str, ips: &[&str]) -> Service {
        Service {
            key: ObjectKey::new("n", name),
            created: 0,
            service_type: ServiceType::ClusterIp,
            foreign: false,
            cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            external_ips: vec![],
            load_balancer: vec![],
            source_ranges: vec![],
            unread_source_ranges: false,
            ports: vec![],
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: 0,
            annotations: vec![],
        }
    }

    /// Does what is to be done and says where the routes lead then.
    fn settle(routes: &mut HostRoutes) -> (usize, Vec<String>) {
        let operations = routes.operations();
        operations.iter().for_each(|operation| routes.done(*operation));
        assert_eq!(routes.operations(), [], "what is done is not due any more");
        (operations.len(), routes.present.keys().map(ToString::to_string).collect())
    }

    fn networks(list: &[&str]) -> Vec<IpNetwork> {
        list.iter().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn routes_follow_networks_and_services() {
        let sources = NodeAddresses { v4: Some([192, 0, 2, 1].into()), v6: None };
        let a = service("a", &["10.96.0.1", "172.20.0.1", "fd00::1"]);
        let b = service("b", &["172.20.0.1"]);
        let mut routes = HostRoutes::default();
        routes.set_service(&a.key, Some(&a));
        routes.set_networks(&networks(&["10.96.0.0/16"]), [&a].into_iter());
        assert_eq!(settle(&mut routes), (0, vec![]), "no device yet");

        let left =
            Route { destination: "10.0.0.0/8".parse().unwrap(), ifindex: 7, gateway: None, source: None, mtu: None };
        routes.found(7, sources, vec![left]);
        let all = ["10.96.0.0/16", "172.20.0.1/32", "fd00::1/128"].map(String::from);
        assert_eq!(settle(&mut routes), (4, all.to_vec()), "what an earlier agent left goes");
        assert_eq!(routes.present[&networks(&["10.96.0.0/16"])[0]].source, sources.v4.map(IpAddr::V4));

        routes.set_service(&b.key, Some(&b));
        routes.set_service(&a.key, None);
        assert_eq!(settle(&mut routes), (1, all[..2].to_vec()), "an address that another Service has stays");
        routes.set_networks(&networks(&["172.20.0.0/16"]), [&b].into_iter());
        assert_eq!(settle(&mut routes), (3, vec!["172.20.0.0/16".to_owned()]));
        routes.set_networks(&[], [&b].into_iter());
        assert_eq!(settle(&mut routes), (2, all[1..2].to_vec()));
        routes.set_service(&b.key, Some(&Service { foreign: true, ..b.clone() }));
        assert_eq!(settle(&mut routes), (1, vec![]));

        routes.set_networks(&networks(&["172.20.0.0/16"]), [].into_iter());
        settle(&mut routes);
        let present: Vec<_> = routes.present.values().copied().collect();
        routes.found(7, sources, present);
        assert_eq!(settle(&mut routes).0, 0, "all is as it was");
        routes.found(7, sources, vec![]);
        assert_eq!(settle(&mut routes).0, 1, "somebody has deleted a route");
        routes.found(8, sources, vec![]);
        assert_eq!(settle(&mut routes).0, 1, "the device was made anew");
    }

    #[test]
    fn external_addresses_are_led_unless_they_are_nodes_or_pods() {
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let web = Service {
            service_type: ServiceType::LoadBalancer,
            external_ips: ["203.0.113.1", "192.0.2.1", "192.0.2.2", "10.1.0.7", "172.20.0.1"].map(ip).into(),
            load_balancer: vec![
                LoadBalancerIngress { ip: ip("203.0.113.2"), proxy: false },
                LoadBalancerIngress { ip: ip("203.0.113.3"), proxy: true },
            ],
            ..service("web", &["10.96.0.1"])
        };
        let other = NodeObject {
            key: ObjectKey::new("", "other"),
            pod_cidrs: networks(&["10.1.0.0/24"]),
            addresses: vec![ip("192.0.2.2")],
            created: 0,
            zone: "".into(),
            deleting: false,
        };
        let mut routes = HostRoutes::default();
        routes.set_networks(&networks(&["10.96.0.0/16"]), [].into_iter());
        routes.found(7, NodeAddresses::default(), vec![]);
        routes.set_own(&[ip("192.0.2.1")].into(), &[]);
        routes.set_node(&other.key, Some(&other));
        routes.set_service(&web.key, Some(&web));
        let expected = ["10.96.0.0/16", "172.20.0.1/32", "203.0.113.1/32", "203.0.113.2/32"].map(String::from);
        assert_eq!(settle(&mut routes), (4, expected.to_vec()));

        assert!(routes.set_own(&[ip("203.0.113.2")].into(), &[]));
        let expected = ["10.96.0.0/16", "172.20.0.1/32", "192.0.2.1/32", "203.0.113.1/32"].map(String::from);
        assert_eq!(settle(&mut routes), (2, expected.to_vec()), "the node has got the one and lost the other");
        assert!(!routes.set_own(&[ip("203.0.113.2")].into(), &[]));

        // As a ClusterIP it is a Service's, whoever else says that he has it.
        let odd = service("odd", &["192.0.2.2"]);
        routes.set_service(&odd.key, Some(&odd));
        assert_eq!(settle(&mut routes).1.len(), 5);
        routes.set_service(&odd.key, None);
        assert!(routes.set_node(&other.key, None));
        assert_eq!(settle(&mut routes).1.len(), 6, "what was the other node's is led, too");
        routes.set_service(&web.key, None);
        assert_eq!(settle(&mut routes).1, ["10.96.0.0/16"]);
    }

    #[test]
    fn what_failed_stays_due() {
        let mut routes = HostRoutes::default();
        routes.set_networks(&networks(&["10.96.0.0/16"]), [].into_iter());
        routes.found(7, NodeAddresses::default(), vec![]);
        assert_eq!(routes.operations().len(), 1);
        assert_eq!(routes.operations().len(), 1);
    }
}
