//! IP and transport headers, read once for each packet.
//!
//! Invariant: what is returned agrees with itself and with the packet's length.
//! No options or extension headers are interpreted beyond stepping over them.

use super::{Packet, bare::Bare};
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
    /// An ICMP echo request.
    EchoRequest,
    /// An ICMP echo reply.
    EchoReply,
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
    /// Source port, or an echo request's identifier; 0 if there is none.
    pub src_port: Be16,
    /// Destination port, or an echo reply's identifier; 0 if there is none.
    pub dst_port: Be16,
    /// The transport's IP protocol number.
    pub protocol: u8,
    /// How many hops the packet may still make, the next one among them.
    pub hops: u8,
    /// The packet opens a connection: a SYN that answers none, or SCTP's INIT.
    pub opens: bool,
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
    /// See [`FragmentKey::protocol`].
    pub fragment_protocol: u8,
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
            protocol: self.protocol as u32,
        }
    }

    /// The key of the datagram that the fragment belongs to.
    #[inline(always)]
    pub const fn datagram(&self) -> FragmentKey {
        FragmentKey { src: self.src, dst: self.dst, id: self.fragment_id, protocol: self.fragment_protocol as u32 }
    }

    /// Whether the packet shows the ports that it is addressed to.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.transport, Transport::Tcp(_) | Transport::Udp | Transport::Sctp)
    }

    /// Whether the packet is all of a TCP segment or UDP datagram, right behind an IP header
    /// without options.
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        let bare = match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        self.l4 == bare
            && matches!(self.fragment, Fragment::Whole)
            && matches!(self.transport, Transport::Tcp(_) | Transport::Udp)
    }

    /// Whether the packet shows by what it belongs to a flow: ports, or an echo's identifier.
    #[inline(always)]
    pub const fn has_flow(&self) -> bool {
        self.has_ports() || matches!(self.transport, Transport::EchoRequest | Transport::EchoReply)
    }
}

impl Headers {
    /// Of no packet yet: what [`parse`] fills.
    pub const EMPTY: Self = Self {
        family: Family::V4,
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        src_port: Be16::ZERO,
        dst_port: Be16::ZERO,
        protocol: 0,
        hops: 0,
        opens: false,
        fragment: Fragment::Whole,
        transport: Transport::Other,
        l4: 0,
        total_len: 0,
        fragment_id: 0,
        fragment_protocol: 0,
    };
}

/// Reads a packet's headers into `headers`, which is [`Headers::EMPTY`] before
/// (filled in place, because the kernel's stack is small).
///
/// # Errors
/// The reason for which a packet like this is dropped.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, family: Family, headers: &mut Headers) -> Result<(), DropReason> {
    parse_network(packet, family, Span { start: 0, available: packet.available() }, headers)?;
    parse_transport(packet, headers)
}

/// What [`parse`] does at less cost for packets like most: those that are
/// [`Headers::is_plain`], at hand for a glance. False: it is another, or
/// one to be dropped, and `headers` say nothing.
#[inline(always)]
pub fn parse_plain<P: Packet>(packet: &P, family: Family, headers: &mut Headers) -> bool {
    Bare::read(packet, family).is_some_and(|bare| complete(packet, &bare, headers))
}

/// The rest of [`parse_plain`], of a packet whose IP header has been read.
#[inline(always)]
pub fn complete<P: Packet>(packet: &P, bare: &Bare, headers: &mut Headers) -> bool {
    let family = if bare.l4 == 20 { Family::V4 } else { Family::V6 };
    headers.family = family;
    headers.src = bare.src;
    headers.dst = bare.dst;
    headers.src_port = bare.src_port;
    headers.dst_port = bare.dst_port;
    headers.protocol = bare.protocol;
    headers.hops = bare.hops;
    headers.fragment = Fragment::Whole;
    headers.l4 = bare.l4;
    headers.total_len = bare.total_len;
    headers.fragment_id = bare.id;
    let (fragment_protocol, flags) = match family {
        Family::V4 => (bare.protocol, packet.glance().map(|[.., word]: [u32; 9]| word)),
        Family::V6 => (0, packet.glance().map(|[.., word]: [u32; 14]| word)),
    };
    headers.fragment_protocol = fragment_protocol;
    if bare.protocol == protocol::UDP {
        headers.transport = Transport::Udp;
        headers.opens = false;
        return true;
    }
    let Some(flags) = flags.filter(|_| bare.protocol == protocol::TCP) else { return false };
    let flags = u32::from_be(flags) >> 16;
    set_tcp_flags(headers, flags as u8);
    (TCP_MIN..=bare.total_len - bare.l4).contains(&((flags >> 12) * 4))
}

