//! The services' tables in the kernel, as the plan writes them.
//!
//! Invariant: a frontend that is set is seen by no program before the backends
//! and blocks that were written earlier. This module must not know what a
//! Service is.

use std::{io, path::Path};

use datapath::abi::{Backend, FrontendKey, FrontendValue, SourceRangeKey, capacity};

use super::{
    counters::Counters,
    map::{MapError, Table},
    mapped::MappedArray,
    readers::Readers,
};
use crate::plan::{ServiceTables, Snapshot};

/// Frontends, blocks, backends, source ranges and counters of connections in pinned maps.
pub struct KernelServiceTables {
    frontends: Table<FrontendKey, FrontendValue>,
    blocks: MappedArray<u32>,
    backends: MappedArray<Backend>,
    source_ranges: Table<SourceRangeKey, u32>,
    connections: Counters<u32>,
    readers: Readers,
}

/// Why the services' tables could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ServiceTableError {
    /// A table refused.
    #[error(transparent)]
    Map(#[from] MapError),
    /// There is no way to tell when readers are gone, so nothing can be freed.
    #[error("cannot wait for running eBPF programs: {0}")]
    Readers(#[source] io::Error),
}

impl KernelServiceTables {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, ServiceTableError> {
        Ok(Self {
            frontends: Table::open(dir, "FRONTENDS")?,
            blocks: MappedArray::open(dir, "BLOCKS")?,
            backends: MappedArray::open(dir, "BACKENDS")?,
            source_ranges: Table::open(dir, "SOURCE_RANGES")?,
            connections: Counters::open(dir, "SERVICE_CONNECTIONS")?,
            readers: Readers::new().map_err(ServiceTableError::Readers)?,
        })
    }

    /// Whether readers are waited for by membarrier(2), rather than by replacing a map in a map of maps.
    pub fn has_membarrier(&self) -> bool {
        matches!(self.readers, Readers::Membarrier)
    }

    /// The tables as an earlier agent left them.
    pub fn snapshot(&mut self) -> Result<Snapshot, ServiceTableError> {
        let frontends = self.frontends.entries()?;
        let mut backends = Vec::new();
        self.backends.for_each(|id, backend| {
            if backend != Backend::default() {
                backends.push((id, backend));
            }
        })?;
        let source_ranges = self.source_ranges.keys()?;
        let snapshot = Snapshot::new(frontends, backends, source_ranges, |block| {
            let end = block.base.checked_add(block.len).filter(|end| *end <= capacity::BLOCKS)?;
            (block.base..end).map(|index| self.blocks.get(index).ok()).collect()
        });
        self.blocks.unmap();
        let mut counted = Vec::new();
        self.connections.for_each(|service, _| counted.push(service))?;
        Ok(Snapshot { counted, ..snapshot })
    }
}

impl ServiceTables for KernelServiceTables {
    type Error = ServiceTableError;

    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), ServiceTableError> {
        Ok(self.backends.set(id, backend)?)
    }

    fn write_block(&mut self, base: u32, ids: &[u32]) -> Result<(), ServiceTableError> {
        for (index, id) in (base..).zip(ids) {
            self.blocks.set(index, id)?;
        }
        Ok(())
    }

    fn set_frontend(&mut self, key: &FrontendKey, value: &FrontendValue) -> Result<(), ServiceTableError> {
        self.blocks.publish();
        Ok(self.frontends.set(key, value)?)
    }

    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), ServiceTableError> {
        self.frontends.remove(key)?;
        Ok(())
    }

    fn set_source_range(&mut self, key: &SourceRangeKey) -> Result<(), ServiceTableError> {
        Ok(self.source_ranges.set(key, &1)?)
    }

    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), ServiceTableError> {
        self.source_ranges.remove(key)?;
        Ok(())
    }

    fn forget_service(&mut self, service: u32) -> Result<(), ServiceTableError> {
        self.connections.remove(&service)?;
        Ok(())
    }

    fn wait_for_readers(&mut self) -> Result<(), ServiceTableError> {
        self.readers.wait().map_err(ServiceTableError::Readers)
    }
}
