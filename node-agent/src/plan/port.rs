//! One service port: what it wants, and what stands in the tables for it.
//!
//! Invariant: a backend keeps its id and a block its content for as long as any
//! frontend may name them. It must not know other service ports, nor who claims
//! its frontends.

use std::sync::Arc;

use datapath::abi::{Addr, Backend, Be16, BlockRef, Family, FrontendKey, FrontendValue, SourceRangeKey};

use super::{frontend::Claimant, maglev, op::Op, room::Room, services::NoLocalEndpoints, source_ranges::PortRanges};
use crate::compile::{CompiledEndpoint, CompiledFrontend, CompiledPort, EndpointSet};

/// An endpoint that is wanted, or was and may still be named.
#[derive(Debug)]
pub(super) struct Slot {
    pub addr: Addr,
    pub port: Be16,
    /// The backend's flags as they should be; 0: no longer wanted.
    want: u16,
    /// The flags as last written.
    pub written: u16,
    /// No write failed since, so they are as written.
    pub sure: bool,
    cluster: bool,
    local: bool,
    /// The backend's id, 0: it has none.
    pub id: u32,
}

impl Slot {
    /// The backend as an earlier plan left it; wanted by nobody yet.
    pub fn adopted(id: u32, backend: &Backend) -> Self {
        let Backend { addr, port, flags, .. } = *backend;
        Self { addr, port, want: 0, written: flags, sure: true, cluster: false, local: false, id }
    }

    pub fn place(&self) -> (Addr, u16) {
        (self.addr, self.port.get())
    }

    fn is_in(&self, set: EndpointSet) -> bool {
        match set {
            EndpointSet::Cluster => self.cluster,
            EndpointSet::Local => self.local,
        }
    }

    fn write(&self, service: u32, flags: u16, room: &Room) -> Op {
        let generation = room.ids.generation(self.id);
        let backend = Backend { addr: self.addr, port: self.port, flags, service, generation, pad: 0 };
        Op::WriteBackend { id: self.id, backend }
    }
}

/// A block of the port's backends.
#[derive(Debug)]
pub(super) struct Block {
    pub at: BlockRef,
    pub ids: Arc<[u32]>,
}

/// One port of one Service in one address family.
#[derive(Debug)]
pub(super) struct Port {
    /// [`FrontendValue::service`].
    pub id: u32,
    /// Whose it is; `None`: nobody's any more.
    pub claimant: Option<Arc<Claimant>>,
    /// How many frontends it holds; with none its endpoints need no backends.
    pub held: u32,
    /// [`CompiledPort::identity`].
    pub identity: (Family, u8, u16),
    pub frontends: Vec<CompiledFrontend>,
    usable: bool,
    affinity_seconds: u32,
    /// Sorted by address and port.
    pub slots: Vec<Slot>,
    /// The blocks that frontends name or may name.
    pub blocks: Vec<Block>,
    /// The blocks that they should name: for the Cluster set, for the Local set.
    current: [BlockRef; 2],
    /// The same as Maglev tables, where there are such.
    tables: [BlockRef; 2],
    pub source_ranges: PortRanges,
    /// Some frontend that it holds asks for source ranges.
    restricted: bool,
    /// Frontends whose entries may name this port.
    pub named_by: Vec<FrontendKey>,
    /// A write failed in this round.
    pub failed: bool,
    /// How many endpoints had no room.
    left_out: usize,
    /// A Maglev table had no room.
    no_table: bool,
}

impl Port {
    pub fn new(id: u32) -> Self {
        Self {
            id,
            claimant: None,
            held: 0,
            identity: (Family::V4, 0, 0),
            frontends: vec![],
            usable: false,
            affinity_seconds: 0,
            slots: vec![],
            blocks: vec![],
            current: [BlockRef::default(); 2],
            tables: [BlockRef::default(); 2],
            source_ranges: PortRanges::default(),
            restricted: false,
            named_by: vec![],
            failed: false,
            left_out: 0,
            no_table: false,
        }
    }

