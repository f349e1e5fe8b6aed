//! What each network is, where several say so.
//!
//! An address of this node is that whatever else is said of it; another node's
//! comes next, then Services' networks, then pods'. Invariant: a change names the
//! networks for which another value may be in force. This module must not know
//! who says what for what reason.

use std::collections::{BTreeMap, BTreeSet};

use datapath::abi::NetworkValue;
use ipnetwork::IpNetwork;

use crate::model::objects::ObjectKey;

/// What a network can be said to be, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// An address of this node.
    Own,
    /// An address of another node.
    Peer,
    /// Services' addresses.
    Service,
    /// Pods' addresses, of one node.
    Pods,
    /// Pods' addresses, of whatever node.
    Cluster,
}

/// Who says it: a Node, or this node's own settings.
pub type Speaker = Option<ObjectKey>;

/// All that is said.
#[derive(Debug, Default)]
pub struct Networks {
    said: BTreeMap<(IpNetwork, Rank, Speaker), NetworkValue>,
    changed: BTreeSet<IpNetwork>,
}

impl Networks {
    /// A speaker says that a network is this.
    pub fn say(&mut self, network: IpNetwork, rank: Rank, speaker: &Speaker, value: NetworkValue) {
        if self.said.insert((network, rank, speaker.clone()), value) != Some(value) {
            self.changed.insert(network);
        }
    }

    /// A speaker says so no longer.
    pub fn retract(&mut self, network: IpNetwork, rank: Rank, speaker: &Speaker) {
        if self.said.remove(&(network, rank, speaker.clone())).is_some() {
            self.changed.insert(network);
        }
    }

    /// What is in force of a network.
    pub fn get(&self, network: &IpNetwork) -> Option<NetworkValue> {
        let first = self.said.range((*network, Rank::Own, None)..).next();
        first.filter(|((found, ..), _)| found == network).map(|(_, value)| *value)
    }

    /// All that is in force.
    pub fn all(&self) -> BTreeMap<IpNetwork, NetworkValue> {
        let mut all = BTreeMap::new();
        for ((network, ..), value) in &self.said {
            all.entry(*network).or_insert(*value);
        }
        all
    }

    /// The networks of which something else may be in force since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<IpNetwork> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_is_in_force() {
        let mut networks = Networks::default();
        let network: IpNetwork = "192.0.2.1/32".parse().unwrap();
        let node = |name: &str| Some(ObjectKey::new("", name));
        let kind = |kind| NetworkValue::of_kind(kind);
        networks.say(network, Rank::Pods, &node("a"), kind(NetworkValue::PODS));
        networks.say(network, Rank::Peer, &node("b"), kind(NetworkValue::PEER));
        networks.say("192.0.2.0/24".parse().unwrap(), Rank::Own, &None, kind(NetworkValue::NODE));
        assert_eq!(networks.get(&network), Some(kind(NetworkValue::PEER)));
        networks.say(network, Rank::Own, &None, kind(NetworkValue::NODE));
        assert_eq!(networks.all()[&network], kind(NetworkValue::NODE));
        assert_eq!(networks.take_changed().len(), 2);
        networks.say(network, Rank::Own, &None, kind(NetworkValue::NODE));
        networks.retract(network, Rank::Service, &None);
        assert!(networks.take_changed().is_empty(), "nothing new was said");
        for (rank, speaker) in [(Rank::Own, None), (Rank::Peer, node("b")), (Rank::Pods, node("a"))] {
            networks.retract(network, rank, &speaker);
        }
        assert_eq!(networks.get(&network), None);
        assert_eq!(networks.take_changed(), BTreeSet::from([network]));
    }
}
