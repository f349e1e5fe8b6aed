//! Which backend ids are free, and whose generation each id is in.
//!
//! Invariant: id 0 is never given out, and an id's generation goes up each time it
//! is given out again, across restarts too.

/// Gives out backend ids, low ones first.
#[derive(Debug)]
pub(super) struct BackendIds {
    /// By id; as long as the ids that were ever given out. Entry 0 is unused.
    generations: Vec<u32>,
    free: Vec<u32>,
    capacity: u32,
}

impl BackendIds {
    /// All ids below `capacity`, except 0, are free.
    pub fn new(capacity: u32) -> Self {
        Self { generations: vec![0], free: Vec::new(), capacity }
    }

    /// A free id, in a new generation; `None`: the table is full.
    pub fn allocate(&mut self) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let id = u32::try_from(self.generations.len()).ok().filter(|id| *id < self.capacity)?;
                self.generations.push(0);
                id
            }
        };
        let generation = &mut self.generations[id as usize];
        *generation = generation.wrapping_add(1);
        Some(id)
    }

    /// The id is free; nobody may still go by it.
    pub fn release(&mut self, id: u32) {
        self.free.push(id);
    }

    /// The generation of an id that was given out.
    pub fn generation(&self, id: u32) -> u32 {
        self.generations[id as usize]
    }

    /// How many ids are given out.
    pub fn used(&self) -> u32 {
        (self.generations.len() - 1 - self.free.len()) as u32
    }

    /// Takes over what an earlier plan gave out: ids, their generations and
    /// whether they are in use. Ids that can't be are passed over.
    pub fn adopt(&mut self, known: impl Iterator<Item = (u32, u32, bool)>) {
        let mut used = vec![];
        let capacity = self.capacity;
        for (id, generation, in_use) in known.filter(|(id, ..)| *id != 0 && *id < capacity) {
            let length = self.generations.len().max(id as usize + 1);
            self.generations.resize(length, 0);
            used.resize(length, false);
            self.generations[id as usize] = generation;
            used[id as usize] = in_use;
        }
        let unused = (1..self.generations.len()).rev().filter(|id| !used.get(*id).is_some_and(|used| *used));
        self.free = unused.map(|id| id as u32).collect();
    }

    /// Whether there can be such an id at all.
    pub fn is_valid(&self, id: u32) -> bool {
        id != 0 && id < self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_given_out_again_is_in_a_new_generation() {
        let mut ids = BackendIds::new(3);
        assert_eq!((ids.allocate(), ids.allocate(), ids.allocate()), (Some(1), Some(2), None));
        let before = ids.generation(1);
        ids.release(1);
        assert_eq!(ids.used(), 1);
        assert_eq!(ids.allocate(), Some(1));
        assert_eq!(ids.generation(1), before + 1);
    }

    #[test]
    fn generations_survive_adoption_in_use_or_not() {
        let mut ids = BackendIds::new(10);
        ids.adopt([(5, 7, true), (2, 9, false), (0, 1, true), (10, 1, true)].into_iter());
        assert_eq!((ids.used(), ids.generation(5)), (1, 7));
        let given: Vec<_> = std::iter::from_fn(|| ids.allocate()).collect();
        assert_eq!(given, [1, 2, 3, 4, 6, 7, 8, 9]);
        assert_eq!(ids.generation(2), 10);
    }
}
