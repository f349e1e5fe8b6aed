//! The source ranges of one service port: what it wants, and what stands in the table.
//!
//! Invariant: a range is in the table before a frontend that asks for it is set, and
//! for as long as one may be. Where the table has no room a range is left out, and
//! its clients are not served.

use datapath::abi::SourceRangeKey;

use super::{op::Op, room::Room};
use crate::compile::SourceRange;

#[derive(Debug)]
struct Entry {
    range: SourceRange,
    wanted: bool,
    /// The table may hold it.
    held: bool,
    /// The table holds it: no write failed since.
    sure: bool,
}

/// The source ranges of one service port.
#[derive(Debug, Default)]
pub(super) struct PortRanges {
    /// Sorted by range.
    entries: Vec<Entry>,
    /// How many had no room.
    pub left_out: usize,
}

impl PortRanges {
    /// Wants these (sorted, each once) from now on; whether that is anything new.
    pub fn want(&mut self, ranges: &[SourceRange]) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            let wanted = ranges.binary_search(&entry.range).is_ok();
            changed |= entry.wanted != wanted;
            entry.wanted = wanted;
        }
        self.sweep();
        for range in ranges {
            if let Err(at) = self.entries.binary_search_by_key(range, |entry| entry.range) {
                self.entries.insert(at, Entry { range: *range, wanted: true, held: false, sure: false });
                changed = true;
            }
        }
        changed
    }

    /// A range that an earlier plan left in the table.
    pub fn adopt(&mut self, range: SourceRange) {
        if let Err(at) = self.entries.binary_search_by_key(&range, |entry| entry.range) {
            self.entries.insert(at, Entry { range, wanted: false, held: true, sure: true });
        }
    }

    /// Takes over what an earlier plan left.
    pub fn inherit(&mut self, left: Self) {
        for entry in left.entries {
            match self.entries.binary_search_by_key(&entry.range, |own| own.range) {
                Ok(i) => (self.entries[i].held, self.entries[i].sure) = (entry.held, entry.sure),
                Err(i) => self.entries.insert(i, entry),
            }
        }
    }

    /// Says what to add; `in_use`: some frontend may ask.
    pub fn prepare(&mut self, service: u32, in_use: bool, room: &mut Room, ops: &mut Vec<Op>) {
        self.left_out = 0;
        for entry in self.entries.iter_mut().filter(|entry| in_use && entry.wanted && !entry.sure) {
            if !entry.held && !room.take_source_range() {
                self.left_out += 1;
                continue;
            }
            entry.held = true;
            ops.push(Op::SetSourceRange { key: key(service, &entry.range) });
        }
    }

    /// Says what to remove, once no frontend asks for it.
    pub fn retire(&self, service: u32, in_use: bool, ops: &mut Vec<Op>) {
        let unwanted = self.entries.iter().filter(|entry| entry.held && !(in_use && entry.wanted));
        ops.extend(unwanted.map(|entry| Op::DeleteSourceRange { key: key(service, &entry.range) }));
    }

    /// A range was added, or may have been.
    pub fn wrote(&mut self, written: &SourceRangeKey, done: bool) {
        if let Some(entry) = self.find(written) {
            entry.sure = done;
        }
    }

    /// A range was removed, or may have been.
    pub fn removed(&mut self, written: &SourceRangeKey, done: bool, room: &mut Room) {
        let Some(entry) = self.find(written) else { return };
        entry.sure = false;
        if done {
            entry.held = false;
            room.give_source_range();
        }
    }

    /// Forgets what is neither wanted nor in the table.
    pub fn sweep(&mut self) {
        self.entries.retain(|entry| entry.wanted || entry.held);
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn find(&mut self, written: &SourceRangeKey) -> Option<&mut Entry> {
        let range = range(written);
        let at = self.entries.binary_search_by_key(&range, |entry| entry.range).ok()?;
        Some(&mut self.entries[at])
    }
}

fn key(service: u32, range: &SourceRange) -> SourceRangeKey {
    SourceRangeKey { prefix_len: SourceRangeKey::SERVICE_BITS + range.prefix_len, service, addr: range.addr }
}

/// The range that an entry of the table is for.
pub(super) fn range(key: &SourceRangeKey) -> SourceRange {
    SourceRange { addr: key.addr, prefix_len: key.prefix_len.saturating_sub(SourceRangeKey::SERVICE_BITS) }
}
