//! Pods that another CNI plugin wires: which of the node's interfaces lead to them.
//!
//! They are those over which the Node's podCIDRs, or addresses of its Pods, are routed;
//! of a bridge, its ports, since pods on one bridge answer each other past the node.
//! Invariant: what is found follows from routes and interfaces as they are now. This
//! module must not know what the programs do there.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use tracing::info;

use super::{dataplane::Dataplane, node::Node};
use crate::{
    kernel::{
        links::{Hook, LinkError},
        netlink::{HOST_DEVICE, HOST_DEVICE_PEER, Link, Netlink, NetlinkError, OVERLAY_DEVICE, Route},
        programs::Program,
        sysctl::{self, SysctlError},
    },
    model::Model,
};

/// Kinds of interfaces that may lead to a pod, or a virtual machine that is one.
const POD_KINDS: [&str; 5] = ["veth", "netkit", "tun", "macvtap", "ipvtap"];

/// Why they can't be found or used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum ForeignPodError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The interfaces, as they were last seen.
#[derive(Debug, Default)]
pub struct ForeignPods {
    interfaces: BTreeSet<u32>,
}

impl ForeignPods {
    /// Looks for them.
    pub async fn look(&mut self, model: &Model, node: &Node, netlink: &Netlink) -> Result<(), ForeignPodError> {
        let cidrs = model.own_node().map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        let on_pod_network = model.local_pods().filter(|pod| !pod.host_network && !pod.finished);
        let pods = on_pod_network.flat_map(|pod| pod.ips.iter().copied()).map(IpNetwork::from);
        let wanted: Vec<IpNetwork> = cidrs.into_iter().chain(pods).collect();
        let (routes, links) = (netlink.others_routes().await?, netlink.links().await?);
        let not_pods: BTreeSet<u32> = node.uplinks().map(|uplink| uplink.index).collect();
        let routed = routed_over(&wanted, &routes);
        let leads_to_pods = |link: &&Link| {
            routed.contains(&link.index)
                && !not_pods.contains(&link.index)
                && !link.loopback
                && ![HOST_DEVICE, HOST_DEVICE_PEER, OVERLAY_DEVICE].contains(&&*link.name)
        };
        let mut interfaces = BTreeSet::new();
        for link in links.iter().filter(leads_to_pods) {
            sysctl::loosen_reverse_path_filter(&link.name)?;
            interfaces.extend(doors(link, &links).filter(|index| !not_pods.contains(index)));
        }
        if self.interfaces != interfaces {
            info!(interfaces = interfaces.len(), "interfaces of pods that another CNI plugin wired");
            self.interfaces = interfaces;
        }
        Ok(())
    }

    /// Their hooks, and the program for each.
    pub fn hooks(&self) -> impl Iterator<Item = (Hook, Program)> {
        let of = |ifindex: &u32| {
            [(Hook::Ingress(*ifindex), Program::FromPod), (Hook::Egress(*ifindex), Program::ToForeignPod)]
        };
        self.interfaces.iter().flat_map(of)
    }

    /// Sees to it that the programs are there; `replace` those of an earlier agent.
    pub fn attach(&self, dataplane: &Dataplane, replace: bool) -> Result<(), LinkError> {
        for (hook, program) in self.hooks() {
            if !replace && dataplane.is_attached(hook) {
                continue;
            }
            match dataplane.attach(hook, program) {
                // Pods come and go; the next look will see.
                Err(error) if error.is_gone() => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// The interfaces over which any of these networks, or parts of them, are routed
/// without a router.
fn routed_over(wanted: &[IpNetwork], routes: &[Route]) -> BTreeSet<u32> {
    let mut over = BTreeSet::new();
    for network in wanted {
        let parts = routes.iter().filter(|route| contains(network, &route.destination));
        let whole = routes.iter().filter(|route| contains(&route.destination, network));
        let longest = whole.max_by_key(|route| route.destination.prefix());
        over.extend(parts.chain(longest).filter(|route| route.gateway.is_none()).map(|route| route.ifindex));
    }
    over
}

fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    let first: IpAddr = inner.network();
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(first)
}

/// Where packets of pods behind an interface come in: at a bridge by each of its ports.
fn doors<'a>(link: &'a Link, links: &'a [Link]) -> impl Iterator<Item = u32> + 'a {
    let is_bridge = link.kind == "bridge";
    let ports = links.iter().filter(move |port| {
        is_bridge && port.controller == Some(link.index) && POD_KINDS.contains(&port.kind.as_str())
    });
    ports.map(|port| port.index).chain((!is_bridge).then_some(link.index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, ifindex: u32) -> Route {
        Route::to_network(destination.parse().unwrap(), ifindex)
    }

    #[test]
    fn networks_are_found_by_their_routes() {
        let router = Route { gateway: "192.0.2.1".parse().ok(), ..route("0.0.0.0/0", 2) };
        let to_peer = Route { gateway: "192.0.2.9".parse().ok(), ..route("10.1.2.0/24", 2) };
        let all = [
            router,
            to_peer,
            route("10.1.1.0/24", 3),
            route("10.1.1.7/32", 4),
            route("172.16.0.0/12", 5),
            route("172.20.0.5/32", 6),
            route("fd00:1::/64", 7),
        ];
        for (wanted, expected) in [
            (&["10.1.1.0/24"][..], &[3, 4][..]),
            (&["10.1.1.0/25"], &[3, 4]),
            (&["10.1.1.128/25"], &[3]),
            (&["10.1.0.0/16"], &[3, 4]),
            (&["10.1.1.7/32"], &[4]),
            (&["172.20.0.5/32", "172.20.0.6/32"], &[5, 6]),
            (&["10.9.0.0/24", "10.1.2.0/24"], &[]),
            (&["fd00:1::/64"], &[7]),
            (&["fd00:2::/64"], &[]),
        ] {
            let networks: Vec<IpNetwork> = wanted.iter().map(|network| network.parse().unwrap()).collect();
            assert_eq!(routed_over(&networks, &all).into_iter().collect::<Vec<_>>(), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_bridge_is_entered_by_its_ports() {
        let link = |index: u32, kind: &str, controller: Option<u32>| Link {
            index,
            name: format!("if{index}"),
            kind: kind.to_owned(),
            mac: None,
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            peer_index: None,
            controller,
            metadata_port: None,
        };
        let links = [
            link(1, "bridge", None),
            link(2, "veth", Some(1)),
            link(3, "", Some(1)),
            link(4, "veth", None),
            link(5, "tun", Some(1)),
        ];
        assert_eq!(doors(&links[0], &links).collect::<Vec<_>>(), [2, 5], "a network card leads to no pod");
        assert_eq!(doors(&links[3], &links).collect::<Vec<_>>(), [4]);
    }
}
