//! The services' tables in memory, checked at every write as their readers would
//! notice it, with faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use datapath::abi::{Addr, Backend, BlockRef, FrontendKey, FrontendValue, SourceRangeKey};
use node_agent::plan::{Capacities, ServiceTables, Snapshot};

/// Why a write of the tables in memory failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// As was asked for.
    #[error("the write failed on purpose")]
    OnPurpose,
    /// As the kernel would.
    #[error("the table is full")]
    Full,
}

/// The tables.
pub struct MemoryTables {
    pub capacities: Capacities,
    pub frontends: BTreeMap<FrontendKey, FrontendValue>,
    pub backends: Vec<Backend>,
    pub blocks: Vec<u32>,
    pub source_ranges: BTreeSet<SourceRangeKey>,
    /// Service ports whose connections are counted: all that a frontend ever named, as if some client
    /// always dialled at once.
    pub counted: BTreeSet<u32>,
    /// Writes since the tables were made.
    pub writes: usize,
    /// Calls of `wait_for_readers`.
    pub waits: usize,
    /// Of a hundred writes so many fail.
    pub fault_rate: u64,
    /// After so many writes the writer is dead: nothing has an effect any more.
    pub dies_after: Option<usize>,
    /// Something in the tables is wrong from the start, so readers have nothing to rely on.
    pub corrupt: bool,
    random: u64,
    /// What programs that still run may have looked up.
    held: BTreeMap<FrontendKey, Vec<FrontendValue>>,
    /// The endpoints that each frontend has led to since [`Self::watch`].
    seen: BTreeMap<FrontendKey, BTreeSet<Option<Reach>>>,
}

/// Endpoints for clients inside and outside.
type Reach = (Vec<SocketAddr>, Vec<SocketAddr>);

/// A frontend without ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub flags: u32,
    pub affinity_seconds: u32,
    pub internal: Vec<(SocketAddr, u16)>,
    pub external: Vec<(SocketAddr, u16)>,
    /// The least frontend of the same service id.
    pub sibling: FrontendKey,
    /// Source ranges of the service id: address and length.
    pub ranges: Vec<(Addr, u32)>,
}

impl MemoryTables {
    pub fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            frontends: BTreeMap::new(),
            backends: vec![Backend::default(); capacities.backends as usize],
            blocks: vec![0; capacities.blocks as usize],
            source_ranges: BTreeSet::new(),
            counted: BTreeSet::new(),
            writes: 0,
            waits: 0,
            fault_rate: 0,
            dies_after: None,
            corrupt: false,
            random: 0x9e37_79b9_7f4a_7c15,
            held: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// All frontends without ids.
    pub fn view(&self) -> BTreeMap<FrontendKey, View> {
        let sibling = |service| *self.frontends.iter().find(|(_, v)| v.service == service).expect("itself").0;
        let view = |value: &FrontendValue| View {
            flags: value.flags,
            affinity_seconds: value.affinity_seconds,
            internal: self.endpoints(value.internal).map(|b| (socket(b), b.flags)).collect(),
            external: self.endpoints(value.external).map(|b| (socket(b), b.flags)).collect(),
            sibling: sibling(value.service),
            ranges: self.ranges(value.service).map(|range| (range.addr, range.prefix_len)).collect(),
        };
        self.frontends.iter().map(|(key, value)| (*key, view(value))).collect()
    }

    /// The source ranges of a service id.
    pub fn ranges(&self, service: u32) -> impl Iterator<Item = &SourceRangeKey> {
        self.source_ranges.iter().filter(move |range| range.service == service)
    }

    /// The backends in use, without ids and order.
    pub fn live_backends(&self) -> Vec<(SocketAddr, u16)> {
        let mut live: Vec<_> = self.backends.iter().filter(|b| b.flags != 0).map(|b| (socket(b), b.flags)).collect();
        live.sort();
        live
    }

    /// The backends in a block.
    pub fn endpoints(&self, block: BlockRef) -> impl Iterator<Item = &Backend> {
        let range = block.base as usize..(block.base + block.len) as usize;
        self.blocks[range].iter().map(|id| &self.backends[*id as usize])
    }

    /// The tables as a new agent finds them.
    pub fn snapshot(&self) -> Snapshot {
        let frontends = self.frontends.iter().map(|(k, v)| (*k, *v)).collect();
        let backends = (0..).zip(&self.backends).filter(|(_, b)| **b != Backend::default());
        let read = |block: BlockRef| {
            Some(self.blocks.get(block.base as usize..block.base as usize + block.len as usize)?.to_vec())
        };
        let source_ranges = self.source_ranges.iter().copied().collect();
        let snapshot = Snapshot::new(frontends, backends.map(|(id, b)| (id, *b)).collect(), source_ranges, read);
        Snapshot { counted: self.counted.iter().copied().collect(), ..snapshot }
    }

    /// From now on, notes to which endpoints each frontend leads.
    pub fn watch(&mut self) {
        self.seen.clear();
        for key in self.frontends.keys().copied().collect::<Vec<_>>() {
            self.note(key);
        }
    }

    /// Panics if a frontend led anywhere but to where it led at [`Self::watch`] or
    /// leads now.
    pub fn assert_changed_at_once(&self) {
        for (key, seen) in &self.seen {
            assert!(seen.len() <= 2, "{key:?} led to {seen:?}");
        }
    }

