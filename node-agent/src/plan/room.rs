//! The room in the services' tables: what is free, what is taken, and what is
//! waiting for its last readers to leave.

use datapath::abi::{BlockRef, capacity};

use super::{ids::BackendIds, op::ServiceTables, ranges::Ranges};

/// How many entries the tables hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Frontends.
    pub frontends: u32,
    /// Backends, of which id 0 is never used.
    pub backends: u32,
    /// Backend ids in blocks.
    pub blocks: u32,
    /// Source ranges.
    pub source_ranges: u32,
}

impl Default for Capacities {
    /// Those of the tables as they are compiled into the programs.
    fn default() -> Self {
        Self {
            frontends: capacity::FRONTENDS,
            backends: capacity::BACKENDS,
            blocks: capacity::BLOCKS,
            source_ranges: capacity::SOURCE_RANGES,
        }
    }
}

/// How many entries of the tables are taken, what waits for its readers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Frontends.
    pub frontends: u32,
    /// Backends.
    pub backends: u32,
    /// Backend ids in blocks.
    pub blocks: u32,
    /// Source ranges.
    pub source_ranges: u32,
}

/// Waiting for readers takes milliseconds in which no change gets through, so it
/// is put off until this share of a table waits for it.
const WAITING_SHARE: u32 = 64;

/// Ids, blocks and counters, with those set aside until nobody can read them any more.
#[derive(Debug)]
pub(super) struct Room {
    pub ids: BackendIds,
    pub ranges: Ranges,
    waiting_ids: Vec<u32>,
    waiting_blocks: Vec<BlockRef>,
    waiting_entries: u32,
    waiting_services: Vec<u32>,
    source_ranges: u32,
    capacities: Capacities,
}

impl Room {
    pub fn new(capacities: Capacities) -> Self {
        Self {
            ids: BackendIds::new(capacities.backends),
            ranges: Ranges::new(capacities.blocks),
            waiting_ids: vec![],
            waiting_blocks: vec![],
            waiting_entries: 0,
            waiting_services: vec![],
            source_ranges: 0,
            capacities,
        }
    }

    /// No frontend names the backend any more, but a reader may.
    pub fn set_aside_id(&mut self, id: u32) {
        self.waiting_ids.push(id);
    }

    /// No frontend names the block any more, but a reader may.
    pub fn set_aside_block(&mut self, block: BlockRef) {
        self.waiting_blocks.push(block);
        self.waiting_entries += block.len;
    }

    /// No frontend is the service port's any more, but a program may still count for it.
    pub fn set_aside_service(&mut self, service: u32) {
        self.waiting_services.push(service);
    }

    /// Whether something was set aside.
    pub fn is_waiting(&self) -> bool {
        !(self.waiting_ids.is_empty() && self.waiting_blocks.is_empty() && self.waiting_services.is_empty())
    }

    /// Whether so much was set aside that it's time to wait for the readers.
    pub fn is_pressing(&self) -> bool {
        self.waiting_ids.len() as u32 > self.capacities.backends / WAITING_SHARE
            || self.waiting_entries > self.capacities.blocks / WAITING_SHARE
            || self.waiting_services.len() as u32 > capacity::SERVICE_CONNECTIONS / WAITING_SHARE
    }

    /// Waits for the readers and frees what was set aside. What can't be freed stays so.
    pub fn reclaim<T: ServiceTables>(&mut self, tables: &mut T) -> Result<(), T::Error> {
        if self.is_waiting() {
            tables.wait_for_readers()?;
        }
        self.waiting_ids.drain(..).for_each(|id| self.ids.release(id));
        self.waiting_blocks.drain(..).for_each(|block| self.ranges.release(block));
        self.waiting_entries = 0;
        while let Some(service) = self.waiting_services.last() {
            tables.forget_service(*service)?;
            self.waiting_services.pop();
        }
        Ok(())
    }

    /// Takes room for a source range, if there is any.
    pub fn take_source_range(&mut self) -> bool {
        let fits = self.source_ranges < self.capacities.source_ranges;
        self.source_ranges += u32::from(fits);
        fits
    }

    /// The table holds a source range already.
    pub fn adopt_source_range(&mut self) {
        self.source_ranges += 1;
    }

    /// A source range is gone from the table.
    pub fn give_source_range(&mut self) {
        self.source_ranges -= 1;
    }

    /// How many source ranges the table may hold.
    pub fn source_ranges(&self) -> u32 {
        self.source_ranges
    }

    /// How many entries are taken; of frontends the caller knows.
    pub fn usage(&self, frontends: u32) -> Usage {
        let (backends, blocks) = (self.ids.used(), self.ranges.used());
        Usage { frontends, backends, blocks, source_ranges: self.source_ranges }
    }

    pub fn capacities(&self) -> Capacities {
        self.capacities
    }
}
