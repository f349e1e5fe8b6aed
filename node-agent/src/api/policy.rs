//! The policies in force, as `fairlead policy` shows them.
//!
//! This module must not know where any of it comes from.

use serde::{Deserialize, Serialize};

/// Which policies are asked for: all that meet every part that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyQuery {
    /// Of this namespace; "" for those of the cluster.
    pub namespace: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// Which select this pod of the node: `namespace/name`.
    pub pod: Option<String>,
}

/// The policies, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// Those that were asked for.
    pub policies: Vec<PolicyEntry>,
    /// Packets that were denied by what is no more, or for which there was no counter.
    pub denied_otherwise: u64,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyEntry {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// Its namespace, "" if it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `Admin` or `Baseline` of a ClusterNetworkPolicy, else "".
    pub tier: String,
    /// The priority of a ClusterNetworkPolicy.
    pub priority: Option<u16>,
    /// The pods of this node that it selects: `namespace/name`.
    pub pods: Vec<String>,
    /// What it says of what comes to them; none: nothing.
    pub ingress: Option<DirectionEntry>,
    /// What it says of what they send.
    pub egress: Option<DirectionEntry>,
    /// What is wrong with it, "" if nothing.
    pub problem: String,
}

/// One direction of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectionEntry {
    /// Its rules.
    pub rules: Vec<RuleEntry>,
    /// Packets denied because no rule allowed them; of several policies that isolate a pod
    /// each has all of them. None: the policy isolates nobody.
    pub denied_by_default: Option<u64>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleEntry {
    /// `Accept`, `Deny` or `Pass`.
    pub action: String,
    /// With whom, in words.
    pub peers: String,
    /// Of which ports, in words.
    pub ports: String,
    /// Packets that it denied; none: it denies nothing.
    pub denied: Option<u64>,
}