    fn note(&mut self, key: FrontendKey) {
        let reach = self.frontends.get(&key).map(|value| {
            let of = |block| self.endpoints(block).map(socket).collect();
            (of(value.internal), of(value.external))
        });
        // A frontend that was absent may come; from then on it counts.
        self.seen.entry(key).or_default().insert(reach);
        if let Some(value) = self.frontends.get(&key) {
            self.held.entry(key).or_default().push(*value);
        }
    }

    /// Whether the write is to fail, and whether it is to have its effect.
    fn fate(&mut self) -> (bool, bool) {
        self.writes += 1;
        if self.dies_after.is_some_and(|limit| self.writes > limit) {
            return (true, false);
        }
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fails = (self.random >> 33) % 100 < self.fault_rate;
        (fails, !fails || (self.random >> 20) & 1 == 1)
    }

    fn write(&mut self, effect: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        let (fails, has_effect) = self.fate();
        if has_effect {
            effect(self)?;
            self.check();
        }
        if fails { Err(Fault::OnPurpose) } else { Ok(()) }
    }

    /// What a reader relies on, of every frontend.
    fn check(&self) {
        if self.corrupt {
            return;
        }
        for (key, value) in &self.frontends {
            let whole = *key == FrontendKey::whole_address(key.addr);
            if value.flags & FrontendValue::MAGLEV != 0 {
                assert!(value.external.len >= 1021, "{key:?} has no Maglev table");
            }
            assert_eq!(value.service == 0, whole, "{key:?}");
            let set = |local| if value.flags & local != 0 { Backend::IN_LOCAL } else { Backend::IN_CLUSTER };
            let in_set = [
                (value.internal, set(FrontendValue::INTERNAL_LOCAL)),
                (value.external, set(FrontendValue::EXTERNAL_LOCAL)),
            ];
            for (block, flag) in in_set {
                for backend in self.endpoints(block) {
                    assert_eq!(backend.service, value.service, "{key:?} names another's backend {backend:?}");
                    let flags = Backend::ALIVE | flag;
                    assert_eq!(backend.flags & flags, flags, "{key:?} names {backend:?}");
                    assert_eq!(backend.addr.family(), key.addr.family());
                }
            }
        }
    }

    /// The blocks that a running program may be reading.
    fn held_blocks(&self) -> impl Iterator<Item = BlockRef> {
        self.held.values().flatten().flat_map(|v| [v.internal, v.external])
    }
}

impl ServiceTables for MemoryTables {
    type Error = Fault;

    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), Fault> {
        assert_ne!(id, 0);
        let mut read = self.held_blocks().flat_map(|b| &self.blocks[b.base as usize..(b.base + b.len) as usize]);
        let held = read.any(|held| *held == id);
        drop(read);
        if held && !self.corrupt {
            let there = Backend { flags: 0, ..self.backends[id as usize] };
            assert_eq!(Backend { flags: 0, ..*backend }, there, "a reader may still go by backend {id}");
        }
        let before = self.backends[id as usize];
        let same = (before.service, before.addr, before.port) == (backend.service, backend.addr, backend.port);
        let is_new = before.generation < backend.generation;
        let is_same = same && before.generation == backend.generation;
        assert!(is_new || is_same || self.corrupt, "{before:?} became {backend:?}");
        self.write(|tables| {
            tables.backends[id as usize] = *backend;
            Ok(())
        })
    }

    fn write_block(&mut self, base: u32, ids: &[u32]) -> Result<(), Fault> {
        let range = base as usize..base as usize + ids.len();
        for block in self.held_blocks().filter(|block| block.len > 0) {
            let clear = block.base + block.len <= base || block.base as usize >= range.end;
            assert!(clear || self.corrupt, "a reader may still be in {block:?}");
        }
        self.write(|tables| {
            tables.blocks[range].copy_from_slice(ids);
            Ok(())
        })
    }

    fn set_frontend(&mut self, key: &FrontendKey, value: &FrontendValue) -> Result<(), Fault> {
        self.write(|tables| {
            let full = tables.frontends.len() >= tables.capacities.frontends as usize;
            if full && !tables.frontends.contains_key(key) {
                return Err(Fault::Full);
            }
            tables.frontends.insert(*key, *value);
            tables.counted.extend(Some(value.service).filter(|service| *service != 0));
            tables.note(*key);
            Ok(())
        })
    }

    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), Fault> {
        self.write(|tables| {
            tables.frontends.remove(key);
            tables.note(*key);
            Ok(())
        })
    }

    fn set_source_range(&mut self, key: &SourceRangeKey) -> Result<(), Fault> {
        self.write(|tables| {
            let full = tables.source_ranges.len() >= tables.capacities.source_ranges as usize;
            if full && !tables.source_ranges.contains(key) {
                return Err(Fault::Full);
            }
            tables.source_ranges.insert(*key);
            Ok(())
        })
    }

    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), Fault> {
        self.write(|tables| {
            tables.source_ranges.remove(key);
            Ok(())
        })
    }

    fn forget_service(&mut self, service: u32) -> Result<(), Fault> {
        let held = self.held.values().flatten().any(|value| value.service == service);
        assert!(!held || self.corrupt, "a program may still count for service port {service}");
        self.write(|tables| {
            tables.counted.remove(&service);
            Ok(())
        })
    }

    fn wait_for_readers(&mut self) -> Result<(), Fault> {
        let (fails, _) = self.fate();
        if fails {
            return Err(Fault::OnPurpose);
        }
        self.waits += 1;
        self.held = self.frontends.iter().map(|(k, v)| (*k, vec![*v])).collect();
        Ok(())
    }
}

fn socket(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.addr.into(), backend.port.get())
}
