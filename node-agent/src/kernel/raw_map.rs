//! One kernel table as bytes, of whatever layout.
//!
//! Invariant: keys and values are exactly as long as the kernel says that this map's are. This
//! module must not know what the entries mean.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya_obj::generated::bpf_map_type;

use super::sys::{self, BatchCursor};

/// Entries that are read in one call.
const BATCH: u32 = 1024;

/// An open map.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    id: u32,
    kind: u32,
    key: usize,
    value: usize,
    entries: u32,
    cpus: usize,
}

impl RawMap {
    /// Opens a pin; `None`: there is none.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let fd = match sys::open_pin(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let info = sys::map_info(fd.as_fd())?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| source)?;
        let (key, value) = (info.key_size as usize, info.value_size as usize);
        Ok(Some(Self { fd, id: info.id, kind: info.type_, key, value, entries: info.max_entries, cpus }))
    }

    /// The kernel's number of the map.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of a key.
    pub fn key_len(&self) -> usize {
        self.key
    }

    /// Bytes of a value, of one CPU.
    pub fn value_len(&self) -> usize {
        self.value
    }

    /// Capacity in entries.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes of what is read and written for an entry: of all CPUs.
    pub fn entry_len(&self) -> usize {
        if self.is_per_cpu() { self.value.next_multiple_of(8) * self.cpus } else { self.value }
    }

    /// Pins the map once more.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        sys::pin(self.fd.as_fd(), path)
    }

    /// Reads an entry; false if it isn't there.
    pub fn get(&self, key: &[u8], value: &mut Vec<u8>) -> io::Result<bool> {
        assert_eq!(key.len(), self.key);
        value.clear();
        value.resize(self.entry_len(), 0);
        sys::map_lookup_bytes(self.fd.as_fd(), key, value)
    }

    /// Writes an entry.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key, self.entry_len()));
        sys::map_update_bytes(self.fd.as_fd(), key, value)
    }

    /// Shows every entry; others may write meanwhile: what comes and goes may be missed or shown twice.
    pub fn each(&self, mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        match self.is_in_batches() {
            true => self.each_in_batches(visit),
            false => {
                let mut value = Vec::new();
                for key in self.keys()? {
                    if self.get(&key, &mut value)? {
                        visit(&key, &value)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn each_in_batches(&self, mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut keys = vec![0; BATCH as usize * self.key];
        let mut values = vec![0; BATCH as usize * self.value];
        let mut cursor = BatchCursor::default();
        while !cursor.done {
            let found = sys::map_read_batch(self.fd.as_fd(), &mut cursor, (&mut keys, &mut values), BATCH)?;
            let entries = keys.chunks_exact(self.key).zip(values.chunks_exact(self.value)).take(found as usize);
            for (key, value) in entries {
                visit(key, value)?;
            }
        }
        Ok(())
    }

    fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut next = vec![0; self.key];
        while sys::map_next_key_bytes(self.fd.as_fd(), keys.last().map(Vec::as_slice), &mut next)? {
            keys.push(next.clone());
        }
        Ok(keys)
    }

    /// Whether every entry is there from the beginning, as zeros.
    pub fn is_array(&self) -> bool {
        self.is_one_of(&[bpf_map_type::BPF_MAP_TYPE_ARRAY, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY])
    }

    fn is_per_cpu(&self) -> bool {
        self.is_one_of(&[bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH])
    }

    fn is_one_of(&self, kinds: &[bpf_map_type]) -> bool {
        kinds.iter().any(|kind| *kind as u32 == self.kind)
    }

    /// Whether a walk's place is four bytes, as [`BatchCursor`] has it: tries' are as long as their keys.
    fn is_in_batches(&self) -> bool {
        use bpf_map_type::*;
        self.is_one_of(&[BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_ARRAY])
    }
}
