//! IP and transport headers, read once for each packet.
//!
//! Invariant: what is returned agrees with itself and with the packet's length.
//! No options or extension headers are interpreted beyond stepping over them.

use super::Packet;
use crate::abi::{Addr, Be16, DropReason, Family, FlowKey, FragmentKey, protocol};

/// The smallest transport headers in bytes.
const TCP_MIN: u32 = 20;
const UDP_MIN: u32 = 8;
const SCTP_MIN: u32 = 12;
const ICMP_MIN: u32 = 8;

/// IPv6 extension headers that are stepped over; more are an attack, RFC 9673.
const MAX_EXTENSIONS: usize = 6;

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first part, with the transport header.
    First,
    /// A later part, without it.
    Later,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with its flags.
    Tcp(u8),
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// An ICMP error, which quotes the packet that it is about.
    IcmpError,
    /// Any other ICMP message, with its type.
    Icmp(u8),
    /// Nothing that is looked into, or a later fragment.
    Other,
}

/// TCP flags, RFC 9293.
pub mod tcp_flags {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// ACK.
    pub const ACK: u8 = 16;
}

/// A packet's addresses, ports and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The family of the IP header.
    pub family: Family,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, 0 if there is none.
    pub src_port: Be16,
    /// Destination port, 0 if there is none.
    pub dst_port: Be16,
    /// The transport's IP protocol number.
    pub protocol: u8,
    /// Which part of a datagram this is.
    pub fragment: Fragment,
    /// The transport.
    pub transport: Transport,
    /// Where the transport header begins.
    pub l4: u32,
    /// The packet's length by its IP header.
    pub total_len: u32,
    /// The datagram's identification as it lies in the packet, for fragments.
    pub fragment_id: u32,
}

impl Headers {
    /// The key of the flow that the packet belongs to.
    #[inline(always)]
    pub const fn flow(&self) -> FlowKey {
        FlowKey {
            src: self.src,
            dst: self.dst,
            src_port: self.src_port,
            dst_port: self.dst_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    /// The key of the datagram that the fragment belongs to.
    #[inline(always)]
    pub const fn datagram(&self) -> FragmentKey {
        FragmentKey { src: self.src, dst: self.dst, id: self.fragment_id, protocol: self.protocol, pad: [0; 3] }
    }
}

/// The addresses and the start of the transport header, before it is looked into.
struct Network {
    headers: Headers,
    /// Bytes from the transport header to the end.
    payload: u32,
}

/// Reads a packet's headers.
///
/// # Errors
/// The reason for which a packet like this is dropped.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, family: Family) -> Result<Headers, DropReason> {
    let network = match family {
        Family::V4 => parse_v4(packet, 0, packet.available())?,
        Family::V6 => parse_v6(packet, 0, packet.available())?,
    };
    parse_transport(packet, network)
}

/// Reads the headers that an ICMP error at `offset` quotes: the quote is cut
/// short, so lengths aren't checked, and of the transport only ports are read.
#[inline(always)]
pub fn parse_quote<P: Packet>(packet: &P, family: Family, offset: u32) -> Result<Headers, DropReason> {
    let Network { mut headers, .. } = match family {
        Family::V4 => parse_v4(packet, offset, u32::MAX)?,
        Family::V6 => parse_v6(packet, offset, u32::MAX)?,
    };
    if headers.fragment == Fragment::Later {
        return Ok(headers);
    }
    match headers.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            let [ports] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
            (headers.src_port, headers.dst_port) = split_ports(ports);
            headers.transport = match headers.protocol {
                protocol::TCP => Transport::Tcp(0),
                protocol::UDP => Transport::Udp,
                _ => Transport::Sctp,
            };
        }
        _ => {}
    }
    Ok(headers)
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, start: u32, available: u32) -> Result<Network, DropReason> {
    let [first, identification, ttl_protocol, src, dst] = packet.read(start).ok_or(DropReason::Truncated)?;
    let first = u32::from_be(first);
    let header_len = (first >> 24 & 0xf) * 4;
    if first >> 28 != 4 || header_len < 20 {
        return Err(DropReason::Malformed);
    }
    // A total length of 0 is what the kernel writes into packets above 64 KiB (BIG TCP).
    let total_len = match first & 0xffff {
        0 => available,
        len => len,
    };
    if total_len < header_len {
        return Err(DropReason::Malformed);
    }
    if total_len > available {
        return Err(DropReason::Truncated);
    }
    let identification_host = u32::from_be(identification);
    let more = identification_host & 0x2000 != 0;
    let offset = identification_host & 0x1fff;
    Ok(Network {
        headers: Headers {
            family: Family::V4,
            src: Addr::v4(src),
            dst: Addr::v4(dst),
            src_port: Be16::ZERO,
            dst_port: Be16::ZERO,
            protocol: (u32::from_be(ttl_protocol) >> 16) as u8,
            fragment: fragment_of(offset, more),
            transport: Transport::Other,
            l4: start + header_len,
            total_len,
            fragment_id: identification_host >> 16,
        },
        payload: total_len - header_len,
    })
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, start: u32, available: u32) -> Result<Network, DropReason> {
    let [first, length_next, s0, s1, s2, s3, d0, d1, d2, d3] = packet.read(start).ok_or(DropReason::Truncated)?;
    if u32::from_be(first) >> 28 != 6 {
        return Err(DropReason::Malformed);
    }
    let length_next = u32::from_be(length_next);
    let total_len = match length_next >> 16 {
        0 => available,
        len => len + 40,
    };
    if total_len > available {
        return Err(DropReason::Truncated);
    }
    let mut headers = Headers {
        family: Family::V6,
        src: Addr::v6([s0, s1, s2, s3]),
        dst: Addr::v6([d0, d1, d2, d3]),
        src_port: Be16::ZERO,
        dst_port: Be16::ZERO,
        protocol: (length_next >> 8) as u8,
        fragment: Fragment::Whole,
        transport: Transport::Other,
        l4: start + 40,
        total_len,
        fragment_id: 0,
    };
    for _ in 0..MAX_EXTENSIONS {
        let unit = match headers.protocol {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => 8,
            // Authentication, whose length counts words and leaves out two.
            51 => 4,
            // Fragment.
            44 => 0,
            _ => return finish_v6(headers, start),
        };
        let [head, id] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
        let head = u32::from_be(head);
        headers.protocol = (head >> 24) as u8;
        headers.l4 += match unit {
            0 => 8,
            4 => ((head >> 16 & 0xff) + 2) * 4,
            _ => ((head >> 16 & 0xff) + 1) * 8,
        };
        if unit == 0 {
            headers.fragment = fragment_of(head >> 3 & 0x1fff, head & 1 != 0);
            headers.fragment_id = id;
            if headers.fragment == Fragment::Later {
                return finish_v6(headers, start);
            }
        }
    }
    Err(DropReason::TooManyHeaders)
}

