//! Waiting until no program run can still hold what a table no longer names.
//!
//! Invariant: when [`Readers::wait`] returns `Ok`, every program run that had
//! begun before the call has ended. This module must not know what is freed then.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use super::sys;

/// Waits for program runs to end, by the cheapest means that this kernel has.
pub enum Readers {
    /// membarrier(2), which waits for an RCU grace period.
    Membarrier,
    /// Replacing a map in a map of maps, which does the same; for kernels with
    /// `nohz_full` CPUs or without membarrier.
    InnerMap {
        /// An array with one map in it.
        outer: OwnedFd,
        /// The map that is put there again and again.
        inner: OwnedFd,
    },
}

impl Readers {
    /// Finds out which means there is.
    pub fn new() -> io::Result<Self> {
        if sys::membarrier_global().is_ok() {
            return Ok(Self::Membarrier);
        }
        let inner = sys::create_array(None)?;
        let outer = sys::create_array(Some(inner.as_fd()))?;
        let readers = Self::InnerMap { outer, inner };
        readers.wait()?;
        Ok(readers)
    }

    /// Returns when every program run that began before the call has ended; takes tens of milliseconds.
    pub fn wait(&self) -> io::Result<()> {
        match self {
            Self::Membarrier => sys::membarrier_global(),
            Self::InnerMap { outer, inner } => sys::map_update_inner(outer.as_fd(), 0, inner.as_fd()),
        }
    }
}
