//! Writes to the tables of policy.

use datapath::abi::{
    Addr, PodPolicy, PolicyDenial, PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey,
};

/// One write; `None` removes the entry. Each may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyOp {
    /// A rule for a port.
    Port(PolicyPortKey, Option<u32>),
    /// What a set says of a class.
    Verdict(PolicyVerdictKey, Option<PolicyVerdict>),
    /// The class of a network.
    Network(PolicyNetworkKey, Option<u32>),
    /// The class of a pod.
    Peer(PolicyPeerKey, Option<u32>),
    /// A local pod's policies.
    Pod(Addr, PodPolicy),
    /// Removes the counter of what is there no more: its numbers will be another's.
    Uncount(PolicyDenial),
}