    /// Wants what is given from now on; whether that is anything new.
    pub fn want(&mut self, compiled: CompiledPort) -> bool {
        debug_assert!(compiled.endpoints.is_sorted_by_key(|e| (e.addr, e.port.get())));
        let header = (compiled.usable, compiled.affinity_seconds);
        let mut changed = self.frontends != compiled.frontends || (self.usable, self.affinity_seconds) != header;
        self.identity = compiled.identity();
        (self.usable, self.affinity_seconds) = header;
        self.frontends = compiled.frontends;
        changed |= self.source_ranges.want(&compiled.source_ranges);

        let mut slots = Vec::with_capacity(compiled.endpoints.len());
        let mut old = std::mem::take(&mut self.slots).into_iter().peekable();
        let mut drop_slot = |mut slot: Slot, slots: &mut Vec<Slot>| {
            changed |= slot.want != 0;
            slot.want = 0;
            if slot.id != 0 {
                slots.push(slot);
            }
        };
        let mut added = false;
        for endpoint in &compiled.endpoints {
            let place = (endpoint.addr, endpoint.port.get());
            while let Some(slot) = old.next_if(|s| s.place() < place) {
                drop_slot(slot, &mut slots);
            }
            let mut slot = old.next_if(|s| s.place() == place).unwrap_or(Slot {
                addr: endpoint.addr,
                port: endpoint.port,
                want: 0,
                written: 0,
                sure: false,
                cluster: false,
                local: false,
                id: 0,
            });
            let want = flags(endpoint);
            added |= (slot.want, slot.cluster, slot.local) != (want, endpoint.cluster, endpoint.local);
            (slot.want, slot.cluster, slot.local) = (want, endpoint.cluster, endpoint.local);
            slots.push(slot);
        }
        old.for_each(|slot| drop_slot(slot, &mut slots));
        self.slots = slots;
        changed | added
    }

    /// Nobody's any more: it wants nothing.
    pub fn abandon(&mut self) {
        self.claimant = None;
        self.frontends.clear();
        self.slots.iter_mut().for_each(|slot| slot.want = 0);
        self.source_ranges.want(&[]);
    }

    /// Takes over what an earlier plan left in the tables for this service port. To
    /// be called before this port has anything in them itself.
    pub fn inherit(&mut self, left: Port) {
        self.id = left.id;
        self.blocks = left.blocks;
        self.named_by = left.named_by;
        self.source_ranges.inherit(left.source_ranges);
        for slot in left.slots {
            match self.slots.binary_search_by_key(&slot.place(), Slot::place) {
                Ok(i) => {
                    (self.slots[i].id, self.slots[i].written, self.slots[i].sure) = (slot.id, slot.written, slot.sure)
                }
                Err(i) => self.slots.insert(i, slot),
            }
        }
    }

    /// What a frontend of this port should hold.
    pub fn value(&self, frontend: &CompiledFrontend) -> FrontendValue {
        let drops = |set, flag| if self.usable && self.is_empty(set) { flag } else { 0 };
        let local = |set, flag| if set == EndpointSet::Local { flag } else { 0 };
        let mut flags = frontend.flags
            | drops(frontend.internal, FrontendValue::DROP_INTERNAL)
            | drops(frontend.external, FrontendValue::DROP_EXTERNAL)
            | local(frontend.internal, FrontendValue::INTERNAL_LOCAL)
            | local(frontend.external, FrontendValue::EXTERNAL_LOCAL);
        let mut external = self.current[frontend.external as usize];
        let table = self.tables[frontend.external as usize];
        if frontend.flags & FrontendValue::MAGLEV != 0 {
            match table.len {
                0 => flags &= !FrontendValue::MAGLEV,
                _ => external = table,
            }
        }
        FrontendValue {
            service: self.id,
            flags,
            internal: self.current[frontend.internal as usize],
            external,
            affinity_seconds: self.affinity_seconds,
            pad: 0,
        }
    }

    /// Whether policies that want endpoints here find them elsewhere only.
    pub fn no_local_endpoints(&self) -> NoLocalEndpoints {
        let is_without = self.usable && self.is_empty(EndpointSet::Local);
        let wants = |external: bool| {
            is_without
                && self
                    .frontends
                    .iter()
                    .any(|f| f.external == EndpointSet::Local && (f.flags & FrontendValue::EXTERNAL != 0) == external)
        };
        NoLocalEndpoints { internal: wants(false).into(), external: wants(true).into() }
    }

