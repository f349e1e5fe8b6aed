//! The announcement: by which of a Service's addresses and ports a packet's client dialled
//! the backend that it is addressed to.
//!
//! It is an IPv4 option of 8 bytes, or an IPv6 destination option of 24 bytes with its
//! header, of the numbers that RFC 4727 sets aside for experiments:
//!
//! ```text
//! IPv4  [ 158 | 8 | port ] [ address ]
//! IPv6  [ next | 2 | 30 | 20 ] [ port | 0 ] [ address ]
//! ```
//!
//! Invariant: a packet with an announcement is no longer than [`LONGEST`], so that every
//! link takes it. This module must not know who is told, nor whom to believe.

use super::{
    AccessError, Packet,
    checksum::{self, Change},
    headers::Headers,
};
use crate::abi::{Addr, Be16, Family};

/// What every IPv6 link takes, RFC 8200.
const LONGEST: u32 = 1280;

/// IPv4: copied into every fragment, control, number 30.
const OPTION_V4: u8 = 158;
/// IPv6: who doesn't know it skips it.
const OPTION_V6: u8 = 30;
/// IPv6's destination options header.
const DESTINATION_OPTIONS: u8 = 60;

/// The addresses that a client dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The Service's address.
    pub addr: Addr,
    /// The Service's port.
    pub port: Be16,
}

/// How many bytes an announcement has.
#[inline(always)]
const fn len(family: Family) -> u32 {
    match family {
        Family::V4 => 8,
        Family::V6 => 24,
    }
}

#[inline(always)]
const fn bare(family: Family) -> u32 {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Whether a packet takes an announcement.
#[inline(always)]
pub const fn fits(headers: &Headers) -> bool {
    headers.is_plain() && headers.total_len + len(headers.family) <= LONGEST
}

/// Whether a packet may hold one; most show at first sight that they don't.
#[inline(always)]
pub const fn may_be_in(headers: &Headers) -> bool {
    headers.l4 == bare(headers.family) + len(headers.family)
}

/// Adds an announcement to a packet that it [`fits`]. A packet that the kernel won't give
/// room (several datagrams in one, before they are cut) stays as it is.
///
/// # Errors
/// The packet may be half written.
#[inline(never)]
pub fn add<P: Packet>(packet: &mut P, headers: &mut Headers, told: &Announcement) -> Result<(), AccessError> {
    let by = len(headers.family);
    if packet.resize_header(by as i32).is_err() {
        return Ok(());
    }
    let [a, b] = told.port.wire().to_ne_bytes();
    match headers.family {
        Family::V4 => {
            let option = [u32::from_ne_bytes([OPTION_V4, 8, a, b]), told.addr.v4_word()];
            let change = Change::NONE.words([0, 0], option);
            change_v4_length(packet, by as i32, change)?;
            packet.write(20, option)?;
        }
        Family::V6 => {
            let next = change_v6_length(packet, by as i32, DESTINATION_OPTIONS)?;
            let first = u32::from_ne_bytes([next, 2, OPTION_V6, 20]);
            let [w, x, y, z] = told.addr.0;
            packet.write(40, [first, u32::from_ne_bytes([a, b, 0, 0]), w, x, y, z])?;
        }
    }
    headers.l4 += by;
    headers.total_len += by;
    Ok(())
}

/// The announcement in a packet.
#[inline(always)]
pub fn read<P: Packet>(packet: &P, headers: &Headers) -> Option<Announcement> {
    if !may_be_in(headers) {
        return None;
    }
    match headers.family {
        Family::V4 => {
            let [first, addr] = packet.read(20)?;
            let [kind, len, a, b] = u32::to_ne_bytes(first);
            let port = Be16::from_wire(u16::from_ne_bytes([a, b]));
            (kind == OPTION_V4 && len == 8).then_some(Announcement { addr: Addr::v4(addr), port })
        }
        Family::V6 => {
            let [length_next] = packet.read(4)?;
            let [_, _, next, _] = u32::to_ne_bytes(length_next);
            let [first, port, w, x, y, z] = packet.read(40)?;
            let [_, length, kind, len] = u32::to_ne_bytes(first);
            let [a, b, _, _] = u32::to_ne_bytes(port);
            let port = Be16::from_wire(u16::from_ne_bytes([a, b]));
            let is_one = next == DESTINATION_OPTIONS && length == 2 && kind == OPTION_V6 && len == 20;
            is_one.then_some(Announcement { addr: Addr::v6([w, x, y, z]), port })
        }
    }
}

/// Takes the announcement that was [`read`] out of the packet.
///
/// # Errors
/// The packet could not be changed, and may be half written.
#[inline(never)]
pub fn remove<P: Packet>(packet: &mut P, headers: &mut Headers) -> Result<(), AccessError> {
    let by = len(headers.family);
    match headers.family {
        Family::V4 => {
            let option: [u32; 2] = packet.read(20).ok_or(AccessError)?;
            change_v4_length(packet, -(by as i32), Change::NONE.words(option, [0, 0]))?;
        }
        Family::V6 => {
            let [first] = packet.read(40).ok_or(AccessError)?;
            let [next, ..] = u32::to_ne_bytes(first);
            change_v6_length(packet, -(by as i32), next)?;
        }
    }
    packet.resize_header(-(by as i32))?;
    headers.l4 -= by;
    headers.total_len -= by;
    Ok(())
}

/// Writes the lengths of an IPv4 header that has become longer, and mends its checksum;
/// `change`: that of its options.
#[inline(always)]
fn change_v4_length<P: Packet>(packet: &mut P, by: i32, change: Change) -> Result<(), AccessError> {
    let [first, id, old] = packet.read(0).ok_or(AccessError)?;
    // The header's length counts words, in the low half of the first byte.
    let changed = u32::from_be(first).wrapping_add_signed((by / 4) << 24).wrapping_add_signed(by).to_be();
    let [ttl, protocol, a, b] = u32::to_ne_bytes(old);
    let sum = change.word(first, changed).sum();
    let [a, b] = checksum::update(u16::from_ne_bytes([a, b]), sum).to_ne_bytes();
    packet.write(0, [changed, id, u32::from_ne_bytes([ttl, protocol, a, b])])
}

/// Writes the length and next header of an IPv6 header; returns what came next before.
#[inline(always)]
fn change_v6_length<P: Packet>(packet: &mut P, by: i32, next: u8) -> Result<u8, AccessError> {
    let [old] = packet.read(4).ok_or(AccessError)?;
    let [_, _, before, hops] = u32::to_ne_bytes(old);
    let len = ((u32::from_be(old) >> 16).wrapping_add_signed(by)) as u16;
    let [a, b] = len.to_be_bytes();
    packet.write(4, [u32::from_ne_bytes([a, b, next, hops])])?;
    Ok(before)
}
