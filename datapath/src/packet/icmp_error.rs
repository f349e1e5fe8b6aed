//! ICMP errors about translated flows: what they quote, and the quote rewritten.

use super::{
    AccessError, ChecksumOf, Packet,
    checksum::Change,
    headers::{Fragment, Headers, Transport, join_ports, parse_quote, split_ports},
    rewrite::{Ends, write_v4_addresses, write_v6_addresses},
};
use crate::abi::Family;

/// Bytes of an ICMP error before its quote.
const ICMP_HEADER: u32 = 8;

/// What an ICMP error quotes, as far as rewriting it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Where the word lies that holds the quoted packet's ports or its identifier.
    at: u32,
    /// That word, as it lies in the packet.
    word: u32,
    /// The quoted packet's transport.
    transport: Transport,
    /// The error was sent by the end that the quoted packet was for, not by a
    /// router on the way.
    from_end: bool,
}

impl Quote {
    /// Of nothing.
    pub const EMPTY: Self = Self { at: 0, word: 0, transport: Transport::Other, from_end: false };
}

/// Reads an ICMP error's quote into `inner` ([`Headers::EMPTY`] before). The
/// error travels as the packets do that answer the quoted one. `None`: it quotes
/// no packet of a flow.
#[inline(always)]
pub fn quoted<P: Packet>(packet: &P, headers: &Headers, inner: &mut Headers) -> Option<Quote> {
    parse_quote(packet, headers.family, headers.l4 + ICMP_HEADER, inner).ok()?;
    if inner.fragment == Fragment::Later || !inner.has_flow() {
        return None;
    }
    let at = if inner.has_ports() { inner.l4 } else { inner.l4 + 4 };
    let [word] = packet.read(at)?;
    Some(Quote { at, word, transport: inner.transport, from_end: headers.src == inner.dst })
}

/// Rewrites an ICMP error so that its receiver sees the packet that it sent.
///
/// `ends` are those that a packet travelling the error's way along the flow
/// gets: the quoted packet travelled the other way, so it gets them swapped.
/// The error itself goes to `ends.dst`; its source becomes `ends.src` if the
/// flow's end sent it, and stays if a router on the way did.
///
/// # Errors
/// As for [`super::rewrite::rewrite`].
#[inline(never)]
pub fn rewrite_error<P: Packet>(
    packet: &mut P,
    headers: &mut Headers,
    quote: &Quote,
    ends: &Ends,
) -> Result<(), AccessError> {
    if quote.from_end {
        headers.src = ends.src;
    }
    headers.dst = ends.dst;
    let v6 = headers.family == Family::V6;
    let of = ChecksumOf { pseudo_header: false, zero_is_none: false, v6 };
    let checksum_at = headers.l4 + 2;
    let start = headers.l4 + ICMP_HEADER;
    let (_, sequence) = split_ports(quote.word);
    let word = match quote.transport {
        Transport::EchoRequest => join_ports(ends.dst_port, sequence),
        Transport::EchoReply => join_ports(ends.src_port, sequence),
        _ => join_ports(ends.dst_port, ends.src_port),
    };
    packet.write(quote.at, [word])?;
    packet.adjust_checksum(checksum_at, Change::NONE.word(quote.word, word).sum(), of)?;
    match headers.family {
        Family::V4 => {
            // The quoted header's own checksum takes back what its addresses change.
            write_v4_addresses(packet, start, &ends.dst, &ends.src)?;
            write_v4_addresses(packet, 0, &headers.src, &headers.dst)?;
            Ok(())
        }
        Family::V6 => {
            let inside = write_v6_addresses(packet, start, &ends.dst, &ends.src)?;
            packet.adjust_checksum(checksum_at, inside.sum(), of)?;
            let outside = write_v6_addresses(packet, 0, &headers.src, &headers.dst)?;
            packet.adjust_checksum(checksum_at, outside.sum(), ChecksumOf { pseudo_header: true, ..of })
        }
    }
}
