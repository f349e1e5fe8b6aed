//! The tables of local pods: by address, and by network namespace.
//!
//! Invariant: a pod's entry that says the same as before is left alone, because
//! the programs write to it too. This module must not know how a pod is wired.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use datapath::abi::{Addr, PodChange, PodNetns, PodValue};

use super::{
    map::{MapError, Table},
    sys,
};

/// PODS and POD_NETNS.
#[derive(Debug)]
pub struct PodTables {
    by_address: Table<Addr, PodValue>,
    by_netns: Table<u64, PodNetns>,
    change_pod: OwnedFd,
}

impl PodTables {
    /// Opens the tables pinned in `dir`; `change_pod` is the program of this name over them.
    pub fn open(dir: &Path, change_pod: BorrowedFd<'_>) -> Result<Self, MapError> {
        let by_address: Table<Addr, PodValue> = Table::open(dir, "PODS")?;
        let change_pod = change_pod.try_clone_to_owned().map_err(by_address.map().error("write to"))?;
        Ok(Self { by_address, by_netns: Table::open(dir, "POD_NETNS")?, change_pod })
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
            value.judged_since = old.judged_since;
            if old == value {
                return Ok(());
            }
            // A flow that begins meanwhile notes itself in the old entry. (None does while the
            // pod is held.)
            if (old.flags | value.flags) & PodValue::HELD == 0 {
                return self.change(address, &value);
            }
        }
        self.by_address.set(&address, &value)
    }

    /// Writes the words of an open pod's entry that are ours where they stand.
    fn change(&self, addr: Addr, value: &PodValue) -> Result<(), MapError> {
        let change = PodChange { addr, value: *value };
        let returned = sys::run_on_frame(self.change_pod.as_fd(), &change);
        let done = returned.and_then(|returned| match returned {
            PodChange::WRITTEN => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        });
        done.map_err(self.by_address.map().error("write to"))
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
