//! The IP header of packets like most, read where it lies.
//!
//! Invariant: what is returned is what [`super::headers::parse`] would read. That there is
//! nothing says nothing of the packet.

use super::{Packet, headers::split_ports};
use crate::abi::{Addr, Be16, Family, protocol};

/// Bytes of the shortest transport header, UDP's and ICMP's.
const SHORTEST: u32 = 8;

/// The header of a whole packet without options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bare {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The transport's IP protocol number.
    pub protocol: u8,
    /// How many hops the packet may still make, the next one among them.
    pub hops: u8,
    /// The packet's length: all of it is there, and there are eight bytes behind the header.
    pub total_len: u32,
    /// Where the transport header begins.
    pub l4: u32,
    /// IPv4's identification as it lies in the packet; 0 of IPv6.
    pub id: u32,
    /// The source port, of a transport that has ports.
    pub src_port: Be16,
    /// The destination port, likewise.
    pub dst_port: Be16,
}

impl Bare {
    /// Reads it.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P, family: Family) -> Option<Self> {
        let bare = match family {
            Family::V4 => Self::read_v4(packet)?,
            Family::V6 => Self::read_v6(packet)?,
        };
        // A length of 0 is what the kernel writes into packets above 64 KiB (BIG TCP).
        let sound = bare.total_len >= bare.l4 + SHORTEST && packet.has(bare.total_len);
        sound.then_some(bare)
    }

    #[inline(always)]
    fn read_v4<P: Packet>(packet: &P) -> Option<Self> {
        const VERSION_AND_LENGTH: u32 = 0x45;
        let [first, id, ttl_protocol, src, dst, ports] = packet.glance()?;
        let (first, id, ttl_protocol) = (u32::from_be(first), u32::from_be(id), u32::from_be(ttl_protocol));
        // More fragments, and the offset.
        if first >> 24 != VERSION_AND_LENGTH || id & 0x3fff != 0 {
            return None;
        }
        let (src_port, dst_port) = split_ports(ports);
        Some(Self {
            src: Addr::v4(src),
            dst: Addr::v4(dst),
            protocol: (ttl_protocol >> 16) as u8,
            hops: (ttl_protocol >> 24) as u8,
            total_len: first & 0xffff,
            l4: 20,
            id: id >> 16,
            src_port,
            dst_port,
        })
    }

    #[inline(always)]
    fn read_v6<P: Packet>(packet: &P) -> Option<Self> {
        let [first, length_next, s0, s1, s2, s3, d0, d1, d2, d3, ports] = packet.glance()?;
        let length_next = u32::from_be(length_next);
        let protocol = (length_next >> 8) as u8;
        let bare = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMPV6);
        if u32::from_be(first) >> 28 != 6 || !bare {
            return None;
        }
        let (src_port, dst_port) = split_ports(ports);
        Some(Self {
            src: Addr::v6([s0, s1, s2, s3]),
            dst: Addr::v6([d0, d1, d2, d3]),
            protocol,
            hops: length_next as u8,
            total_len: (length_next >> 16) + 40,
            l4: 40,
            id: 0,
            src_port,
            dst_port,
        })
    }
}
