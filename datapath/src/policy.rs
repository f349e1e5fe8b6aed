//! NetworkPolicy: whether a local pod's policies allow a packet that begins something.
//!
//! Invariant: what the tables don't allow is denied, and what they allow or deny names the
//! rule that does. This module must not know flows, replies or nodes: who asks has seen to
//! these.

use crate::abi::{Addr, Be16, PodPolicy, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey};

/// The tables of policy.
pub trait PolicyTables {
    /// The class of a peer that is a pod.
    fn policy_peer(&self, key: &PolicyPeerKey) -> Option<u32>;
    /// The class of the longest matching network.
    fn policy_network(&self, generation: u32, addr: &Addr) -> Option<u32>;
    /// What a set says of a class.
    fn policy_verdict(&self, key: &PolicyVerdictKey) -> Option<PolicyVerdict>;
    /// The rule of a list that allows a port.
    fn policy_port(&self, key: &PolicyPortKey) -> Option<u32>;
}

/// What is asked of a pod's policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The pod's policies, see [`PodPolicy::set`].
    pub set: u32,
    /// See [`crate::abi::direction`].
    pub direction: u32,
    /// The other end's address.
    pub peer: Addr,
    /// The IP protocol.
    pub protocol: u8,
    /// The port at the receiving end; zero where the protocol has none.
    pub port: Be16,
}

/// No rule allows it.
pub const DEFAULT_DENY: u32 = 0;

/// Whether what [`judge`] said allows it.
#[inline(always)]
pub const fn is_allowed(said: u32) -> bool {
    said != DEFAULT_DENY && said & PolicyVerdict::DENY == 0
}

/// The rule that allows it, or with [`PolicyVerdict::DENY`] that denies it, or [`DEFAULT_DENY`].
///
/// A peer may be allowed as a pod or by its address: whoever asks for one of both is
/// content with either, so each has a class of its own. Where rules deny, a pod's class
/// says what holds for its address, too, and the verdict on it is the last word.
#[inline(always)]
pub fn judge<T: PolicyTables>(tables: &T, question: &Question) -> u32 {
    let generation = question.set >> PodPolicy::GENERATION_SHIFT;
    let as_pod = tables.policy_peer(&PolicyPeerKey { addr: question.peer, generation }).unwrap_or(0);
    if as_pod != 0 {
        let said = said_of(tables, question, as_pod);
        if said != DEFAULT_DENY {
            return said;
        }
    }
    match tables.policy_network(generation, &question.peer) {
        Some(class) => said_of(tables, question, class),
        None if as_pod == 0 => said_of(tables, question, 0),
        None => DEFAULT_DENY,
    }
}

/// What the set says of a class.
#[inline(always)]
fn said_of<T: PolicyTables>(tables: &T, question: &Question, class: u32) -> u32 {
    let Question { set, direction, protocol, port, .. } = *question;
    let mut verdict = tables.policy_verdict(&PolicyVerdictKey { set, class, direction });
    if verdict.is_none() && class != 0 {
        verdict = tables.policy_verdict(&PolicyVerdictKey { set, class: 0, direction });
    }
    let Some(verdict) = verdict else { return DEFAULT_DENY };
    if verdict.ports != 0
        && let Some(rule) = tables.policy_port(&PolicyPortKey::exact(verdict.ports, protocol, port))
    {
        return rule;
    }
    verdict.rule
}
