//! ClusterNetworkPolicies: rules with a precedence, before and behind NetworkPolicies.
//!
//! Invariant: where a policy said what can't be read, it accepts nothing and denies
//! whatever it may have meant to.

use super::{
    network_policy::{Labels, PolicyRule, Selector},
    objects::ObjectKey,
};

/// A `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its name; the namespace is "".
    pub key: ObjectKey,
    /// `spec.tier`.
    pub tier: Tier,
    /// `spec.priority`: the lower, the earlier in its tier.
    pub priority: u16,
    /// Of `spec.subject`: in which namespaces,
    pub namespaces: Selector,
    /// and which of their pods.
    pub pods: Selector,
    /// `spec.ingress`.
    pub ingress: Vec<ClusterRule>,
    /// `spec.egress`.
    pub egress: Vec<ClusterRule>,
}

impl ClusterNetworkPolicy {
    /// Whether it is about a pod with these labels in such a namespace.
    pub fn selects(&self, namespace: &Labels, pod: &Labels) -> bool {
        self.namespaces.matches(namespace) && self.pods.matches(pod)
    }
}

/// In which order policies are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// ClusterNetworkPolicies before all others.
    Admin,
    /// NetworkPolicies. Of a pod that one of them isolates they say all that is left to say.
    Network,
    /// ClusterNetworkPolicies behind them.
    Baseline,
}

/// What a rule does with what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It passes.
    Accept,
    /// It is dropped.
    Deny,
    /// The next tier says.
    Pass,
}

/// One entry of `ingress` or `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// What it does
    pub action: Action,
    /// with these.
    pub rule: PolicyRule,
}