    /// Whether something found no room.
    pub fn is_short(&self) -> bool {
        self.left_out > 0 || self.no_table || self.source_ranges.left_out > 0
    }

    /// What found no room, and what becomes of it.
    pub fn shortages(&self) -> Vec<String> {
        let number = self.identity.2;
        let mut shortages = vec![];
        if self.left_out > 0 {
            let count = self.left_out;
            shortages.push(format!("{count} endpoints of port {number} are left out: the tables of backends are full"));
        }
        if self.no_table {
            shortages.push(format!(
                "port {number} is balanced at random: the tables of backends have no room for its Maglev table"
            ));
        }
        if self.source_ranges.left_out > 0 {
            let count = self.source_ranges.left_out;
            shortages.push(format!(
                "{count} source ranges of port {number} are left out and not served: the table of source ranges is full"
            ));
        }
        shortages
    }

    /// Whether nothing is left that would need this record.
    pub fn is_gone(&self) -> bool {
        let has_entries = !self.slots.is_empty() || !self.blocks.is_empty() || !self.source_ranges.is_empty();
        self.claimant.is_none() && !has_entries && self.named_by.is_empty()
    }

    /// Gives backends and blocks to what is wanted, and says what to write before
    /// any frontend names them. A backend that is already named only gains flags.
    /// `held` are those of its frontends that no other Service has.
    pub fn prepare(&mut self, held: &[CompiledFrontend], room: &mut Room, ops: &mut Vec<Op>) {
        self.failed = false;
        self.left_out = 0;
        for i in 0..self.slots.len() {
            let want = self.target(&self.slots[i]);
            let slot = &mut self.slots[i];
            if want == 0 {
                continue;
            }
            if slot.id == 0 {
                match room.ids.allocate() {
                    Some(id) => (slot.id, slot.written, slot.sure) = (id, 0, false),
                    None => {
                        self.left_out += 1;
                        continue;
                    }
                }
            }
            if !slot.sure || slot.written | want != slot.written {
                ops.push(slot.write(self.id, slot.written | want, room));
            }
        }
        self.restricted = held.iter().any(|f| f.flags & FrontendValue::SOURCE_RANGES != 0);
        self.source_ranges.prepare(self.id, self.restricted, room, ops);
        self.no_table = false;
        for set in [EndpointSet::Cluster, EndpointSet::Local] {
            let is_hashed = |f: &CompiledFrontend| f.external == set && f.flags & FrontendValue::MAGLEV != 0;
            let table = if held.iter().any(is_hashed) { self.table(set, room, ops) } else { BlockRef::default() };
            self.tables[set as usize] = table;
            let is_plain = |f: &CompiledFrontend| f.external == set && (table.len == 0 || !is_hashed(f));
            let used = held.iter().any(|f| f.internal == set || is_plain(f));
            self.current[set as usize] = if used { self.block(set, room, ops) } else { BlockRef::default() };
        }
    }

    /// Says what to write once no frontend names what is no longer wanted, and sets
    /// the blocks aside.
    pub fn retire(&mut self, room: &mut Room, ops: &mut Vec<Op>) {
        for slot in self.slots.iter().filter(|s| s.id != 0) {
            let want = self.target(slot);
            if want == 0 || slot.written != want || !slot.sure {
                ops.push(slot.write(self.id, want, room));
            }
        }
        self.source_ranges.retire(self.id, self.restricted, ops);
        self.blocks.retain(|block| {
            let keep = self.current.contains(&block.at) || self.tables.contains(&block.at);
            if !keep {
                room.set_aside_block(block.at);
            }
            keep
        });
    }

    /// A backend was written, or may have been.
    pub fn wrote_backend(&mut self, id: u32, backend: &Backend, done: bool, room: &mut Room) {
        let place = (backend.addr, backend.port.get());
        let Ok(index) = self.slots.binary_search_by_key(&place, Slot::place) else { return };
        let slot = &mut self.slots[index];
        slot.sure = done;
        self.failed |= !done;
        if done {
            slot.written = backend.flags;
            if backend.flags == 0 {
                room.set_aside_id(id);
                slot.id = 0;
            }
        }
    }

