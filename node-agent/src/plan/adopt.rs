//! What stands in the tables already, from an agent that ran before, becomes the
//! record that the plan goes on from.
//!
//! Invariant: ids stay with the service ports and endpoints that have them, as what was counted
//! does with its id, and nothing that a frontend names is given to anybody else, after whichever write the
//! earlier agent ended. What no agent can have written is written anew or cleared.

use std::collections::{BTreeMap, HashMap, HashSet};

use datapath::abi::{Backend, BlockRef, FrontendKey, FrontendValue, SourceRangeKey};

use super::{
    port::{Block, Port, Slot},
    services::ServicePlan,
    source_ranges,
};

/// The services' tables at one moment, with nobody writing to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// All frontends.
    pub frontends: Vec<(FrontendKey, FrontendValue)>,
    /// All backends that were ever written, free ones too: their generation counts.
    pub backends: Vec<(u32, Backend)>,
    /// The ids in each block that a frontend names.
    pub blocks: BTreeMap<(u32, u32), Vec<u32>>,
    /// All source ranges.
    pub source_ranges: Vec<SourceRangeKey>,
    /// Service ports whose connections are counted.
    pub counted: Vec<u32>,
}

impl Snapshot {
    /// A snapshot from the tables' entries, of which nothing is counted; `read` gives the ids in a block, or
    /// `None` if the block doesn't lie within the table.
    pub fn new(
        frontends: Vec<(FrontendKey, FrontendValue)>,
        backends: Vec<(u32, Backend)>,
        source_ranges: Vec<SourceRangeKey>,
        mut read: impl FnMut(BlockRef) -> Option<Vec<u32>>,
    ) -> Self {
        let named = frontends.iter().flat_map(|(_, value)| [value.internal, value.external]);
        let named: HashSet<BlockRef> = named.filter(|block| block.len > 0).collect();
        let blocks = named.into_iter().filter_map(|block| Some(((block.base, block.len), read(block)?))).collect();
        Self { frontends, backends, blocks, source_ranges, counted: vec![] }
    }
}

impl ServicePlan {
    /// Takes over the tables as they stand. To be called once, on a new plan, before
    /// any Service is set and after waiting for readers (of what the earlier agent set
    /// aside nothing is known); the first [`apply`](Self::apply) then removes what no
    /// Service wants.
    pub fn adopt(&mut self, snapshot: Snapshot) {
        let Snapshot { frontends, backends, blocks, source_ranges, counted } = snapshot;
        let services = frontends.iter().map(|(_, v)| v.service).chain(backends.iter().map(|(_, b)| b.service));
        let services = services.chain(source_ranges.iter().map(|key| key.service)).chain(counted.iter().copied());
        self.last_service = services.max().unwrap_or(0);

        for (key, value) in frontends {
            self.present += 1;
            self.dirty_keys.insert(key);
            let frontend = self.frontends.entry(key).or_default();
            frontend.value = Some(value);
            if value.service == 0 {
                continue;
            }
            let port = adopted_port(&mut self.ports, value.service);
            port.named_by.push(key);
            for at in [value.internal, value.external] {
                if at.len == 0 || port.blocks.iter().any(|b| b.at == at) {
                    continue;
                }
                match blocks.get(&(at.base, at.len)) {
                    Some(ids) if self.room.ranges.claim(at) => {
                        port.blocks.push(Block { at, ids: ids.as_slice().into() });
                    }
                    // Not a block that a plan of ours wrote: the entry must be written anew.
                    _ => frontend.tried.push(value.service),
                }
            }
        }

        let named: HashSet<u32> = blocks.into_values().flatten().collect();
        let in_use = |backend: &Backend| backend.flags != 0;
        self.room.ids.adopt(backends.iter().map(|(id, backend)| (*id, backend.generation, in_use(backend))));
        let mut taken = HashMap::new();
        let mut strays = vec![];
        let mut live: Vec<_> = backends.iter().filter(|(id, b)| in_use(b) && self.room.ids.is_valid(*id)).collect();
        // Of two for one endpoint, that in use is kept.
        live.sort_by_key(|(id, _)| (!named.contains(id), *id));
        for (id, backend) in live {
            let place = (backend.service, backend.addr, backend.port);
            if backend.service == 0 || taken.insert(place, *id).is_some() {
                strays.push((*id, *backend));
            } else {
                let port = adopted_port(&mut self.ports, backend.service);
                port.slots.push(Slot::adopted(*id, backend));
            }
        }
        for (id, backend) in strays {
            let service = self.new_service_id();
            adopted_port(&mut self.ports, service).slots.push(Slot::adopted(id, &backend));
        }
        for key in source_ranges.iter().filter(|key| key.service != 0) {
            adopted_port(&mut self.ports, key.service).source_ranges.adopt(source_ranges::range(key));
            self.room.adopt_source_range();
        }
        for port in self.ports.values_mut() {
            port.slots.sort_by_key(Slot::place);
        }
        let gone = counted.into_iter().filter(|service| *service != 0 && !self.ports.contains_key(service));
        gone.for_each(|service| self.room.set_aside_service(service));
        self.adopted.extend(self.ports.keys());
        self.dirty_ports.extend(self.ports.keys());
    }

    /// Gives each adopted service port's record to the service port that holds one of
    /// its frontends now. Not sooner: while Services are still coming, who holds a
    /// frontend may change.
    pub(super) fn match_adopted(&mut self) {
        let adopted = std::mem::take(&mut self.adopted);
        for id in &adopted {
            let Some(left) = self.ports.get(id) else { continue };
            let mut holders = left.named_by.iter().filter_map(|key| self.frontends.get(key)?.held_for());
            if let Some(heir) = holders.find(|holder| *holder != 0 && !adopted.contains(holder)) {
                self.bequeath(*id, heir);
            }
        }
    }

    /// The service port `heir` goes by the id `from` and has all that stands there.
    fn bequeath(&mut self, from: u32, heir: u32) {
        let Some(mut port) = self.ports.remove(&heir) else { return };
        let Some(left) = self.ports.remove(&from) else { return };
        port.inherit(left);
        for frontend in &port.frontends {
            if let Some(frontend) = self.frontends.get_mut(&frontend.key) {
                frontend.rename(heir, from);
            }
        }
        if let Some(service) = port.claimant.as_ref().and_then(|c| self.services.get_mut(&c.key)) {
            service.ports.iter_mut().filter(|id| **id == heir).for_each(|id| *id = from);
        }
        self.dirty_ports.remove(&heir);
        self.ports.insert(from, port);
    }
}

fn adopted_port(ports: &mut HashMap<u32, Port>, id: u32) -> &mut Port {
    ports.entry(id).or_insert_with(|| Port::new(id))
}
