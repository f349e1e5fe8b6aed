//! Writing other addresses and ports into a packet, checksums kept right.

use super::{
    AccessError, ChecksumOf, Packet,
    checksum::{self, Change},
    crc32c,
    headers::{Fragment, Headers, Transport, join_ports, split_ports},
};
use crate::abi::{Addr, Be16, Family, protocol};

/// The ends that a packet shall have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
}

/// Writes `ends` into the packet and into `headers`.
///
/// # Errors
/// The packet ends early, or could not be made writable. It may be half written
/// then and must be dropped.
#[inline(never)]
pub fn rewrite<P: Packet>(packet: &mut P, headers: &mut Headers, ends: &Ends) -> Result<(), AccessError> {
    let addresses = match headers.family {
        Family::V4 => write_v4_addresses(packet, 0, &ends.src, &ends.dst)?,
        Family::V6 => write_v6_addresses(packet, 0, &ends.src, &ends.dst)?,
    };
    if headers.fragment != Fragment::Later {
        write_transport(packet, headers, ends, addresses)?;
    }
    headers.src = ends.src;
    headers.dst = ends.dst;
    headers.src_port = ends.src_port;
    headers.dst_port = ends.dst_port;
    Ok(())
}

/// What is known and wanted of a packet for [`rewrite_plain`].
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// It makes a hop.
    pub hop: bool,
    /// Its checksum is finished, and not left to a network card.
    pub finished: bool,
}

/// What [`rewrite`] and [`take_hop`] make of a packet that is [`Headers::is_plain`], in one
/// go: addresses and ports lie side by side there.
///
/// # Errors
/// As for [`rewrite`].
#[inline(never)]
pub fn rewrite_plain<P: Packet>(
    packet: &mut P,
    headers: &mut Headers,
    ends: &Ends,
    how: Plain,
) -> Result<(), AccessError> {
    let hops = headers.hops.wrapping_sub(u8::from(how.hop));
    let (old_ports, ports) = (join_ports(headers.src_port, headers.dst_port), join_ports(ends.src_port, ends.dst_port));
    let (addresses, l4) = match headers.family {
        Family::V4 => {
            let [old] = packet.read(8).ok_or(AccessError)?;
            let (src, dst) = (ends.src.v4_word(), ends.dst.v4_word());
            let addresses = Change::NONE.word(headers.src.v4_word(), src).word(headers.dst.v4_word(), dst);
            let [ttl, protocol, a, b] = u32::to_ne_bytes(old);
            let pair = |ttl| u32::from(u16::from_ne_bytes([ttl, protocol]));
            let change = addresses.word(pair(ttl), pair(hops));
            let [a, b] = checksum::update(u16::from_ne_bytes([a, b]), change.sum()).to_ne_bytes();
            packet.write(8, [u32::from_ne_bytes([hops, protocol, a, b]), src, dst, ports])?;
            (addresses, 20)
        }
        Family::V6 => {
            let [old] = packet.read(4).ok_or(AccessError)?;
            let [a, b, next, _] = u32::to_ne_bytes(old);
            let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (ends.src.0, ends.dst.0);
            packet.write(4, [u32::from_ne_bytes([a, b, next, hops]), s0, s1, s2, s3, d0, d1, d2, d3, ports])?;
            (Change::NONE.words(headers.src.0, ends.src.0).words(headers.dst.0, ends.dst.0), 40)
        }
    };
    let udp = headers.protocol == protocol::UDP;
    let checksum_at = l4 + if udp { 6 } else { 16 };
    let of = ChecksumOf { pseudo_header: false, zero_is_none: udp, v6: headers.family == Family::V6 };
    if how.finished {
        packet.adjust_checksum(checksum_at, addresses.word(old_ports, ports).sum(), of)?;
    } else {
        packet.adjust_checksum(checksum_at, addresses.sum(), ChecksumOf { pseudo_header: true, ..of })?;
        if old_ports != ports {
            packet.adjust_checksum(checksum_at, Change::NONE.word(old_ports, ports).sum(), of)?;
        }
    }
    headers.hops = hops;
    (headers.src, headers.dst) = (ends.src, ends.dst);
    (headers.src_port, headers.dst_port) = (ends.src_port, ends.dst_port);
    Ok(())
}

/// Takes one from the hops that the packet may still make.
///
/// # Errors
/// The packet ends early, or could not be made writable.
#[inline(always)]
pub fn take_hop<P: Packet>(packet: &mut P, headers: &mut Headers) -> Result<(), AccessError> {
    set_hops(packet, headers, headers.hops.wrapping_sub(1))
}

