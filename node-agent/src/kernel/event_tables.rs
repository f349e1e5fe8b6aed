//! The ring of events, who listens to it, and what was lost.
//!
//! Invariant: the ring has one reader at a time, and nothing is written to it unless
//! somebody has said that he listens, until a time that must be put off again and again.
//! This module must not know what events mean, nor who listens.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aya::maps::{Map, MapData, MapError as AyaError, RingBuf};
use datapath::abi::{Event, EventClass, EventControl, EventLoss};

use super::{
    clock,
    map::{CheckedMap, MapError, Table},
    plain, sys,
};

/// Why the ring can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// It can't be mapped.
    #[error("cannot read the ring of events at {path}: {source}")]
    Map {
        /// Its pin.
        path: PathBuf,
        /// Why not.
        source: Box<AyaError>,
    },
    /// Nobody can be told that somebody listens.
    #[error(transparent)]
    Table(#[from] MapError),
}

/// EVENTS, EVENT_CONTROL and EVENT_LOSSES.
#[derive(Clone, Debug)]
pub struct EventTables {
    ring: PathBuf,
    control: Table<u32, EventControl>,
    losses: CheckedMap,
    cpus: usize,
}

impl EventTables {
    /// Opens the tables pinned in `dir`. Whoever listened before does so no more.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        let losses = CheckedMap::open(dir, "EVENT_LOSSES")?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| losses.error("size a read of")(source))?;
        let tables = Self { ring: dir.join("EVENTS"), control: Table::open(dir, "EVENT_CONTROL")?, losses, cpus };
        tables.hush()?;
        Ok(tables)
    }

    /// Listens from now on for so long, to so many events of each class in a second.
    pub fn listen(&self, how_long: Duration, per_second: u32) -> Result<(), RingError> {
        let until = clock::nanos() + how_long.as_nanos() as u64;
        let per_tenth = per_second.div_ceil(10).div_ceil(self.cpus as u32).max(1);
        Ok(self.control.set(&0, &EventControl { until, per_tenth: [per_tenth; EventClass::COUNT as usize] })?)
    }

    /// Listens no more.
    pub fn hush(&self) -> Result<(), MapError> {
        self.control.set(&0, &EventControl::default())
    }

    /// Opens the ring. What is in it has been told to somebody else, and is gone.
    pub fn ring(&self) -> Result<EventRing, RingError> {
        let failed = |source| RingError::Map { path: self.ring.clone(), source: Box::new(source) };
        let map = MapData::from_pin(&self.ring).map_err(failed)?;
        let mut ring = EventRing { ring: RingBuf::try_from(Map::RingBuf(map)).map_err(failed)? };
        while ring.take().is_some() {}
        Ok(ring)
    }

    /// How many events were never told, on all CPUs since the tables were made.
    pub fn losses(&self) -> Result<EventLosses, MapError> {
        let count = |loss: EventLoss| {
            let per_cpu = sys::map_lookup_per_cpu(self.losses.fd(), &(loss as u32), self.cpus);
            Ok(per_cpu.map_err(self.losses.error("read"))?.iter().sum())
        };
        Ok(EventLosses {
            flows: count(EventLoss::Flows)?,
            troubles: count(EventLoss::Troubles)?,
            ring: count(EventLoss::Ring)?,
        })
    }
}

/// Events that were never told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventLosses {
    /// There were more of what goes as it should than were asked for.
    pub flows: u64,
    /// The same of drops, denials and refusals.
    pub troubles: u64,
    /// The ring was full.
    pub ring: u64,
}

/// The ring, open.
pub struct EventRing {
    ring: RingBuf<MapData>,
}

impl EventRing {
    /// The next event, if there is one.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            // Nothing else writes to it, but a short entry must not end the agent.
            if item.len() >= size_of::<Event>() {
                return Some(plain::read(&item));
            }
        }
    }
}
