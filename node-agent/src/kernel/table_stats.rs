//! What can be counted in the tables: how full they are, drops by reason, denials, connections.
//!
//! Reading takes milliseconds for large tables; a clone may do it on another
//! thread. This module must not know who asks.

use std::{collections::BTreeMap, path::Path};

use datapath::abi::{Beginnings, DropReason, LAYOUT, PolicyDenial};

use super::{
    counters::Counters,
    map::{CheckedMap, MapError, Table},
    sys,
};

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFill {
    /// Its name.
    pub name: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that it can hold.
    pub capacity: u64,
}

/// Tables that are hashes, whose entries are counted by walking them; the others'
/// writer knows what is in use.
const HASHES: [&str; 9] = [
    "PODS",
    "POD_NETNS",
    "AFFINITY",
    "FLOWS",
    "FRAGMENTS",
    "SOCKET_PEERS",
    "POLICY_PEERS",
    "POLICY_VERDICTS",
    "POLICY_FLOWS",
];

/// Reads counts.
#[derive(Clone, Debug)]
pub struct TableStats {
    hashes: Vec<CheckedMap>,
    drops: CheckedMap,
    beginnings: Table<u32, Beginnings>,
    denials: Counters<PolicyDenial>,
    connections: Counters<u32>,
    cpus: usize,
}

impl TableStats {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        let drops = CheckedMap::open(dir, "DROPS")?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| drops.error("size a read of")(source))?;
        let hashes = HASHES.iter().map(|name| CheckedMap::open(dir, name)).collect::<Result<_, _>>()?;
        let beginnings = Table::open(dir, "BEGINNINGS")?;
        let (denials, connections) =
            (Counters::open(dir, "POLICY_DENIALS")?, Counters::open(dir, "SERVICE_CONNECTIONS")?);
        Ok(Self { hashes, drops, beginnings, denials, connections, cpus })
    }

    /// How full each hash is.
    pub fn fill(&self) -> Result<Vec<TableFill>, MapError> {
        let fill = |map: &CheckedMap, entries| {
            let layout = map.layout();
            TableFill { name: layout.name, entries, capacity: u64::from(layout.entries) }
        };
        let mut all = Vec::new();
        for map in &self.hashes {
            all.push(fill(map, map.count()?));
        }
        all.push(fill(self.denials.map(), self.denials.count()?));
        all.push(fill(self.connections.map(), self.connections.count()?));
        Ok(all)
    }

    /// How many packets were dropped for each reason, on all CPUs since the tables were made.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, MapError> {
        let count = |reason: &DropReason| {
            let per_cpu = sys::map_lookup_per_cpu(self.drops.fd(), &(*reason as u32), self.cpus);
            Ok((*reason, per_cpu.map_err(self.drops.error("read"))?.iter().sum()))
        };
        DropReason::ALL.iter().map(count).collect()
    }

    /// How many flows made room for later ones since the tables were made, because nobody had opened them.
    pub fn unopened(&self) -> Result<u64, MapError> {
        Ok(self.beginnings.get(&0)?.unwrap_or_default().unopened)
    }

    /// How many packets policies denied, by what did.
    pub fn denials(&self) -> Result<BTreeMap<PolicyDenial, u64>, MapError> {
        self.denials.all()
    }

    /// How many connections began, by [`datapath::abi::FrontendValue::service`]; 0: to service ports
    /// that have no counter of their own.
    pub fn service_connections(&self) -> Result<BTreeMap<u32, u64>, MapError> {
        self.connections.all()
    }
}

/// How many entries a table of the layout can hold.
pub fn capacity(name: &str) -> u64 {
    LAYOUT.iter().find(|layout| layout.name == name).map_or(0, |layout| u64::from(layout.entries))
}
