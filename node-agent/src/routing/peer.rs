//! What follows from one Node: its routes, its networks, and what is wrong with it.
//!
//! This module must not know what followed from it before.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use datapath::abi::{Addr, NetworkValue};
use ipnetwork::IpNetwork;

use super::{
    Rank, Settings, Underlay, Way,
    claims::{Claims, overlap},
};
use crate::model::objects::{Node, ObjectKey};

/// How packets for a podCIDR leave this node, where a route of ours sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through an uplink to a node on its link.
    Gateway {
        /// The uplink's index.
        ifindex: u32,
        /// The node's address there.
        gateway: IpAddr,
    },
    /// Through the overlay device.
    Overlay,
}

/// A route to pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRoute {
    /// The podCIDR.
    pub destination: IpNetwork,
    /// How it is reached.
    pub via: Via,
    /// The source address of this node's own packets.
    pub source: Option<IpAddr>,
    /// The largest packet that it takes, in bytes, where the device takes larger ones.
    pub mtu: Option<u32>,
}

/// What follows from a Node.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub networks: BTreeMap<(IpNetwork, Rank), NetworkValue>,
    pub routes: Vec<PeerRoute>,
    pub problems: Vec<String>,
}

impl Peer {
    pub fn tunnels(&self) -> usize {
        self.routes.iter().filter(|route| route.via == Via::Overlay).count()
    }
}

/// What all Nodes are judged by.
pub(super) struct Terms<'a> {
    pub settings: &'a Settings,
    pub underlay: &'a Underlay,
    pub claims: &'a Claims,
    pub own: &'a ObjectKey,
}

impl Terms<'_> {
    /// Those of a Node's podCIDRs that can be anybody's, and what is wrong with the others.
    pub fn usable(&self, node: &Node) -> (Vec<IpNetwork>, Vec<String>) {
        let (mut usable, mut problems) = (Vec::new(), Vec::new());
        // Another plugin's gateways have addresses of the podCIDRs.
        let has_gateways = !self.settings.wires_pods && node.key == *self.own;
        for network in &node.pod_cidrs {
            let Ok(network) = IpNetwork::new(network.network(), network.prefix()) else { continue };
            match self.obstacle(&network, has_gateways) {
                Some(obstacle) => problems.push(format!("podCIDR {network} is left out: it {obstacle}")),
                None if usable.contains(&network) => {}
                None => usable.push(network),
            }
        }
        (usable, problems)
    }

    fn obstacle(&self, network: &IpNetwork, has_gateways: bool) -> Option<String> {
        let ip = network.ip();
        let has_v4 = network.is_ipv6() && overlap(network, &mapped_v4());
        if network.prefix() == 0 || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || has_v4 {
            return Some("is no network for pods".to_owned());
        }
        if let Some(link) = self.underlay.on_link.iter().find(|link| overlap(&link.network, network)) {
            return Some(format!("overlaps the node network {}", link.network));
        }
        let own = self.underlay.own.iter().find(|own| !has_gateways && network.contains(**own));
        own.map(|own| format!("has this node's own address {own} in it"))
    }

    /// What follows from a Node.
    pub fn work_out(&self, node: &Node) -> Peer {
        let (usable, problems) = self.usable(node);
        let mut peer = Peer { problems, ..Peer::default() };
        let is_own = node.key == *self.own;
        let routes_pods = self.settings.wires_pods && !is_own;
        if routes_pods && node.pod_cidrs.is_empty() {
            peer.problems.push("it has no spec.podCIDRs, so its pods are not reached".to_owned());
        }
        for network in usable {
            if let Some(holder) = self.claims.lost_to(&node.key, &network) {
                let (other, node) = (holder.network, &holder.node);
                peer.problems.push(format!("podCIDR {network} is left out: it overlaps {other} of Node {node}"));
                continue;
            }
            let way = if routes_pods {
                self.underlay.way(self.settings.mode, &node.addresses, network.is_ipv6())
            } else {
                Ok(Way::Network)
            };
            match way {
                Ok(way) => self.lead(&mut peer, network, way),
                Err(error) => {
                    self.lead(&mut peer, network, Way::Network);
                    peer.problems.push(format!("podCIDR {network} is not reached: {error}"));
                }
            }
        }
        if !is_own {
            self.add_addresses(&mut peer, node);
        }
        peer
    }

    /// Adds what leads packets that way to a podCIDR.
    fn lead(&self, peer: &mut Peer, network: IpNetwork, way: Way) {
        let (via, tunnel) = match way {
            Way::Gateway { ifindex, gateway } => (Some(Via::Gateway { ifindex, gateway }), None),
            Way::Tunnel(end) => (Some(Via::Overlay), Some(end)),
            Way::Network => (None, None),
        };
        if let Some(via) = via {
            let mtu = tunnel.map(|end| self.underlay.mtu.saturating_sub(Underlay::overhead(end)));
            peer.routes.push(PeerRoute {
                destination: network,
                via,
                source: self.underlay.sources.of_family(network.is_ipv6()),
                mtu: mtu.filter(|mtu| *mtu < self.underlay.overlay_mtu()),
            });
        }
        let clusters = &self.settings.cluster_cidrs;
        let is_pods = clusters.is_empty() || clusters.iter().any(|cluster| includes(cluster, &network));
        if !is_pods && self.settings.wires_pods {
            peer.problems.push(format!("podCIDR {network} is not in --cluster-cidr, so its pods count as outside"));
        }
        let kind = if is_pods { NetworkValue::PODS } else { NetworkValue::PEER };
        if is_pods || tunnel.is_some() {
            let tunnel = tunnel.map(Addr::from).unwrap_or_default();
            peer.networks.insert((network, Rank::Pods), NetworkValue { kind, tunnel });
        }
    }

    /// Adds a node's addresses. Where its pods are reached through a tunnel, pods'
    /// packets to the node itself take it too: the network between may not carry pods' addresses.
    fn add_addresses(&self, peer: &mut Peer, node: &Node) {
        for address in node.addresses.iter().filter(|address| !self.underlay.own.contains(address)) {
            let way = match self.settings.wires_pods {
                true => self.underlay.way(self.settings.mode, &node.addresses, address.is_ipv6()),
                false => Ok(Way::Network),
            };
            let tunnel = match way {
                Ok(Way::Tunnel(end)) => Addr::from(end),
                _ => Addr::UNSPECIFIED,
            };
            peer.networks.insert(((*address).into(), Rank::Peer), NetworkValue { kind: NetworkValue::PEER, tunnel });
        }
    }
}

/// Where IPv4 addresses are among IPv6 ones.
fn mapped_v4() -> IpNetwork {
    IpNetwork::new(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(), 96).expect("96 is a prefix length")
}

fn includes(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.ip())
}