#[inline(always)]
fn set_tcp_flags(headers: &mut Headers, flags: u8) {
    headers.transport = Transport::Tcp(flags);
    headers.opens = flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
}

/// Reads the headers that an ICMP error at `start` quotes: the quote is cut
/// short, so lengths aren't checked, and of the transport only ports are read.
///
/// # Errors
/// As for [`parse`].
#[inline(always)]
pub fn parse_quote<P: Packet>(packet: &P, family: Family, start: u32, headers: &mut Headers) -> Result<(), DropReason> {
    parse_network(packet, family, Span { start, available: u32::MAX }, headers)?;
    if headers.fragment == Fragment::Later {
        return Ok(());
    }
    headers.transport = match headers.protocol {
        protocol::TCP => Transport::Tcp(0),
        protocol::UDP => Transport::Udp,
        protocol::SCTP => Transport::Sctp,
        protocol::ICMP | protocol::ICMPV6 => {
            let [first, second] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
            read_icmp(headers, first, second);
            return Ok(());
        }
        _ => return Ok(()),
    };
    let [ports] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
    (headers.src_port, headers.dst_port) = split_ports(ports);
    Ok(())
}

/// Where an IP packet lies.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    available: u32,
}

#[inline(never)]
fn parse_network<P: Packet>(packet: &P, family: Family, span: Span, headers: &mut Headers) -> Result<(), DropReason> {
    headers.family = family;
    match family {
        Family::V4 => parse_v4(packet, span, headers),
        Family::V6 => parse_v6(packet, span, headers),
    }
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, span: Span, headers: &mut Headers) -> Result<(), DropReason> {
    let [first, identification, ttl_protocol, src, dst] = packet.read(span.start).ok_or(DropReason::Truncated)?;
    let first = u32::from_be(first);
    let header_len = ((first >> 24) & 0xf) * 4;
    if first >> 28 != 4 || header_len < 20 {
        return Err(DropReason::Malformed);
    }
    // A total length of 0 is what the kernel writes into packets above 64 KiB (BIG TCP).
    let total_len = match first & 0xffff {
        0 => span.available,
        len => len,
    };
    if total_len < header_len {
        return Err(DropReason::Malformed);
    }
    if total_len > span.available {
        return Err(DropReason::Truncated);
    }
    let identification = u32::from_be(identification);
    headers.src = Addr::v4(src);
    headers.dst = Addr::v4(dst);
    let ttl_protocol = u32::from_be(ttl_protocol);
    headers.protocol = (ttl_protocol >> 16) as u8;
    headers.fragment_protocol = headers.protocol;
    headers.hops = (ttl_protocol >> 24) as u8;
    headers.fragment = fragment_of(identification & 0x1fff, identification & 0x2000 != 0);
    headers.fragment_id = identification >> 16;
    headers.l4 = span.start + header_len;
    headers.total_len = total_len;
    Ok(())
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, span: Span, headers: &mut Headers) -> Result<(), DropReason> {
    let [first, length_next, s0, s1, s2, s3, d0, d1, d2, d3] = packet.read(span.start).ok_or(DropReason::Truncated)?;
    if u32::from_be(first) >> 28 != 6 {
        return Err(DropReason::Malformed);
    }
    let length_next = u32::from_be(length_next);
    headers.total_len = match length_next >> 16 {
        0 => span.available,
        len => len + 40,
    };
    if headers.total_len > span.available {
        return Err(DropReason::Truncated);
    }
    headers.src = Addr::v6([s0, s1, s2, s3]);
    headers.dst = Addr::v6([d0, d1, d2, d3]);
    headers.protocol = (length_next >> 8) as u8;
    headers.hops = length_next as u8;
    headers.l4 = span.start + 40;
    for _ in 0..=MAX_EXTENSIONS {
        if !step_over(packet, headers)? {
            let within = headers.l4 - span.start <= headers.total_len;
            return if within { Ok(()) } else { Err(DropReason::Malformed) };
        }
    }
    Err(DropReason::TooManyHeaders)
}

