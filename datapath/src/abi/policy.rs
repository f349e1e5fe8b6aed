//! NetworkPolicy: who a peer is, and what a local pod's policies say of it.
//!
//! ```text
//! peer's address ──► class                   POLICY_PEERS as a pod, POLICY_NETWORKS as an address
//! (set, class, direction) ──► rule, ports    POLICY_VERDICTS, else that of class 0
//! (ports, protocol, port) ──► rule           POLICY_PORTS, by longest prefix
//! (set or rule, direction) ──► denied        POLICY_DENIALS
//! ```

use super::{Addr, Be16, assert_size};

/// The policies of a pod on this node: one word, so that no reader sees half a change.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PodPolicy {
    /// The number of their set, in which are, from the upper end: eight bits, the generation of
    /// the peers' classes by which the pod is judged; [`PodPolicy::BOTH`]; and the rest.
    /// 0: no policy selects the pod.
    pub set: u32,
}

impl PodPolicy {
    /// No policy selects the pod.
    pub const NONE: Self = Self { set: 0 };
    /// By how many bits a generation stands above the rest of a set's number.
    pub const GENERATION_SHIFT: u32 = 24;
    /// In a set's number: what the pod sends must be allowed.
    pub const EGRESS: u32 = 1 << 23;
    /// In a set's number: what comes to the pod must be allowed.
    pub const INGRESS: u32 = 1 << 22;
    /// The isolated directions, in a set's number.
    pub const BOTH: u32 = Self::INGRESS | Self::EGRESS;

    /// The bit in a set's number for a direction, see [`direction`].
    #[inline(always)]
    pub const fn isolated(direction: u32) -> u32 {
        if direction == direction::EGRESS { Self::EGRESS } else { Self::INGRESS }
    }

    /// Whether something must be allowed in a direction.
    #[inline(always)]
    pub const fn isolates(self, direction: u32) -> bool {
        self.set & Self::isolated(direction) != 0
    }
}

/// A direction, as tables' keys name it: that of the first packet, as the pod sees it.
pub mod direction {
    /// To the pod.
    pub const INGRESS: u32 = 0;
    /// From the pod.
    pub const EGRESS: u32 = 1;
}

/// A peer that is a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PolicyPeerKey {
    /// Its address.
    pub addr: Addr,
    /// The generation of the classes.
    pub generation: u32,
}

/// A network of peers, in the form that the kernel's LPM trie wants.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PolicyNetworkKey {
    /// Significant bits of what follows: [`PolicyNetworkKey::GENERATION_BITS`] and those
    /// of the address, of an IPv4 prefix plus 96.
    pub prefix_len: u32,
    /// The generation of the classes.
    pub generation: u32,
    /// The network's address.
    pub addr: Addr,
}

impl PolicyNetworkKey {
    /// The significant bits before the address.
    pub const GENERATION_BITS: u32 = 32;
}

/// What a set of policies says of a class of peers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PolicyVerdictKey {
    /// See [`PodPolicy::set`].
    pub set: u32,
    /// The peers' class; 0 says what holds for everybody.
    pub class: u32,
    /// See [`direction`].
    pub direction: u32,
}

/// By which rule something is allowed or denied.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PolicyVerdict {
    /// The rule that decides what no rule for a port does, of every protocol; 0: none.
    pub rule: u32,
    /// The list of ports that rules decide; 0: none.
    pub ports: u32,
}

impl PolicyVerdict {
    /// Set in the number of a rule that denies, alone where no rule allows: that is the
    /// last word on a peer, which [`PolicyVerdict::rule`] 0 isn't.
    pub const DENY: u32 = 1 << 31;
    /// In place of a rule: none decides, and who isn't isolated is allowed.
    pub const DEFAULT_ALLOW: u32 = Self::DENY - 1;
}

/// What denied packets: the key by which they are counted, and by which the agent tells
/// policy and rule.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PolicyDenial {
    /// The rule that denies; 0: none allows.
    pub rule: u32,
    /// See [`PodPolicy::set`]; where a rule denies, no more of it than the generation.
    pub set: u32,
    /// See [`direction`].
    pub direction: u32,
}

impl PolicyDenial {
    /// Of what a set's rules said.
    #[inline(always)]
    pub const fn by(said: u32, set: u32, direction: u32) -> Self {
        let rule = said & !PolicyVerdict::DENY;
        let of_rule = set >> PodPolicy::GENERATION_SHIFT << PodPolicy::GENERATION_SHIFT;
        Self { rule, set: if rule == 0 { set } else { of_rule }, direction }
    }
}

/// Some ports, in the form that the kernel's LPM trie wants.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PolicyPortKey {
    /// Significant bits of what follows, at least [`PolicyPortKey::PROTOCOL_BITS`].
    pub prefix_len: u32,
    /// See [`PolicyVerdict::ports`].
    pub ports: u32,
    /// An IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// The destination port.
    pub port: Be16,
}

impl PolicyPortKey {
    /// The significant bits before the port.
    pub const PROTOCOL_BITS: u32 = 48;

    /// The key to look a port up with.
    #[inline(always)]
    pub const fn exact(ports: u32, protocol: u8, port: Be16) -> Self {
        Self { prefix_len: Self::PROTOCOL_BITS + 16, ports, protocol, pad: 0, port }
    }
}

/// What is noted of a flow of which an end is a pod that some policy selects, by the key of
/// the packets that travel as its first one did.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PolicyFlow {
    /// Monotonic seconds when the last packet passed.
    pub last_seen: u32,
    /// The epoch in which the policies of the pod that began it allowed it; 0: none.
    pub egress: u32,
    /// The epoch in which the policies of the pod at the other end allowed it; 0: none.
    pub ingress: u32,
}

assert_size!(
    PolicyFlow = 12,
    PodPolicy = 4,
    PolicyPeerKey = 20,
    PolicyNetworkKey = 24,
    PolicyVerdictKey = 12,
    PolicyVerdict = 8,
    PolicyDenial = 12,
    PolicyPortKey = 12,
);
