//! Turning a packet into the answer that refuses it: a TCP RST (RFC 9293,
//! 3.5.2) or an ICMP error: port unreachable (RFC 1122, 3.2.2.1 and RFC 4443, 3.1),
//! or too big.
//!
//! The quote in an ICMP error is the header and what its receiver needs to find
//! the socket: the ports, and the tag of SCTP's INIT chunk.

use super::{
    AccessError, Packet, checksum,
    headers::{Fragment, Headers, Transport, join_ports, tcp_flags},
};
use crate::abi::{Family, protocol};

const V4_HEADER: u32 = 20;
const V6_HEADER: u32 = 40;
const ICMP_HEADER: u32 = 8;
const TCP_HEADER: u32 = 20;
/// An ICMPv6 redirect counts as an error here, RFC 4443 section 2.4 (e.2).
const ICMPV6_REDIRECT: u8 = 137;
const TTL: u32 = 64;
/// Of the word with an IPv4 header's identification and fragment offset.
const DONT_FRAGMENT: u32 = 0x4000;

/// Bytes that are quoted after the IP header: as far as the tag of the INIT chunk
/// in an SCTP packet, RFC 9260 section 3.3.2.
const QUOTED_TRANSPORT: u32 = 20;

/// The longest quote in words: the longest IPv4 header and the transport's part,
/// or an IPv6 header with as much of extension headers.
const MAX_QUOTE_WORDS: u32 = 32;

/// What became of a packet that was to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The packet is the answer now.
    Ready,
    /// Nothing may be answered to such a packet (a RST, an ICMP error or redirect, a later fragment).
    Silence,
}

/// Turns the packet into a refusal addressed to its sender.
///
/// # Errors
/// The packet could not be changed; drop it.
#[inline(always)]
pub fn reject<P: Packet>(packet: &mut P, headers: &Headers) -> Result<Answer, AccessError> {
    if headers.fragment == Fragment::Later {
        return Ok(Answer::Silence);
    }
    match headers.transport {
        Transport::Tcp(flags) if flags & tcp_flags::RST != 0 => Ok(Answer::Silence),
        Transport::Tcp(flags) => reset(packet, headers, flags),
        Transport::IcmpError => Ok(Answer::Silence),
        Transport::Icmp(kind) if headers.family == Family::V6 && kind == ICMPV6_REDIRECT => Ok(Answer::Silence),
        _ => unreachable_port(packet, headers),
    }
}

/// Turns the packet into the answer that a shorter one would get through (RFC 1191,
/// RFC 8201), if its sender wants to know.
///
/// # Errors
/// As for [`reject`].
#[inline(always)]
pub fn too_big<P: Packet>(packet: &mut P, headers: &Headers, mtu: u16) -> Result<Answer, AccessError> {
    if headers.fragment == Fragment::Later || headers.transport == Transport::IcmpError {
        return Ok(Answer::Silence);
    }
    let mtu = u32::from(mtu);
    match headers.family {
        Family::V4 => {
            let [identification] = packet.read(4).ok_or(AccessError)?;
            if u32::from_be(identification) & DONT_FRAGMENT == 0 {
                return Ok(Answer::Silence);
            }
            answer_icmp(packet, headers, 3 << 24 | 4 << 16, mtu)
        }
        Family::V6 => answer_icmp(packet, headers, 2 << 24, mtu),
    }
}

