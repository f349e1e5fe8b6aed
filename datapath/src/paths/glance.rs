//! The shortest way: most packets are let through for what their first words say.
//!
//! Invariant: a well-formed packet that is settled here would have got the same verdict by
//! all of its headers. What is wrong behind the IP header is its receiver's to refuse.
//! Nothing is written into the packet, and nothing noted but the verdict.

use super::{Verdict, Work};
use crate::{
    abi::{Addr, Family, PodValue, protocol},
    packet::Packet,
    tables::Tables,
};

/// Bytes of the shortest transport header, UDP's and ICMP's. A length of 0 is what the
/// kernel writes into packets above 64 KiB (BIG TCP).
const SHORTEST: u32 = 8;

/// A packet that a pod sent, or that came over the wire or by the overlay: straight into a
/// pod of this node, if it is for one and answers no translated flow. False: all headers
/// are to be read.
#[inline(always)]
pub fn into_pod<P: Packet, T: Tables>(packet: &P, family: Family, work: &mut Work, tables: &T) -> bool {
    match untranslated(packet, family, tables) {
        Some(pod) => {
            work.verdict = Verdict::ToPod(*pod);
            true
        }
        None => false,
    }
}

/// A packet that the node's stack sends into a pod: on to it, on the same terms.
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(packet: &P, family: Family, work: &mut Work, tables: &T) -> bool {
    work.verdict = Verdict::Pass;
    untranslated(packet, family, tables).is_some()
}

/// The pod of this node that gets the packet as it is. A function of its own, so that the
/// verifier needn't walk on once for every reason not to know one.
#[inline(never)]
fn untranslated<'t, P: Packet, T: Tables>(packet: &P, family: Family, tables: &'t T) -> Option<&'t PodValue> {
    let (dst, suspects) = match family {
        Family::V4 => v4(packet)?,
        Family::V6 => v6(packet)?,
    };
    let pod = tables.pod(&dst)?;
    // One that is held, or whose packets have to pass by a queue, is not for here.
    (pod.flags == 0 && pod.nat_protocols & suspects == 0).then_some(pod)
}

/// The destination and [`super::suspects`] of a whole IPv4 packet without options.
#[inline(always)]
fn v4<P: Packet>(packet: &P) -> Option<(Addr, u32)> {
    const VERSION_AND_LENGTH: u32 = 0x45;
    let [first, fragment, ttl_protocol, _, dst] = packet.glance()?;
    let first = u32::from_be(first);
    // More fragments, and the offset.
    let whole = u32::from_be(fragment) & 0x3fff == 0;
    let total_len = first & 0xffff;
    let sound = first >> 24 == VERSION_AND_LENGTH && total_len >= 20 + SHORTEST && total_len <= packet.available();
    (whole && sound).then(|| (Addr::v4(dst), suspects((u32::from_be(ttl_protocol) >> 16) as u8)))
}

/// The same of an IPv6 packet without extension headers.
#[inline(always)]
fn v6<P: Packet>(packet: &P) -> Option<(Addr, u32)> {
    let [first, length_next, _, _, _, _, d0, d1, d2, d3] = packet.glance()?;
    let length_next = u32::from_be(length_next);
    let next = (length_next >> 8) as u8;
    let bare = matches!(next, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMPV6);
    let payload = length_next >> 16;
    let sound = u32::from_be(first) >> 28 == 6 && payload >= SHORTEST && payload + 40 <= packet.available();
    (bare && sound).then(|| (Addr::v6([d0, d1, d2, d3]), suspects(next)))
}

/// The clients' bits of the protocols that the packet may be about.
#[inline(always)]
const fn suspects(protocol: u8) -> u32 {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => PodValue::client_bit(protocol),
        // An ICMP error is about any.
        _ => PodValue::CLIENT_BITS,
    }
}
