//! iptables as it was before nf_tables: its tables are read by a socket's options.
//!
//! Invariant: a table that isn't in use is not brought into use by being looked at. This module must
//! not know whose chains are looked for.

use std::{
    fs, io,
    mem::size_of,
    os::fd::{AsRawFd, OwnedFd},
};

use datapath::abi::Family;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// From `linux/netfilter_ipv4/ip_tables.h`; IPv6's are the same.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

const NAME: usize = 32;
/// `struct ipt_getinfo`: name, hooks and where they begin, how many entries, and how long these are.
const INFO: usize = NAME + 13 * size_of::<u32>();
/// `struct ipt_get_entries` without the entries, which are aligned to eight bytes.
const ENTRIES: usize = NAME + 2 * size_of::<u32>();

/// Whether the table has a chain of this name.
pub fn has_chain(family: Family, table: &str, chain: &str) -> io::Result<bool> {
    let (names, level, domain) = match family {
        Family::V4 => ("/proc/thread-self/net/ip_tables_names", libc::IPPROTO_IP, AddressFamily::Inet),
        Family::V6 => ("/proc/thread-self/net/ip6_tables_names", libc::IPPROTO_IPV6, AddressFamily::Inet6),
    };
    // Asking for a table makes it.
    let in_use = fs::read_to_string(names).unwrap_or_default();
    if !in_use.lines().any(|name| name == table) {
        return Ok(false);
    }
    let socket = socket(domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut info = vec![0; INFO];
    name(&mut info, table);
    option(&socket, level, GET_INFO, &mut info)?;
    let size = info[INFO - 4..].try_into().map_or(0, u32::from_ne_bytes);
    let mut entries = vec![0; ENTRIES + size as usize];
    name(&mut entries, table);
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    match option(&socket, level, GET_ENTRIES, &mut entries) {
        Ok(()) => {}
        // Somebody changes it at this moment, and will have done so when it is looked at next.
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(true),
        Err(error) => return Err(error),
    }
    // A chain begins with an entry that has its name.
    let wanted = [chain.as_bytes(), &[0]].concat();
    Ok(entries[ENTRIES..].windows(wanted.len()).any(|bytes| bytes == wanted))
}

fn name(bytes: &mut [u8], table: &str) {
    bytes[..table.len()].copy_from_slice(table.as_bytes());
}

fn option(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes, which there are.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, bytes.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
