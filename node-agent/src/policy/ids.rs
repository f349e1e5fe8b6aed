//! Things that are known by a number, each once.

use std::{collections::BTreeSet, hash::Hash, ops::Index};

use fnv::FnvHashMap;

/// Numbers from 1 on for keys that somebody holds. A key that nobody holds any more
/// keeps its number until it is removed.
#[derive(Clone, Debug)]
pub(super) struct Interned<K, V> {
    ids: FnvHashMap<K, u32>,
    slots: Vec<Option<Slot<K, V>>>,
    free: BTreeSet<u32>,
    /// Those that nobody holds.
    idle: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    holders: usize,
}

impl<K, V> Default for Interned<K, V> {
    fn default() -> Self {
        Self { ids: FnvHashMap::default(), slots: vec![None], free: BTreeSet::new(), idle: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Interned<K, V> {
    /// The number of a key, if it has one.
    pub fn find(&self, key: &K) -> Option<u32> {
        self.ids.get(key).copied()
    }

    /// Gives a key that has none a number. Nobody holds it yet.
    pub fn add(&mut self, key: K, value: V) -> u32 {
        let slot = Some(Slot { key: key.clone(), value, holders: 0 });
        let id = match self.free.pop_first() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("there is no memory for so many")
            }
        };
        self.ids.insert(key, id);
        self.idle.insert(id);
        id
    }

    /// Notes one holder more.
    pub fn hold(&mut self, id: u32) {
        let slot = self.slot_mut(id);
        slot.holders += 1;
        if slot.holders == 1 {
            self.idle.remove(&id);
        }
    }

    /// Notes one holder less.
    pub fn let_go(&mut self, id: u32) {
        let slot = self.slot_mut(id);
        slot.holders -= 1;
        if slot.holders == 0 {
            self.idle.insert(id);
        }
    }

    /// Those that nobody holds.
    pub fn idle(&self) -> Vec<u32> {
        self.idle.iter().copied().collect()
    }

    /// How many hold it.
    pub fn holders(&self, id: u32) -> usize {
        self.slots[id as usize].as_ref().map_or(0, |slot| slot.holders)
    }

    /// Takes one that nobody holds out; its number is another's from now on.
    pub fn remove(&mut self, id: u32) -> (K, V) {
        let slot = self.slots[id as usize].take().expect("it is there");
        self.ids.remove(&slot.key);
        self.idle.remove(&id);
        self.free.insert(id);
        (slot.key, slot.value)
    }

    /// The key of a number.
    pub fn key(&self, id: u32) -> &K {
        &self.slots[id as usize].as_ref().expect("it is there").key
    }

    /// What belongs to a number.
    pub fn get_mut(&mut self, id: u32) -> &mut V {
        &mut self.slot_mut(id).value
    }

    /// What belongs to a number that may be nobody's.
    pub fn get(&self, id: u32) -> Option<&V> {
        self.slots.get(id as usize)?.as_ref().map(|slot| &slot.value)
    }

    /// All numbers and their keys.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &K)> {
        self.slots.iter().enumerate().filter_map(|(id, slot)| slot.as_ref().map(|slot| (id as u32, &slot.key)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    fn slot_mut(&mut self, id: u32) -> &mut Slot<K, V> {
        self.slots[id as usize].as_mut().expect("it is there")
    }
}

impl<K, V> Index<u32> for Interned<K, V> {
    type Output = V;

    fn index(&self, id: u32) -> &V {
        &self.slots[id as usize].as_ref().expect("it is there").value
    }
}
