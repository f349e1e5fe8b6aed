//! The table that keeps what a socket dialled with the socket itself.
//!
//! It is made here and not by the loader: the kernel takes such a table only with type
//! information (BTF) of its keys and values, and the loader gives it none of what Rust's map
//! types hold. This module must not know who writes to the table.

use std::{io, os::fd::AsFd, path::Path};

use super::sys;

/// The table's name in the object and on bpffs.
pub const NAME: &str = "DIALLED";

/// Makes the table and pins it at `pin`, unless something is there.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::InvalidInput`] if it has no such tables.
pub fn make(pin: &Path) -> io::Result<()> {
    if pin.exists() {
        return Ok(());
    }
    let value = size_of::<datapath::abi::DialledValue>() as u32;
    let types = sys::load_btf(&words(value / 4))?;
    let map = sys::create_socket_storage(value, sys::Types { btf: &types, key: WORD, value: WORDS })?;
    sys::pin(map.as_fd(), pin)
}

/// The numbers of the types in [`words`].
const WORD: u32 = 1;
const WORDS: u32 = 2;

/// BTF of two types: a word of 32 bits, and so many of these.
/// See Documentation/bpf/btf.rst in the kernel's sources.
fn words(count: u32) -> Vec<u8> {
    const MAGIC_AND_VERSION: u32 = 0x0001_eb9f;
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    // An empty name, and the word's.
    const NAMES: &[u8] = b"\0u32\0";
    let word = [1, INT, 4, 32];
    let words = [0, ARRAY, 0, WORD, WORD, count];
    let types: Vec<u32> = word.into_iter().chain(words).collect();
    let of_types = size_of_val(types.as_slice()) as u32;
    let header = [MAGIC_AND_VERSION, 24, 0, of_types, of_types, NAMES.len() as u32];
    let bytes = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
    bytes.chain(NAMES.iter().copied()).collect()
}
