//! One write to the services' tables, as data, and who performs it.
//!
//! Invariant: every operation says all that it writes, so performing it twice is
//! the same as once.

use std::sync::Arc;

use datapath::abi::{Backend, FrontendKey, FrontendValue, SourceRangeKey};

/// The services' tables, as the plan needs them.
///
/// A write that fails may or may not have taken effect: the plan reckons with both.
pub trait ServiceTables {
    /// Why a write failed.
    type Error: std::error::Error;

    /// Sets the backend with an id.
    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), Self::Error>;

    /// Sets the block entries from index `base` on.
    fn write_block(&mut self, base: u32, ids: &[u32]) -> Result<(), Self::Error>;

    /// Sets a frontend, atomically for its readers.
    fn set_frontend(&mut self, key: &FrontendKey, value: &FrontendValue) -> Result<(), Self::Error>;

    /// Removes a frontend; it is no error if there is none.
    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), Self::Error>;

    /// Admits a network's clients to a service port.
    fn set_source_range(&mut self, key: &SourceRangeKey) -> Result<(), Self::Error>;

    /// Admits them no more; it is no error if they weren't.
    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), Self::Error>;

    /// Forgets what was counted of a service port; it is no error if nothing was.
    fn forget_service(&mut self, service: u32) -> Result<(), Self::Error>;

    /// Returns when no program run that began before the call can still be running.
    fn wait_for_readers(&mut self) -> Result<(), Self::Error>;
}

/// One write to the services' tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the backend with an id.
    WriteBackend {
        /// Where.
        id: u32,
        /// What.
        backend: Backend,
    },
    /// Sets a block of backend ids.
    WriteBlock {
        /// The service port that the block is for.
        service: u32,
        /// Index of the first id.
        base: u32,
        /// The ids.
        ids: Arc<[u32]>,
    },
    /// Sets a frontend.
    SetFrontend {
        /// Where.
        key: FrontendKey,
        /// What.
        value: FrontendValue,
    },
    /// Removes a frontend.
    DeleteFrontend {
        /// Which.
        key: FrontendKey,
    },
    /// Admits a network's clients to a service port.
    SetSourceRange {
        /// Which, and to which.
        key: SourceRangeKey,
    },
    /// Admits them no more.
    DeleteSourceRange {
        /// Which, and to which.
        key: SourceRangeKey,
    },
}

impl Op {
    /// Performs the write.
    pub fn perform<T: ServiceTables>(&self, tables: &mut T) -> Result<(), T::Error> {
        match self {
            Self::WriteBackend { id, backend } => tables.write_backend(*id, backend),
            Self::WriteBlock { base, ids, .. } => tables.write_block(*base, ids),
            Self::SetFrontend { key, value } => tables.set_frontend(key, value),
            Self::DeleteFrontend { key } => tables.delete_frontend(key),
            Self::SetSourceRange { key } => tables.set_source_range(key),
            Self::DeleteSourceRange { key } => tables.delete_source_range(key),
        }
    }
}
