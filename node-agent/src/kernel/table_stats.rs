//! What can be counted in the tables: how full they are, and drops by reason.
//!
//! Reading takes milliseconds for large tables; a clone may do it on another
//! thread. This module must not know who asks.

use std::{collections::BTreeMap, path::Path};

use datapath::abi::{Beginnings, DropReason, LAYOUT, PolicyDenial};

use super::{
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
    denials: Table<PolicyDenial, u64>,
    cpus: usize,
}

impl TableStats {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        let drops = CheckedMap::open(dir, "DROPS")?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| drops.error("size a read of")(source))?;
        let hashes = HASHES.iter().map(|name| CheckedMap::open(dir, name)).collect::<Result<_, _>>()?;
        let beginnings = Table::open(dir, "BEGINNINGS")?;
        Ok(Self { hashes, drops, beginnings, denials: Table::open(dir, "POLICY_DENIALS")?, cpus })
    }

    /// How full each hash is.
    pub fn fill(&self) -> Result<Vec<TableFill>, MapError> {
        let fill = |map: &CheckedMap| {
            let layout = map.layout();
            Ok(TableFill { name: layout.name, entries: map.count()?, capacity: u64::from(layout.entries) })
        };
        self.hashes.iter().map(fill).collect()
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
        let map = self.denials.map();
        let mut denials = BTreeMap::new();
        for key in self.denials.keys()? {
            match sys::map_lookup_per_cpu(map.fd(), &key, self.cpus) {
                Ok(per_cpu) => _ = denials.insert(key, per_cpu.iter().sum()),
                // The agent has removed it meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(map.error("read")(error)),
            }
        }
        Ok(denials)
    }
}

/// How many entries a table of the layout can hold.
pub fn capacity(name: &str) -> u64 {
    LAYOUT.iter().find(|layout| layout.name == name).map_or(0, |layout| u64::from(layout.entries))
}
