//! How pods of other nodes are reached: Nodes, flags and this node's links become
//! routes and an account of whose each network is.
//!
//! Invariants: routes and networks follow from the present objects and links
//! alone; a Node that changes costs its own entries and those of Nodes whose
//! podCIDRs overlap its own. Pure: this module must not know how routes and tables
//! are written.

mod claims;
mod networks;
mod peer;
mod underlay;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use claims::{Claims, Seniority};
use datapath::abi::NetworkValue;
use ipnetwork::IpNetwork;
pub use networks::{Networks, Rank};
use peer::{Peer, Terms};
pub use peer::{PeerRoute, Via};
pub use underlay::{NoWay, NodeAddresses, OnLink, RoutingMode, Underlay, Way};

use crate::model::objects::{Node, ObjectKey};

/// What flags say of routing.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--routing-mode`.
    pub mode: RoutingMode,
    /// `--cni`: whether pods are ours to reach, or another CNI's.
    pub wires_pods: bool,
    /// `--cluster-cidr`.
    pub cluster_cidrs: Vec<IpNetwork>,
}

/// All that is known of other nodes, and what follows from it.
#[derive(Debug)]
pub struct Routing {
    settings: Settings,
    own: ObjectKey,
    underlay: Underlay,
    services: Vec<IpNetwork>,
    nodes: BTreeMap<ObjectKey, Arc<Node>>,
    peers: BTreeMap<ObjectKey, Peer>,
    claims: Claims,
    networks: Networks,
    /// By destination, with the Node that has it.
    routes: BTreeMap<IpNetwork, (ObjectKey, PeerRoute)>,
    changed_routes: BTreeSet<IpNetwork>,
    /// How many routes lead through tunnels.
    tunnels: usize,
    /// Nodes that can't be reached as they should.
    troubled: BTreeSet<ObjectKey>,
}

impl Routing {
    /// For the node of this name; nothing is known of any node yet.
    pub fn new(own: impl Into<Arc<str>>, settings: Settings) -> Self {
        let mut networks = Networks::default();
        for network in &settings.cluster_cidrs {
            networks.say(*network, Rank::Cluster, &None, NetworkValue::of_kind(NetworkValue::PODS));
        }
        Self {
            own: ObjectKey::new("", own),
            settings,
            underlay: Underlay::default(),
            services: Vec::new(),
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            claims: Claims::default(),
            networks,
            routes: BTreeMap::new(),
            changed_routes: BTreeSet::new(),
            tunnels: 0,
            troubled: BTreeSet::new(),
        }
    }

    /// A Node is so now, or gone.
    pub fn set_node(&mut self, key: &ObjectKey, node: Option<&Arc<Node>>) {
        match node {
            Some(node) => drop(self.nodes.insert(key.clone(), Arc::clone(node))),
            None => drop(self.nodes.remove(key)),
        }
        self.claim(key);
    }

