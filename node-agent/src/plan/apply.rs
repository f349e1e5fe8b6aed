//! From what is marked as changed to writes, round by round, and their outcome
//! back into the record of what the tables hold.
//!
//! Invariant: within a round the operations don't depend on one another, and a
//! round is computed only when the outcome of the one before is known; so a
//! failure holds back just what builds upon it.

use datapath::abi::{Backend, FrontendKey, FrontendValue};

use super::{
    frontend::Frontend,
    op::{Op, ServiceTables},
    services::ServicePlan,
};

/// What came of applying a plan.
#[derive(Debug)]
pub struct Outcome<E> {
    /// Writes that succeeded.
    pub written: usize,
    /// Writes that failed; they are tried again at the next call.
    pub failed: usize,
    /// The first failure.
    pub error: Option<E>,
    /// There is more to do: call again, after a pause if something failed.
    pub retry: bool,
}

impl ServicePlan {
    /// Makes the tables hold what the Services want. The first call after
    /// [`adopt`](Self::adopt) also prunes what no Service wants, so every source
    /// must be in sync by then.
    ///
    /// Readers are waited for only under pressure, see [`reclaim`](Self::reclaim).
    pub fn apply<T: ServiceTables>(&mut self, tables: &mut T) -> Outcome<T::Error> {
        let mut outcome = Outcome { written: 0, failed: 0, error: None, retry: false };
        let source_ranges = self.room.source_ranges();
        for round in [Self::prepare, Self::remove, Self::flip, Self::retire] {
            for op in round(self) {
                let result = op.perform(tables);
                self.record(&op, result.is_ok());
                match result {
                    Ok(()) => outcome.written += 1,
                    Err(error) => {
                        outcome.failed += 1;
                        outcome.error.get_or_insert(error);
                    }
                }
            }
        }
        self.forget();
        if self.room.source_ranges() < source_ranges {
            // Others may have waited for the room.
            self.dirty_ports.append(&mut self.short);
        }
        if (self.room.is_pressing() || !self.short.is_empty())
            && let Err(error) = self.reclaim(tables)
        {
            outcome.failed += 1;
            outcome.error.get_or_insert(error);
        }
        outcome.retry = outcome.failed > 0 || !self.dirty_ports.is_empty() || !self.dirty_keys.is_empty();
        outcome
    }

    /// Waits until no reader can hold what was replaced, and makes its room free
    /// again. To be called in idle moments: changes stand still meanwhile. On an
    /// error the room stays taken until the next call.
    pub fn reclaim<T: ServiceTables>(&mut self, tables: &mut T) -> Result<(), T::Error> {
        if self.room.is_waiting() {
            self.room.reclaim(tables)?;
            self.dirty_ports.extend(std::mem::take(&mut self.short));
        }
        Ok(())
    }

    /// First round: backends and blocks that no frontend names yet.
    fn prepare(&mut self) -> Vec<Op> {
        self.match_adopted();
        let mut ops = vec![];
        for id in &self.dirty_ports {
            let Some(port) = self.ports.get_mut(id) else { continue };
            let is_held = |key: &FrontendKey| self.frontends.get(key).is_some_and(|f| f.held_for() == Some(*id));
            let held: Vec<_> = port.frontends.iter().filter(|f| is_held(&f.key)).copied().collect();
            port.prepare(&held, &mut self.room, &mut ops);
            if port.is_short() {
                self.short.insert(*id)
            } else {
                self.short.remove(id)
            };
            let writable = held.iter().map(|f| f.key).filter(|key| !self.refused.contains(key));
            self.dirty_keys.extend(writable);
        }
        ops
    }

    /// Second round: frontends that nobody claims. They go before others come, to
    /// make room.
    fn remove(&mut self) -> Vec<Op> {
        let mut ops = vec![];
        self.dirty_keys.retain(|key| {
            let Some(frontend) = self.frontends.get(key) else { return false };
            if frontend.is_wanted() {
                return true;
            }
            self.refused.remove(key);
            if frontend.is_present() {
                ops.push(Op::DeleteFrontend { key: *key });
                return true;
            }
            self.frontends.remove(key);
            false
        });
        ops
    }

    /// Third round: each frontend changes over in one write.
    fn flip(&mut self) -> Vec<Op> {
        let mut ops = vec![];
        let mut room = self.room.capacities().frontends.saturating_sub(self.present);
        let keys: Vec<FrontendKey> = std::mem::take(&mut self.dirty_keys).into_iter().collect();
        for keys in keys.chunk_by(|a, b| a.addr == b.addr) {
            self.flip_address(keys, &mut room, &mut ops);
        }
        ops
    }

    /// The dirty frontends of one address. Without the entry for the whole address
    /// nobody finds the others, so it comes first where room is short; but it is
    /// written last, lest somebody be refused at a port that is about to come.
    fn flip_address(&mut self, keys: &[FrontendKey], room: &mut u32, ops: &mut Vec<Op>) {
        let whole = FrontendKey::whole_address(keys[0].addr);
        let mut last = None;
        for key in keys {
            let is_new = |f: &Frontend| !f.is_present();
            if *key == whole {
                last = self.flip_one(key, room);
            } else if self.refused.contains(&whole) && self.frontends.get(key).is_some_and(is_new) {
                self.refused.insert(*key);
            } else {
                ops.extend(self.flip_one(key, room));
            }
        }
        ops.extend(last);
    }

