//! One kernel table, typed by its layout.
//!
//! Invariant: a [`Table`] exists only for a map whose key and value sizes and
//! capacity are those of `datapath::abi::LAYOUT`; no map is ever read as what it
//! isn't. This module must not know what the entries mean.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use datapath::abi::{LAYOUT, TableLayout};

use super::{
    plain::{self, Plain},
    sys::{self, BatchCursor},
};

/// Why a table could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The pin could not be opened.
    #[error("cannot open the table pinned at {path}: {source}")]
    Open {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is pinned is another table than its name says.
    #[error("{path} is a table of {found}, where {wanted} is wanted; remove it and start the agent again")]
    Layout {
        /// The pin.
        path: PathBuf,
        /// The sizes that it has.
        found: String,
        /// The sizes that it should have.
        wanted: String,
    },
    /// The kernel refused to read or write.
    #[error("cannot {verb} table {table}: {source}")]
    Access {
        /// What was tried.
        verb: &'static str,
        /// The table's name.
        table: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl MapError {
    /// The table has no room for another entry.
    pub fn is_full(&self) -> bool {
        // A hash says E2BIG, an LPM trie ENOSPC.
        matches!(self, Self::Access { source, .. } if matches!(source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)))
    }
}

/// An open map that has been checked against its layout.
#[derive(Clone, Debug)]
pub struct CheckedMap {
    fd: Arc<OwnedFd>,
    layout: TableLayout,
    id: u32,
}

impl CheckedMap {
    /// Opens the pin of the table called `name` in `dir`.
    pub fn open(dir: &Path, name: &'static str) -> Result<Self, MapError> {
        let layout = *LAYOUT.iter().find(|layout| layout.name == name).expect("callers name tables of LAYOUT");
        let path = dir.join(name);
        let fd = sys::open_pin(&path).map_err(|source| MapError::Open { path: path.clone(), source })?;
        let info = sys::map_info(fd.as_fd()).map_err(|source| MapError::Open { path: path.clone(), source })?;
        let found = (info.key_size, info.value_size, info.max_entries);
        let wanted = (layout.key, layout.value, layout.entries);
        if found != wanted {
            let show = |(key, value, entries)| format!("{entries} entries, {key}-byte keys and {value}-byte values");
            return Err(MapError::Layout { path, found: show(found), wanted: show(wanted) });
        }
        Ok(Self { fd: Arc::new(fd), layout, id: info.id })
    }

    /// The kernel's number of the map; no other has it until the next boot.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The table's name, sizes and capacity.
    pub fn layout(&self) -> &TableLayout {
        &self.layout
    }

    /// The map's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn error(&self, verb: &'static str) -> impl Fn(io::Error) -> MapError + use<> {
        let table = self.layout.name;
        move |source| MapError::Access { verb, table, source }
    }

    /// Counts the entries of a hash in few calls; what comes and goes meanwhile may or may not be counted.
    pub fn count(&self) -> Result<u64, MapError> {
        let mut count = 0;
        self.read_all(self.layout.value as usize, |keys, _| count += (keys.len() / self.layout.key as usize) as u64)?;
        Ok(count)
    }

    /// Reads the entries of a hash or array in few calls, of which each brings keys and values one after another;
    /// `value`: the bytes of one, which of a table per CPU are those of all CPUs.
    pub(super) fn read_all(&self, value: usize, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), MapError> {
        let all = self.read_from(BatchCursor::default(), value, |keys, values| {
            visit(keys, values);
            true
        });
        all.map(drop)
    }

    /// The same from where a walk stopped, until one call's entries are said to be the last; where that is.
    fn read_from(
        &self,
        mut cursor: BatchCursor,
        value: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<BatchCursor, MapError> {
        const BATCH: u32 = 1024;
        let key = self.layout.key as usize;
        let mut keys = vec![0; BATCH as usize * key];
        let mut values = vec![0; BATCH as usize * value];
        while !cursor.done {
            let found = sys::map_read_batch(self.fd(), &mut cursor, (&mut keys, &mut values), BATCH);
            let found = found.map_err(self.error("read"))? as usize;
            if !visit(&keys[..found * key], &values[..found * value]) {
                break;
            }
        }
        Ok(cursor)
    }
}

/// A hash or trie of `K` to `V`.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    map: CheckedMap,
    types: PhantomData<fn(K) -> V>,
}

#[expect(private_bounds, reason = "which types are plain bytes is this edge's own concern")]
impl<K: Plain, V: Plain> Table<K, V> {
    /// Opens the pin of the table called `name` in `dir`.
    pub fn open(dir: &Path, name: &'static str) -> Result<Self, MapError> {
        let map = CheckedMap::open(dir, name)?;
        assert_eq!((map.layout.key as usize, map.layout.value as usize), (size_of::<K>(), size_of::<V>()), "{name}");
        Ok(Self { map, types: PhantomData })
    }

    /// The map, whatever its types.
    pub fn map(&self) -> &CheckedMap {
        &self.map
    }

    /// An entry.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        sys::map_lookup(self.map.fd(), key).map_err(self.map.error("read"))
    }

    /// Writes an entry; readers see the old one or the new one, never a mixture.
    pub fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        sys::map_update(self.map.fd(), key, value).map_err(self.map.error("write to"))
    }

    /// Writes an entry unless there is one with its key; false if there was.
    pub fn add(&self, key: &K, value: &V) -> Result<bool, MapError> {
        match sys::map_insert(self.map.fd(), key, value) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(self.map.error("write to")(error)),
        }
    }

    /// Removes an entry; false if it wasn't there.
    pub fn remove(&self, key: &K) -> Result<bool, MapError> {
        sys::map_delete(self.map.fd(), key).map_err(self.map.error("delete from"))
    }

    /// Shows every entry of a hash or array, into which others may write meanwhile: what comes and goes may be missed or shown
    /// twice.
    pub fn for_each(&self, mut visit: impl FnMut(K, V)) -> Result<(), MapError> {
        self.map.read_all(size_of::<V>(), |keys, values| {
            for (key, value) in keys.chunks_exact(size_of::<K>()).zip(values.chunks_exact(size_of::<V>())) {
                visit(plain::read(key), plain::read(value));
            }
        })
    }

    /// Shows entries of a hash from where an earlier call stopped (`None`: from the first on) as
    /// [`Table::for_each`] does, some hundreds at a time until `more` says that it is enough; where to go on, if
    /// anything may be left.
    pub fn some(
        &self,
        after: Option<u32>,
        mut visit: impl FnMut(K, V),
        mut more: impl FnMut() -> bool,
    ) -> Result<Option<u32>, MapError> {
        let cursor = self.map.read_from(BatchCursor::resume(after), size_of::<V>(), |keys, values| {
            for (key, value) in keys.chunks_exact(size_of::<K>()).zip(values.chunks_exact(size_of::<V>())) {
                visit(plain::read(key), plain::read(value));
            }
            more()
        })?;
        Ok(cursor.position())
    }

    /// Every key. Nothing but this process may write to the table meanwhile.
    pub fn keys(&self) -> Result<Vec<K>, MapError> {
        let mut keys = Vec::new();
        while let Some(key) = sys::map_next_key(self.map.fd(), keys.last()).map_err(self.map.error("list"))? {
            keys.push(key);
        }
        Ok(keys)
    }

    /// Every entry. Nothing but this process may write to the table meanwhile.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut entries = Vec::new();
        for key in self.keys()? {
            if let Some(value) = self.get(&key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }
}
