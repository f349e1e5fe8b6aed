//! How large the tables of policy are.

use super::{engine::PolicyEngine, outcome::port_keys};

/// Entries by table, and what they are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Different things that rules say of peers.
    pub clauses: usize,
    /// Different kinds of peers.
    pub classes: usize,
    /// Different sets of policies.
    pub sets: usize,
    /// Peers that are pods.
    pub peers: usize,
    /// Networks of peers.
    pub networks: usize,
    /// What sets say of classes.
    pub verdicts: usize,
    /// Ports of rules.
    pub ports: usize,
}

impl PolicyEngine {
    /// How many networks of peers there are.
    pub fn networks_len(&self) -> usize {
        self.networks.len()
    }

    /// How large the tables are.
    pub fn sizes(&self) -> Sizes {
        let lists = self.lists.iter();
        Sizes {
            clauses: self.clauses.len(),
            classes: self.classes.len(),
            sets: self.sets.len(),
            peers: self.pods.values().filter(|pod| !pod.items.is_empty()).count(),
            networks: self.networks.len(),
            verdicts: self.verdicts.len(),
            ports: lists.map(|(id, ports)| port_keys(id, ports).len()).sum(),
        }
    }
}