    fn flip_one(&mut self, key: &FrontendKey, room: &mut u32) -> Option<Op> {
        let Some(value) = self.wanted(key) else {
            // It couldn't be removed, or its service port couldn't be prepared.
            self.dirty_keys.insert(*key);
            return None;
        };
        let frontend = self.frontends.get(key)?;
        self.refused.remove(key);
        if frontend.is(Some(&value)) {
            return None;
        }
        if !frontend.is_present() {
            if *room == 0 {
                self.refused.insert(*key);
                return None;
            }
            *room -= 1;
        }
        Some(Op::SetFrontend { key: *key, value })
    }

    /// Last round: backends that no frontend names any more lose their flags, and
    /// blocks are set aside.
    fn retire(&mut self) -> Vec<Op> {
        let mut ops = vec![];
        let settled: Vec<u32> = self.dirty_ports.iter().copied().filter(|id| self.is_settled(*id)).collect();
        for id in settled {
            if let Some(port) = self.ports.get_mut(&id) {
                port.retire(&mut self.room, &mut ops);
            }
        }
        ops
    }

    /// Drops the records of what is done and over.
    fn forget(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty_ports);
        dirty.retain(|id| {
            let settled = self.is_settled(*id);
            let Some(port) = self.ports.get_mut(id) else { return false };
            port.sweep();
            if port.is_gone() {
                self.ports.remove(id);
                self.short.remove(id);
                self.room.set_aside_service(*id);
                return false;
            }
            !settled
        });
        self.dirty_ports = dirty;
    }

    /// What a frontend should hold; `None`: nothing, or it can't be said yet.
    fn wanted(&self, key: &FrontendKey) -> Option<FrontendValue> {
        let frontend = self.frontends.get(key)?;
        if *key == FrontendKey::whole_address(key.addr) {
            return Some(FrontendValue { flags: frontend.whole()?, ..FrontendValue::default() });
        }
        let port = self.ports.get(&frontend.held_for()?).filter(|p| !p.failed)?;
        Some(port.value(port.frontends.iter().find(|f| f.key == *key)?))
    }

    /// Whether every frontend that may name the service port holds what it should,
    /// so that nothing else of the port's is in use.
    fn is_settled(&self, id: u32) -> bool {
        let Some(port) = self.ports.get(&id) else { return true };
        let as_wanted = |key: &FrontendKey| {
            let wanted = self.wanted(key).filter(|value| value.service == id);
            wanted.is_some() && self.frontends.get(key).is_some_and(|f| f.is(wanted.as_ref()))
        };
        !port.failed && port.named_by.iter().all(as_wanted)
    }

    fn record(&mut self, op: &Op, done: bool) {
        match op {
            Op::WriteBackend { id, backend: backend @ Backend { service, .. } } => {
                if let Some(port) = self.ports.get_mut(service) {
                    port.wrote_backend(*id, backend, done, &mut self.room);
                }
            }
            Op::WriteBlock { service, base, .. } => {
                if let Some(port) = self.ports.get_mut(service) {
                    port.wrote_block(*base, done, &mut self.room);
                }
            }
            Op::SetFrontend { key, value } => self.wrote_frontend(key, Some(*value), done),
            Op::DeleteFrontend { key } => self.wrote_frontend(key, None, done),
            Op::SetSourceRange { key } => {
                if let Some(port) = self.ports.get_mut(&key.service) {
                    port.wrote_source_range(key, done);
                }
            }
            Op::DeleteSourceRange { key } => {
                if let Some(port) = self.ports.get_mut(&key.service) {
                    port.removed_source_range(key, done, &mut self.room);
                }
            }
        }
    }

    fn wrote_frontend(&mut self, key: &FrontendKey, value: Option<FrontendValue>, done: bool) {
        let Some(frontend) = self.frontends.get_mut(key) else { return };
        let before = (frontend.is_present(), frontend.named().collect::<Vec<_>>());
        if done {
            frontend.value = value;
            frontend.tried.clear();
            self.dirty_keys.remove(key);
        } else {
            let service = value.map_or(0, |v| v.service);
            if !frontend.tried.contains(&service) {
                frontend.tried.push(service);
            }
            self.dirty_keys.insert(*key);
        }
        let after = (frontend.is_present(), frontend.named().collect::<Vec<_>>());
        if before.0 && !after.0 {
            self.present -= 1;
            self.dirty_keys.append(&mut self.refused);
        } else if !before.0 && after.0 {
            self.present += 1;
        }
        if !after.0 && !frontend.is_wanted() {
            self.frontends.remove(key);
        }
        for id in before.1.iter().filter(|id| !after.1.contains(id)) {
            if let Some(port) = self.ports.get_mut(id) {
                port.named_by.retain(|k| k != key);
                self.dirty_ports.insert(*id);
            }
        }
        for id in after.1 {
            if let Some(port) = self.ports.get_mut(&id)
                && !port.named_by.contains(key)
            {
                port.named_by.push(*key);
            }
        }
    }
}
