//! ICMP errors about translated flows: what they quote, and the quote rewritten.

use super::{
    AccessError, ChecksumOf, Packet,
    checksum::Change,
    headers::{Fragment, Headers, join_ports, parse_quote},
    rewrite::{Ends, write_v4_addresses, write_v6_addresses},
};
use crate::abi::{DropReason, Family};

/// Bytes of an ICMP error before its quote.
const ICMP_HEADER: u32 = 8;

/// The headers of the packet that an ICMP error is about.
///
/// # Errors
/// The reason why the quote can't be read.
#[inline(always)]
pub fn quoted<P: Packet>(packet: &P, headers: &Headers) -> Result<Headers, DropReason> {
    parse_quote(packet, headers.family, headers.l4 + ICMP_HEADER)
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
#[inline(always)]
pub fn rewrite_error<P: Packet>(
    packet: &mut P,
    headers: &mut Headers,
    quote: &Headers,
    ends: &Ends,
) -> Result<(), AccessError> {
    let start = headers.l4 + ICMP_HEADER;
    let swapped = Ends { src: ends.dst, dst: ends.src, src_port: ends.dst_port, dst_port: ends.src_port };
    let mut inside = match quote.family {
        // The quoted header's own checksum takes back what its addresses change.
        Family::V4 => {
            write_v4_addresses(packet, start, &swapped)?;
            Change::NONE
        }
        Family::V6 => write_v6_addresses(packet, start, &swapped)?,
    };
    if quote.fragment != Fragment::Later {
        let ports = join_ports(swapped.src_port, swapped.dst_port);
        inside = inside.word(join_ports(quote.src_port, quote.dst_port), ports);
        packet.write(quote.l4, [ports])?;
    }
    let outer = Ends { src: if headers.src == quote.dst { ends.src } else { headers.src }, ..*ends };
    let checksum_at = headers.l4;
    match headers.family {
        Family::V4 => {
            write_v4_addresses(packet, 0, &outer)?;
        }
        Family::V6 => {
            let addresses = write_v6_addresses(packet, 0, &outer)?;
            let of = ChecksumOf { pseudo_header: true, zero_is_none: false, v6: true };
            packet.adjust_checksum(checksum_at + 2, addresses.sum(), of)?;
        }
    }
    let of = ChecksumOf { pseudo_header: false, zero_is_none: false, v6: headers.family == Family::V6 };
    packet.adjust_checksum(checksum_at + 2, inside.sum(), of)?;
    headers.src = outer.src;
    headers.dst = outer.dst;
    Ok(())
}
