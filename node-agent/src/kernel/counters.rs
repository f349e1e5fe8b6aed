//! A hash of counters that the programs keep on each CPU.
//!
//! This module must not know what is counted.

use std::{collections::BTreeMap, marker::PhantomData, path::Path};

use super::{
    map::{CheckedMap, MapError},
    plain::{self, Plain},
    sys,
};

/// Counters by `K`.
#[derive(Clone, Debug)]
pub struct Counters<K> {
    map: CheckedMap,
    cpus: usize,
    types: PhantomData<fn(K)>,
}

#[expect(private_bounds, reason = "which types are plain bytes is this edge's own concern")]
impl<K: Plain> Counters<K> {
    /// Opens the pin of the table called `name` in `dir`.
    pub fn open(dir: &Path, name: &'static str) -> Result<Self, MapError> {
        let map = CheckedMap::open(dir, name)?;
        let layout = map.layout();
        assert_eq!((layout.key as usize, layout.value as usize), (size_of::<K>(), size_of::<u64>()), "{name}");
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| map.error("size a read of")(source))?;
        Ok(Self { map, cpus, types: PhantomData })
    }

    /// The map, whatever is counted.
    pub fn map(&self) -> &CheckedMap {
        &self.map
    }

    /// Shows what each has counted on all CPUs. What is counted for the first time meanwhile may be missed.
    pub fn for_each(&self, mut visit: impl FnMut(K, u64)) -> Result<(), MapError> {
        let each = self.cpus * size_of::<u64>();
        self.map.read_all(each, |keys, values| {
            for (key, values) in keys.chunks_exact(size_of::<K>()).zip(values.chunks_exact(each)) {
                visit(plain::read(key), values.chunks_exact(size_of::<u64>()).map(plain::read::<u64>).sum());
            }
        })
    }

    /// What each has counted, likewise.
    pub fn all(&self) -> Result<BTreeMap<K, u64>, MapError>
    where
        K: Ord,
    {
        let mut all = BTreeMap::new();
        self.for_each(|key, count| _ = all.insert(key, count))?;
        Ok(all)
    }

    /// How many counters there are.
    pub fn count(&self) -> Result<u64, MapError> {
        let mut count = 0;
        self.for_each(|_, _| count += 1)?;
        Ok(count)
    }

    /// Removes a counter; false if there was none.
    pub fn remove(&self, key: &K) -> Result<bool, MapError> {
        sys::map_delete(self.map.fd(), key).map_err(self.map.error("delete from"))
    }
}