    /// A block was written, or may have been; if not, nobody named it yet.
    pub fn wrote_block(&mut self, base: u32, done: bool, room: &mut Room) {
        self.failed |= !done;
        if !done && let Some(index) = self.blocks.iter().position(|b| b.at.base == base) {
            room.ranges.release(self.blocks.swap_remove(index).at);
        }
    }

    /// A source range was added, or may have been.
    pub fn wrote_source_range(&mut self, key: &SourceRangeKey, done: bool) {
        self.failed |= !done;
        self.source_ranges.wrote(key, done);
    }

    /// A source range was removed, or may have been.
    pub fn removed_source_range(&mut self, key: &SourceRangeKey, done: bool, room: &mut Room) {
        self.failed |= !done;
        self.source_ranges.removed(key, done, room);
    }

    /// Forgets what is neither wanted nor in the tables.
    pub fn sweep(&mut self) {
        self.source_ranges.sweep();
        self.slots.retain(|slot| slot.want != 0 || slot.id != 0);
    }

    /// The flags that the slot's backend should have in the end, 0: none should be.
    fn target(&self, slot: &Slot) -> u16 {
        if self.held > 0 { slot.want } else { 0 }
    }

    fn is_empty(&self, set: EndpointSet) -> bool {
        !self.slots.iter().any(|slot| slot.want != 0 && slot.is_in(set))
    }

    /// The backends of a set that have ids, by address and port.
    fn members(&self, set: EndpointSet) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |s| s.want != 0 && s.id != 0 && s.is_in(set))
    }

    /// The block with a set's backends: one that is there, or a new one. Where the
    /// table has no room for all, as many as fit.
    fn block(&mut self, set: EndpointSet, room: &mut Room, ops: &mut Vec<Op>) -> BlockRef {
        let ids: Vec<u32> = self.members(set).map(|s| s.id).collect();
        let mut fitting = ids.len();
        while fitting > 0 {
            // What is there already may hold a part of the ids, if more didn't fit before.
            let there = self.blocks.iter().filter(|b| b.ids.len() >= fitting && ids.starts_with(&b.ids));
            if let Some(block) = there.max_by_key(|b| b.ids.len()) {
                self.left_out = self.left_out.max(ids.len() - block.ids.len());
                return block.at;
            }
            if let Some(at) = self.new_block(&ids[..fitting], room, ops) {
                self.left_out = self.left_out.max(ids.len() - fitting);
                return at;
            }
            fitting /= 2;
        }
        self.left_out = self.left_out.max(ids.len());
        BlockRef::default()
    }

    /// The Maglev table of a set's backends, as a block; of length 0: the set is
    /// empty, or there is no room.
    fn table(&mut self, set: EndpointSet, room: &mut Room, ops: &mut Vec<Op>) -> BlockRef {
        let (ids, places): (Vec<u32>, Vec<_>) = self.members(set).map(|s| (s.id, (s.addr, s.port))).unzip();
        let ids: Vec<u32> = maglev::table(&places).into_iter().map(|backend| ids[backend]).collect();
        if ids.is_empty() {
            return BlockRef::default();
        }
        if let Some(block) = self.blocks.iter().find(|b| *b.ids == *ids) {
            return block.at;
        }
        self.new_block(&ids, room, ops).unwrap_or_else(|| {
            self.no_table = true;
            BlockRef::default()
        })
    }

    fn new_block(&mut self, ids: &[u32], room: &mut Room, ops: &mut Vec<Op>) -> Option<BlockRef> {
        let at = room.ranges.allocate(ids.len() as u32)?;
        let ids: Arc<[u32]> = ids.into();
        ops.push(Op::WriteBlock { service: self.id, base: at.base, ids: ids.clone() });
        self.blocks.push(Block { at, ids });
        Some(at)
    }
}

fn flags(endpoint: &CompiledEndpoint) -> u16 {
    let mut flags = Backend::ALIVE;
    if endpoint.cluster {
        flags |= Backend::IN_CLUSTER;
    }
    if endpoint.local {
        flags |= Backend::IN_LOCAL;
    }
    if endpoint.on_node {
        flags |= Backend::LOCAL;
    }
    flags
}