/// Steps over one IPv6 extension header; false: the transport is reached.
#[inline(always)]
fn step_over<P: Packet>(packet: &P, headers: &mut Headers) -> Result<bool, DropReason> {
    let kind = headers.protocol;
    if headers.fragment == Fragment::Later || !matches!(kind, 0 | 43 | 44 | 51 | 60) {
        return Ok(false);
    }
    let [head, id] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
    let head = u32::from_be(head);
    let length = (head >> 16) & 0xff;
    headers.protocol = (head >> 24) as u8;
    headers.l4 += match kind {
        // Fragment: a length of its own would be reserved bits.
        44 => 8,
        // Authentication: counts words and leaves out two.
        51 => (length + 2) * 4,
        // Hop-by-hop options, routing, destination options: count double words and leave out one.
        _ => (length + 1) * 8,
    };
    if kind == 44 {
        headers.fragment = fragment_of((head >> 3) & 0x1fff, head & 1 != 0);
        headers.fragment_id = id;
        headers.fragment_protocol = headers.protocol;
    }
    Ok(true)
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
pub(super) fn split_ports(word: u32) -> (Be16, Be16) {
    let [a, b, c, d] = word.to_ne_bytes();
    (Be16::from_wire(u16::from_ne_bytes([a, b])), Be16::from_wire(u16::from_ne_bytes([c, d])))
}

/// The word that holds two ports as they lie in a packet.
#[inline(always)]
pub fn join_ports(src: Be16, dst: Be16) -> u32 {
    let ([a, b], [c, d]) = (src.wire().to_ne_bytes(), dst.wire().to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn parse_transport<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    if headers.fragment == Fragment::Later {
        return Ok(());
    }
    let min = match headers.protocol {
        protocol::TCP => TCP_MIN,
        protocol::UDP => UDP_MIN,
        protocol::SCTP => SCTP_MIN,
        protocol::ICMP | protocol::ICMPV6 => ICMP_MIN,
        _ => return Ok(()),
    };
    let segment = headers.total_len - headers.l4;
    if segment < min {
        return Err(DropReason::Truncated);
    }
    let [first, second] = packet.read(headers.l4).ok_or(DropReason::Truncated)?;
    match headers.protocol {
        protocol::ICMP | protocol::ICMPV6 => {
            read_icmp(headers, first, second);
            return Ok(());
        }
        protocol::TCP => {
            let [flags] = packet.read(headers.l4 + 12).ok_or(DropReason::Truncated)?;
            let flags = u32::from_be(flags) >> 16;
            let header_len = (flags >> 12) * 4;
            if header_len < TCP_MIN || header_len > segment {
                return Err(DropReason::Malformed);
            }
            set_tcp_flags(headers, flags as u8);
        }
        protocol::UDP => headers.transport = Transport::Udp,
        _ => {
            headers.transport = Transport::Sctp;
            // Only a packet with an INIT has no verification tag, RFC 9260 section 8.5.1.
            headers.opens = second == 0;
        }
    }
    (headers.src_port, headers.dst_port) = split_ports(first);
    Ok(())
}

/// Reads the first two words of an ICMP message.
#[inline(always)]
fn read_icmp(headers: &mut Headers, first: u32, second: u32) {
    let kind = (u32::from_be(first) >> 24) as u8;
    headers.transport = match (headers.protocol, headers.family, kind) {
        (protocol::ICMP, Family::V4, 8) | (protocol::ICMPV6, Family::V6, 128) => Transport::EchoRequest,
        (protocol::ICMP, Family::V4, 0) | (protocol::ICMPV6, Family::V6, 129) => Transport::EchoReply,
        (protocol::ICMP, Family::V4, 3 | 4 | 5 | 11 | 12) => Transport::IcmpError,
        (protocol::ICMPV6, Family::V6, 0..128) => Transport::IcmpError,
        _ => Transport::Icmp(kind),
    };
    let (identifier, _) = split_ports(second);
    match headers.transport {
        Transport::EchoRequest => headers.src_port = identifier,
        Transport::EchoReply => headers.dst_port = identifier,
        _ => {}
    }
}