#[inline(always)]
fn finish_v6(headers: Headers, start: u32) -> Result<Network, DropReason> {
    let header_len = headers.l4 - start;
    if header_len > headers.total_len {
        return Err(DropReason::Malformed);
    }
    Ok(Network { headers, payload: headers.total_len - header_len })
}

#[inline(always)]
fn fragment_of(offset: u32, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

#[inline(always)]
fn split_ports(word: u32) -> (Be16, Be16) {
    let bytes = word.to_ne_bytes();
    (
        Be16::from_wire(u16::from_ne_bytes([bytes[0], bytes[1]])),
        Be16::from_wire(u16::from_ne_bytes([bytes[2], bytes[3]])),
    )
}

/// The word that holds two ports as they lie in a packet.
#[inline(always)]
pub fn join_ports(src: Be16, dst: Be16) -> u32 {
    let (src, dst) = (src.wire().to_ne_bytes(), dst.wire().to_ne_bytes());
    u32::from_ne_bytes([src[0], src[1], dst[0], dst[1]])
}

#[inline(always)]
fn parse_transport<P: Packet>(packet: &P, network: Network) -> Result<Headers, DropReason> {
    let Network { mut headers, payload } = network;
    if headers.fragment == Fragment::Later {
        return Ok(headers);
    }
    let min = match headers.protocol {
        protocol::TCP => TCP_MIN,
        protocol::UDP => UDP_MIN,
        protocol::SCTP => SCTP_MIN,
        protocol::ICMP | protocol::ICMPV6 => ICMP_MIN,
        _ => return Ok(headers),
    };
    if payload < min {
        return Err(DropReason::Truncated);
    }
    match headers.protocol {
        protocol::TCP => {
            let [ports, _, _, flags] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
            (headers.src_port, headers.dst_port) = split_ports(ports);
            let flags = u32::from_be(flags) >> 16;
            if (flags >> 12) * 4 < TCP_MIN {
                return Err(DropReason::Malformed);
            }
            headers.transport = Transport::Tcp(flags as u8);
        }
        protocol::UDP | protocol::SCTP => {
            let [ports] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
            (headers.src_port, headers.dst_port) = split_ports(ports);
            headers.transport = if headers.protocol == protocol::UDP { Transport::Udp } else { Transport::Sctp };
        }
        _ => {
            let [head] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
            let kind = (u32::from_be(head) >> 24) as u8;
            headers.transport = match (headers.protocol, headers.family) {
                (protocol::ICMP, Family::V4) if matches!(kind, 3 | 4 | 5 | 11 | 12) => Transport::IcmpError,
                (protocol::ICMPV6, Family::V6) if kind < 128 => Transport::IcmpError,
                _ => Transport::Icmp(kind),
            };
        }
    }
    Ok(headers)
}
