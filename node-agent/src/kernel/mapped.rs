//! An array table as memory: entries are written without a system call each.
//!
//! The array is mapped in windows, when first written to, because the kernel
//! counts every mapped page as resident, used or not.
//!
//! Invariant: an entry's words are stored one by one, each whole. Whoever needs
//! an entry to change as one writes it where no reader looks yet. This module
//! must not know what the entries mean.

use std::{
    marker::PhantomData,
    mem,
    num::NonZeroUsize,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{
    map::{CheckedMap, MapError},
    plain::Plain,
};

/// Bytes of a window: a multiple of every page size and of every entry's size.
const WINDOW: usize = 256 << 10;
const WORD: usize = mem::size_of::<u64>();

struct Window {
    words: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed through atomics.
unsafe impl Send for Window {}

impl Window {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` points to a shared mapping of `len` bytes that lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len / WORD) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and no slice of it outlives `self`.
        // Unmapping a mapping of ours as a whole can't fail.
        let _ = unsafe { munmap(self.words.cast(), self.len) };
    }
}

/// An array of `V` that the kernel was asked to make mappable.
pub struct MappedArray<V> {
    map: CheckedMap,
    windows: Vec<Option<Window>>,
    types: PhantomData<fn() -> V>,
}

impl<V: Plain> MappedArray<V> {
    /// The kernel rounds an array's values up to words.
    const STRIDE: usize = mem::size_of::<V>().next_multiple_of(WORD);

    /// Opens the pin of the table called `name` in `dir`.
    pub fn open(dir: &Path, name: &'static str) -> Result<Self, MapError> {
        const { assert!(WINDOW.is_multiple_of(Self::STRIDE)) };
        let map = CheckedMap::open(dir, name)?;
        assert_eq!(map.layout().value as usize, mem::size_of::<V>(), "{name}");
        let windows = (Self::bytes(&map)).div_ceil(WINDOW);
        Ok(Self { map, windows: (0..windows).map(|_| None).collect(), types: PhantomData })
    }

    fn bytes(map: &CheckedMap) -> usize {
        map.layout().entries as usize * Self::STRIDE
    }

    fn words(&mut self, index: u32) -> Result<&[AtomicU64], MapError> {
        let outside = || std::io::Error::from_raw_os_error(libc::E2BIG);
        if index >= self.map.layout().entries {
            return Err(self.map.error("write past the end of")(outside()));
        }
        let offset = index as usize * Self::STRIDE;
        let number = offset / WINDOW;
        if self.windows[number].is_none() {
            self.windows[number] = Some(self.map_window(number)?);
        }
        let window = self.windows[number].as_ref().expect("it has just been mapped");
        let first = offset % WINDOW / WORD;
        Ok(&window.words()[first..first + Self::STRIDE / WORD])
    }

    fn map_window(&self, number: usize) -> Result<Window, MapError> {
        let offset = number * WINDOW;
        // Whole pages, though the last entry may end in the middle of one: the kernel allocates so.
        let left = Self::bytes(&self.map).next_multiple_of(page_size()) - offset;
        let len = left.min(WINDOW);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = NonZeroUsize::new(len).expect("a window begins before the array's end");
        // SAFETY: a new mapping at an address of the kernel's choice replaces none.
        let address =
            unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, self.map.fd(), offset as libc::off_t) }
                .map_err(|errno| self.map.error("map")(errno.into()))?;
        Ok(Window { words: address.cast(), len })
    }

    /// Reads an entry.
    pub fn get(&mut self, index: u32) -> Result<V, MapError> {
        let words = self.words(index)?;
        let mut buffer = [0_u64; 8];
        for (word, stored) in buffer.iter_mut().zip(words) {
            *word = stored.load(Ordering::Relaxed);
        }
        const { assert!(Self::STRIDE <= mem::size_of::<[u64; 8]>()) };
        // SAFETY: the buffer is at least as large as `V`, aligned to words, and any bytes are a value.
        Ok(unsafe { buffer.as_ptr().cast::<V>().read_unaligned() })
    }

    /// Writes an entry, word by word.
    pub fn set(&mut self, index: u32, value: &V) -> Result<(), MapError> {
        const { assert!(Self::STRIDE <= mem::size_of::<[u64; 8]>()) };
        let mut buffer = [0_u64; 8];
        // SAFETY: the buffer is at least as large as `V` and `V` has no padding.
        unsafe { buffer.as_mut_ptr().cast::<V>().write_unaligned(*value) };
        for (stored, word) in self.words(index)?.iter().zip(buffer) {
            stored.store(word, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Visits every entry, mapping no more than a window at a time.
    pub fn for_each(&mut self, mut visit: impl FnMut(u32, V)) -> Result<(), MapError> {
        self.unmap();
        for index in 0..self.map.layout().entries {
            let offset = index as usize * Self::STRIDE;
            if offset.is_multiple_of(WINDOW) {
                self.unmap();
            }
            visit(index, self.get(index)?);
        }
        self.unmap();
        Ok(())
    }

    /// Gives the mapped windows back; they are mapped again as needed.
    pub fn unmap(&mut self) {
        self.windows.fill_with(|| None);
    }

    /// What was set before is seen by whoever sees a system call that this thread makes afterwards.
    pub fn publish(&self) {
        fence(Ordering::SeqCst);
    }
}

fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |size| size as usize)
}
