//! The tables of local pods: by address, and by network namespace.
//!
//! Invariant: a pod's entry that says the same as before is left alone, because
//! the programs write to it too. This module must not know how a pod is wired.

use std::path::Path;

use datapath::abi::{Addr, PodNetns, PodValue};

use super::map::{MapError, Table};

/// PODS and POD_NETNS.
#[derive(Debug)]
pub struct PodTables {
    by_address: Table<Addr, PodValue>,
    by_netns: Table<u64, PodNetns>,
}

impl PodTables {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        Ok(Self { by_address: Table::open(dir, "PODS")?, by_netns: Table::open(dir, "POD_NETNS")? })
    }

    /// A pod's entry.
    pub fn get(&self, address: Addr) -> Result<Option<PodValue>, MapError> {
        self.by_address.get(&address)
    }

    /// Writes a pod's entry. `nat_protocols` of one that is there already stays, if it is of the same device.
    pub fn set(&self, address: Addr, value: &PodValue) -> Result<(), MapError> {
        let mut value = *value;
        if let Some(old) = self.by_address.get(&address)?
            && (old.ifindex, old.mac) == (value.ifindex, value.mac)
        {
            value.nat_protocols |= old.nat_protocols;
            let changes = (old.policy_set, old.flags) != (value.policy_set, value.flags);
            if changes && (old.flags | value.flags) & PodValue::HELD == 0 {
                // A flow that begins meanwhile notes itself in the old entry. All are looked
                // for in vain, at worst. (None begins while the pod is held.)
                value.nat_protocols = u32::MAX;
            }
            if old == value {
                return Ok(());
            }
        }
        self.by_address.set(&address, &value)
    }

    /// Removes a pod's entry.
    pub fn remove(&self, address: Addr) -> Result<bool, MapError> {
        self.by_address.remove(&address)
    }

    /// Every entry.
    pub fn entries(&self) -> Result<Vec<(Addr, PodValue)>, MapError> {
        self.by_address.entries()
    }

    /// Every address that has an entry, and its device's index.
    pub fn addresses(&self) -> Result<Vec<(Addr, u32)>, MapError> {
        Ok(self.by_address.entries()?.into_iter().map(|(address, value)| (address, value.ifindex)).collect())
    }

    /// Says which addresses the pod in a namespace has.
    pub fn set_netns(&self, cookie: u64, value: &PodNetns) -> Result<(), MapError> {
        self.by_netns.set(&cookie, value)
    }

    /// The addresses of the pod in a namespace.
    pub fn netns(&self, cookie: u64) -> Result<Option<PodNetns>, MapError> {
        self.by_netns.get(&cookie)
    }

    /// Forgets a namespace.
    pub fn remove_netns(&self, cookie: u64) -> Result<bool, MapError> {
        self.by_netns.remove(&cookie)
    }

    /// Every namespace that has an entry.
    pub fn cookies(&self) -> Result<Vec<u64>, MapError> {
        self.by_netns.keys()
    }
}