    /// This node's links and addresses are so now.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        if self.underlay == underlay {
            return;
        }
        let node = NetworkValue::of_kind(NetworkValue::NODE);
        for gone in self.underlay.own.difference(&underlay.own) {
            self.networks.retract((*gone).into(), Rank::Own, &None);
        }
        for ip in &underlay.own {
            self.networks.say((*ip).into(), Rank::Own, &None, node);
        }
        self.underlay = underlay;
        let all: Vec<ObjectKey> = self.nodes.keys().cloned().collect();
        all.iter().for_each(|key| self.claim(key));
    }

    /// ClusterIPs are here now.
    pub fn set_services(&mut self, networks: &[IpNetwork]) {
        let before = std::mem::replace(&mut self.services, networks.to_vec());
        for gone in before.iter().filter(|network| !networks.contains(network)) {
            self.networks.retract(*gone, Rank::Service, &None);
        }
        for network in networks {
            self.networks.say(*network, Rank::Service, &None, NetworkValue::of_kind(NetworkValue::SERVICE));
        }
    }

    /// This node's links and addresses, as they were last set.
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// This node's own podCIDRs, if its pods are ours to reach.
    pub fn own_pod_cidrs(&self) -> BTreeSet<IpNetwork> {
        let own = self.nodes.get(&self.own).filter(|_| self.settings.wires_pods);
        let usable = own.map(|node| self.terms().usable(node).0).unwrap_or_default();
        usable.into_iter().filter(|network| self.claims.lost_to(&self.own, network).is_none()).collect()
    }

    /// The MTU of pods' interfaces, as far as the uplinks decide it.
    pub fn pod_mtu(&self) -> u32 {
        if self.settings.wires_pods { self.underlay.pod_mtu(self.settings.mode) } else { self.underlay.mtu }
    }

    /// Whether any node is reached through a tunnel.
    pub fn needs_overlay(&self) -> bool {
        self.tunnels > 0
    }

    /// Whose each network is.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// Networks of which something else may be in force since the last call.
    pub fn take_changed_networks(&mut self) -> BTreeSet<IpNetwork> {
        self.networks.take_changed()
    }

    /// The route to a destination, if there should be one.
    pub fn route(&self, destination: &IpNetwork) -> Option<&PeerRoute> {
        self.routes.get(destination).map(|(_, route)| route)
    }

    /// The destinations of all routes, each with the Node that is reached by it.
    pub fn destinations(&self) -> impl Iterator<Item = (&IpNetwork, &ObjectKey)> {
        self.routes.iter().map(|(destination, (node, _))| (destination, node))
    }

    /// Destinations whose route may be another, or none, since the last call.
    pub fn take_changed_routes(&mut self) -> BTreeSet<IpNetwork> {
        std::mem::take(&mut self.changed_routes)
    }

    /// Nodes that aren't reached as they should be, and why.
    pub fn problems(&self) -> impl Iterator<Item = (&ObjectKey, String)> {
        self.troubled.iter().filter_map(|key| Some((key, self.peers.get(key)?.problems.join("; "))))
    }

    /// Claims a Node's podCIDRs for it, and works out anew whatever that touches.
    fn claim(&mut self, key: &ObjectKey) {
        let usable = self.nodes.get(key).map(|node| self.terms().usable(node).0).unwrap_or_default();
        let created = self.nodes.get(key).map_or(0, |node| node.created);
        let seniority = Seniority { foreign: *key != self.own, created };
        for touched in self.claims.set(key, seniority, &usable) {
            self.work_out(&touched);
        }
    }

    fn terms(&self) -> Terms<'_> {
        Terms { settings: &self.settings, underlay: &self.underlay, claims: &self.claims, own: &self.own }
    }

    /// Works out what follows from a Node, and notes what differs from before.
    fn work_out(&mut self, key: &ObjectKey) {
        let peer = self.nodes.get(key).map(|node| self.terms().work_out(node)).unwrap_or_default();
        let before = self.peers.remove(key).unwrap_or_default();
        let speaker = Some(key.clone());
        for (network, rank) in before.networks.keys().filter(|said| !peer.networks.contains_key(said)) {
            self.networks.retract(*network, *rank, &speaker);
        }
        for ((network, rank), value) in &peer.networks {
            self.networks.say(*network, *rank, &speaker, *value);
        }
        for destination in before.routes.iter().map(|route| route.destination) {
            // Another Node may have taken it over.
            if self.routes.get(&destination).is_some_and(|(node, _)| node == key) {
                self.routes.remove(&destination);
            }
        }
        self.routes.extend(peer.routes.iter().map(|route| (route.destination, (key.clone(), *route))));
        let differs = |a: &Peer, b: &Peer| a.routes.iter().filter(|r| !b.routes.contains(r)).copied().collect();
        let different: [Vec<PeerRoute>; 2] = [differs(&before, &peer), differs(&peer, &before)];
        self.changed_routes.extend(different.iter().flatten().map(|route| route.destination));
        self.tunnels = self.tunnels + peer.tunnels() - before.tunnels();
        match peer.problems.is_empty() {
            true => self.troubled.remove(key),
            false => self.troubled.insert(key.clone()),
        };
        if self.nodes.contains_key(key) {
            self.peers.insert(key.clone(), peer);
        }
    }
}

#[cfg(test)]
mod tests;
