//! What policies say in a [`World`], as the agent would have written it.

use datapath::abi::{
    Be16, Family, PodPolicy, PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey, direction,
};

use super::{
    place::{FAMILIES, Place},
    world::World,
};

/// The interface of pods that some policy selects: that on which the kernel runs test packets.
pub const JUDGED_IFINDEX: u32 = 1;

/// The generation of all that is said.
const GENERATION: u32 = 1;

/// A list of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports(pub u32);

impl Ports {
    /// Its number in the tables.
    pub const fn number(self) -> u32 {
        GENERATION << PodPolicy::GENERATION_SHIFT | self.0
    }
}

/// The directions, as [`PodPolicy::BOTH`] has them.
pub const BOTH: [u32; 2] = [direction::INGRESS, direction::EGRESS];

/// The number of the set of a pod that is isolated so; each pod has its own.
pub fn set_of(pod: Place, isolated: &[u32]) -> u32 {
    let Place::Pod(number) = pod else { panic!("only pods of the node are judged, and {pod:?} is none") };
    let bits = isolated.iter().fold(0, |bits, direction| bits | PodPolicy::isolated(*direction));
    GENERATION << PodPolicy::GENERATION_SHIFT | bits | u32::from(number)
}

impl World {
    /// Policies select the pod and isolate it in these directions.
    pub fn judge(&mut self, pod: Place, isolated: &[u32]) {
        for family in FAMILIES {
            let pod_value = self.tables.pods.get_mut(&pod.addr(family)).expect("the world has the pod");
            (pod_value.policy_set, pod_value.ifindex) = (set_of(pod, isolated), JUDGED_IFINDEX);
        }
        self.tables.policy_epoch = self.tables.policy_epoch.max(1);
    }

    /// The pod has been open to all until now.
    pub fn was_open(&mut self, pod: Place) {
        let since = datapath::track::seconds(&self.tables);
        for family in FAMILIES {
            self.tables.pods.get_mut(&pod.addr(family)).expect("the world has the pod").judged_since = since;
        }
    }

    /// What a judged pod's policies say of a class of peers, from now on.
    pub fn say(&mut self, pod: Place, direction: u32, class: u32, verdict: PolicyVerdict) {
        let family = Family::V4;
        let set = self.tables.pods[&pod.addr(family)].policy_set;
        self.tables.policy.verdicts.insert(PolicyVerdictKey { set, class, direction }, verdict);
    }

    /// The class of a peer that is a pod.
    pub fn class_pod(&mut self, peer: Place, class: u32) {
        for family in FAMILIES {
            let key = PolicyPeerKey { addr: peer.addr(family), generation: GENERATION };
            self.tables.policy.peers.insert(key, class);
        }
    }

    /// The class of the networks of a place that have so many bits, of IPv4 and IPv6.
    pub fn class_network(&mut self, place: Place, [v4, v6]: [u32; 2], class: u32) {
        for family in FAMILIES {
            let len = if family == Family::V4 { 96 + v4 } else { v6 };
            let bits = u128::from_be_bytes(place.addr(family).bytes()) & u128::MAX.checked_shl(128 - len).unwrap_or(0);
            let addr = std::net::Ipv6Addr::from(bits).into();
            let prefix_len = PolicyNetworkKey::GENERATION_BITS + len;
            self.tables.policy.networks.insert(PolicyNetworkKey { prefix_len, generation: GENERATION, addr }, class);
        }
    }

    /// The rule of a list for the ports that share so many leading bits with this one.
    pub fn rule_for(&mut self, ports: Ports, protocol: u8, port: u16, bits: u32, rule: u32) {
        let prefix_len = PolicyPortKey::PROTOCOL_BITS + bits;
        let port = Be16::new(port);
        self.tables
            .policy
            .ports
            .insert(PolicyPortKey { prefix_len, ..PolicyPortKey::exact(ports.number(), protocol, port) }, rule);
    }

    /// What was judged is judged again.
    pub fn next_epoch(&mut self) {
        self.tables.policy_epoch += 1;
    }
}
