//! The tables of policy.
//!
//! Invariant: each write is one entry's. This module must not know what policies say.

use std::{collections::BTreeSet, path::Path};

use datapath::abi::{
    PodPolicy, PolicyDenial, PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey,
};

use super::{
    counters::Counters,
    map::{MapError, Table},
};
use crate::policy::PolicyOp;

/// POLICY_PEERS and those beside it.
#[derive(Debug)]
pub struct PolicyTables {
    peers: Table<PolicyPeerKey, u32>,
    networks: Table<PolicyNetworkKey, u32>,
    verdicts: Table<PolicyVerdictKey, PolicyVerdict>,
    ports: Table<PolicyPortKey, u32>,
    epoch: Table<u32, u32>,
    denials: Counters<PolicyDenial>,
}

const fn generation(number: u32) -> u32 {
    number >> PodPolicy::GENERATION_SHIFT
}

impl PolicyTables {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        Ok(Self {
            peers: Table::open(dir, "POLICY_PEERS")?,
            networks: Table::open(dir, "POLICY_NETWORKS")?,
            verdicts: Table::open(dir, "POLICY_VERDICTS")?,
            ports: Table::open(dir, "POLICY_PORTS")?,
            epoch: Table::open(dir, "POLICY_EPOCH")?,
            denials: Counters::open(dir, "POLICY_DENIALS")?,
        })
    }

    /// Makes a write, unless it is a pod's, which is another table's.
    pub fn write(&self, op: &PolicyOp) -> Result<(), MapError> {
        match op {
            PolicyOp::Peer(key, Some(class)) => self.peers.set(key, class),
            PolicyOp::Peer(key, None) => self.peers.remove(key).map(drop),
            PolicyOp::Network(key, Some(class)) => self.networks.set(key, class),
            PolicyOp::Network(key, None) => self.networks.remove(key).map(drop),
            PolicyOp::Verdict(key, Some(verdict)) => self.verdicts.set(key, verdict),
            PolicyOp::Verdict(key, None) => self.verdicts.remove(key).map(drop),
            PolicyOp::Port(key, Some(rule)) => self.ports.set(key, rule),
            PolicyOp::Port(key, None) => self.ports.remove(key).map(drop),
            PolicyOp::Uncount(denial) => self.denials.remove(denial).map(drop),
            PolicyOp::Pod(..) => Ok(()),
        }
    }

    /// From now on flows are judged again.
    pub fn next_epoch(&self) -> Result<(), MapError> {
        let epoch = self.epoch.get(&0)?.unwrap_or(0);
        self.epoch.set(&0, &epoch.wrapping_add(1).max(1))
    }

    /// The generations of which there are entries.
    pub fn generations(&self) -> Result<BTreeSet<u32>, MapError> {
        let mut found = BTreeSet::new();
        self.peers.for_each(|key, _| _ = found.insert(key.generation))?;
        self.verdicts.for_each(|key, _| _ = found.insert(generation(key.set)))?;
        found.extend(self.networks.keys()?.iter().map(|key| key.generation));
        found.extend(self.ports.keys()?.iter().map(|key| generation(key.ports)));
        Ok(found)
    }

    /// Removes the entries of all generations but one.
    pub fn keep(&self, wanted: u32) -> Result<(), MapError> {
        for key in self.peers.keys()?.iter().filter(|key| key.generation != wanted) {
            self.peers.remove(key)?;
        }
        for key in self.networks.keys()?.iter().filter(|key| key.generation != wanted) {
            self.networks.remove(key)?;
        }
        for key in self.verdicts.keys()?.iter().filter(|key| generation(key.set) != wanted) {
            self.verdicts.remove(key)?;
        }
        for key in self.ports.keys()?.iter().filter(|key| generation(key.ports) != wanted) {
            self.ports.remove(key)?;
        }
        let mut counted = Vec::new();
        self.denials.for_each(|key, _| counted.push(key))?;
        for key in counted.iter().filter(|key| generation(key.set) != wanted) {
            self.denials.remove(key)?;
        }
        Ok(())
    }
}