/// Writes how many hops the packet may still make.
///
/// # Errors
/// As for [`take_hop`].
#[inline(never)]
pub fn set_hops<P: Packet>(packet: &mut P, headers: &mut Headers, hops: u8) -> Result<(), AccessError> {
    match headers.family {
        Family::V4 => {
            let [word] = packet.read(8).ok_or(AccessError)?;
            let [_, protocol, a, b] = u32::to_ne_bytes(word);
            let pair = |ttl| u32::from(u16::from_ne_bytes([ttl, protocol]));
            let change = Change::NONE.word(pair(headers.hops), pair(hops));
            let [a, b] = checksum::update(u16::from_ne_bytes([a, b]), change.sum()).to_ne_bytes();
            packet.write(8, [u32::from_ne_bytes([hops, protocol, a, b])])?;
        }
        Family::V6 => {
            let [word] = packet.read(4).ok_or(AccessError)?;
            let [a, b, next, _] = u32::to_ne_bytes(word);
            packet.write(4, [u32::from_ne_bytes([a, b, next, hops])])?;
        }
    }
    headers.hops = hops;
    Ok(())
}

/// Writes addresses into the IPv4 header at `start` and mends its checksum.
/// Returns the change of the addresses alone.
#[inline(always)]
pub(super) fn write_v4_addresses<P: Packet>(
    packet: &mut P,
    start: u32,
    src: &Addr,
    dst: &Addr,
) -> Result<Change, AccessError> {
    let [ttl_protocol_checksum, old_src, old_dst] = packet.read(start + 8).ok_or(AccessError)?;
    let change = Change::NONE.word(old_src, src.v4_word()).word(old_dst, dst.v4_word());
    let [ttl, protocol, a, b] = ttl_protocol_checksum.to_ne_bytes();
    let [a, b] = checksum::update(u16::from_ne_bytes([a, b]), change.sum()).to_ne_bytes();
    packet.write(start + 8, [u32::from_ne_bytes([ttl, protocol, a, b]), src.v4_word(), dst.v4_word()])?;
    Ok(change)
}

/// Writes addresses into the IPv6 header at `start`. Returns their change.
#[inline(never)]
pub(super) fn write_v6_addresses<P: Packet>(
    packet: &mut P,
    start: u32,
    src: &Addr,
    dst: &Addr,
) -> Result<Change, AccessError> {
    let from: [u32; 8] = packet.read(start + 8).ok_or(AccessError)?;
    let (s, d) = (src.0, dst.0);
    let to = [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]];
    packet.write(start + 8, to)?;
    Ok(Change::NONE.words(from, to))
}

#[inline(always)]
fn write_transport<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    ends: &Ends,
    addresses: Change,
) -> Result<(), AccessError> {
    let from = join_ports(headers.src_port, headers.dst_port);
    let to = join_ports(ends.src_port, ends.dst_port);
    let checksum_at = match headers.transport {
        Transport::Tcp(_) => headers.l4 + 16,
        Transport::Udp => headers.l4 + 6,
        Transport::Sctp => return write_sctp_ports(packet, headers, from, to),
        Transport::EchoRequest => return write_identifier(packet, headers, ends.src_port, addresses),
        Transport::EchoReply => return write_identifier(packet, headers, ends.dst_port, addresses),
        _ => return Ok(()),
    };
    let of = ChecksumOf {
        pseudo_header: true,
        zero_is_none: headers.transport == Transport::Udp,
        v6: headers.family == Family::V6,
    };
    packet.adjust_checksum(checksum_at, addresses.sum(), of)?;
    if from != to {
        let ports = Change::NONE.word(from, to);
        packet.adjust_checksum(checksum_at, ports.sum(), ChecksumOf { pseudo_header: false, ..of })?;
        packet.write(headers.l4, [to])?;
    }
    Ok(())
}

/// Writes an echo's identifier. ICMPv6's checksum covers the addresses, ICMP's doesn't.
#[inline(always)]
fn write_identifier<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    identifier: Be16,
    addresses: Change,
) -> Result<(), AccessError> {
    let (at, checksum_at) = (headers.l4 + 4, headers.l4 + 2);
    let v6 = headers.family == Family::V6;
    let of = ChecksumOf { pseudo_header: false, zero_is_none: false, v6 };
    if v6 {
        packet.adjust_checksum(checksum_at, addresses.sum(), ChecksumOf { pseudo_header: true, ..of })?;
    }
    let [from] = packet.read(at).ok_or(AccessError)?;
    let (_, sequence) = split_ports(from);
    let to = join_ports(identifier, sequence);
    packet.adjust_checksum(checksum_at, Change::NONE.word(from, to).sum(), of)?;
    packet.write(at, [to])
}

/// SCTP's checksum covers no addresses, only the segment. A checksum of 0 is left
/// to the network card, which computes it over the segment with the 0 in it.
///
/// # Errors
/// Of a fragmented segment the first part doesn't tell how the checksum changes.
#[inline(always)]
fn write_sctp_ports<P: Packet>(packet: &mut P, headers: &Headers, from: u32, to: u32) -> Result<(), AccessError> {
    debug_assert!(headers.protocol == protocol::SCTP);
    if from == to {
        return Ok(());
    }
    if headers.fragment != Fragment::Whole {
        return Err(AccessError);
    }
    let [_, tag, checksum] = packet.read(headers.l4).ok_or(AccessError)?;
    let rest = headers.total_len.wrapping_sub(headers.l4).wrapping_sub(4);
    let checksum = match checksum {
        0 => 0,
        _ => checksum ^ crc32c::ports_change(from ^ to, rest),
    };
    packet.write(headers.l4, [to, tag, checksum])
}