#[inline(never)]
fn reset<P: Packet>(packet: &mut P, headers: &Headers, flags: u8) -> Result<Answer, AccessError> {
    let [_, seq, ack, offset_flags] = packet.read(headers.l4).ok_or(AccessError)?;
    let data_offset = (u32::from_be(offset_flags) >> 28) * 4;
    let (seq, ack, answer_flags) = if flags & tcp_flags::ACK != 0 {
        (ack, 0, tcp_flags::RST)
    } else {
        let data = headers.total_len.wrapping_sub(headers.l4).wrapping_sub(data_offset);
        let syn = u32::from(flags & tcp_flags::SYN != 0);
        let fin = u32::from(flags & tcp_flags::FIN != 0);
        let next = u32::from_be(seq).wrapping_add(data).wrapping_add(syn).wrapping_add(fin);
        (0, next.to_be(), tcp_flags::RST | tcp_flags::ACK)
    };
    let header = match headers.family {
        Family::V4 => V4_HEADER,
        Family::V6 => V6_HEADER,
    };
    let ports = join_ports(headers.dst_port, headers.src_port);
    let shape = (5 << 28 | u32::from(answer_flags) << 16).to_be();
    let mut segment = [ports, seq, ack, shape, 0];
    let mut sum = checksum::pseudo_header(headers, TCP_HEADER, protocol::TCP);
    for word in segment {
        sum = checksum::add(sum, word);
    }
    segment[4] = u32::from_ne_bytes({
        let [a, b] = (!checksum::fold(sum)).to_ne_bytes();
        [a, b, 0, 0]
    });
    packet.truncate(header + TCP_HEADER)?;
    write_ip_header(packet, headers, TCP_HEADER, protocol::TCP)?;
    packet.write(header, segment)?;
    Ok(Answer::Ready)
}

#[inline(always)]
fn unreachable_port<P: Packet>(packet: &mut P, headers: &Headers) -> Result<Answer, AccessError> {
    match headers.family {
        Family::V4 => answer_icmp(packet, headers, 3 << 24 | 3 << 16, 0),
        Family::V6 => answer_icmp(packet, headers, 1 << 24 | 4 << 16, 0),
    }
}

/// Answers with an ICMP error of a type and code (the upper half of `kind`) and what
/// the type puts into its second word.
#[inline(never)]
fn answer_icmp<P: Packet>(packet: &mut P, headers: &Headers, kind: u32, word: u32) -> Result<Answer, AccessError> {
    let quote_words = ((headers.l4 + QUOTED_TRANSPORT).min(headers.total_len) / 4).min(MAX_QUOTE_WORDS);
    let quote = quote_words * 4;
    packet.truncate(quote)?;
    let (header, icmp) = match headers.family {
        Family::V4 => (V4_HEADER, protocol::ICMP),
        Family::V6 => (V6_HEADER, protocol::ICMPV6),
    };
    let mut sum = match headers.family {
        Family::V4 => 0,
        Family::V6 => checksum::pseudo_header(headers, ICMP_HEADER + quote, icmp),
    };
    sum = checksum::add(checksum::add(sum, kind.to_be()), word.to_be());
    for i in 0..MAX_QUOTE_WORDS {
        if i >= quote_words {
            break;
        }
        let [word] = packet.read(i * 4).ok_or(AccessError)?;
        sum = checksum::add(sum, word);
    }
    let [a, b] = (!checksum::fold(sum)).to_ne_bytes();
    let [k, c, ..] = kind.to_be_bytes();
    packet.prepend(header + ICMP_HEADER)?;
    write_ip_header(packet, headers, ICMP_HEADER + quote, icmp)?;
    packet.write(header, [u32::from_ne_bytes([k, c, a, b]), word.to_be()])?;
    Ok(Answer::Ready)
}

/// Writes the answer's IP header: addresses swapped, no options.
#[inline(always)]
fn write_ip_header<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    payload: u32,
    protocol: u8,
) -> Result<(), AccessError> {
    match headers.family {
        Family::V4 => {
            let (src, dst) = (headers.dst.v4_word(), headers.src.v4_word());
            let mut words = [
                (0x4500_0000 | (V4_HEADER + payload)).to_be(),
                DONT_FRAGMENT.to_be(),
                (TTL << 24 | u32::from(protocol) << 16).to_be(),
                src,
                dst,
            ];
            let mut sum = 0;
            for word in words {
                sum = checksum::add(sum, word);
            }
            let [a, b] = (!checksum::fold(sum)).to_ne_bytes();
            let [ttl, proto, ..] = words[2].to_ne_bytes();
            words[2] = u32::from_ne_bytes([ttl, proto, a, b]);
            packet.write(0, words)
        }
        Family::V6 => {
            let (s, d) = (headers.dst.0, headers.src.0);
            packet.write(
                0,
                [
                    0x6000_0000u32.to_be(),
                    (payload << 16 | u32::from(protocol) << 8 | TTL).to_be(),
                    s[0],
                    s[1],
                    s[2],
                    s[3],
                    d[0],
                    d[1],
                    d[2],
                    d[3],
                ],
            )
        }
    }
}
