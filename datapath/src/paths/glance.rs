//! The shortest way: most packets are let through for what their first words say.
//!
//! Invariant: a well-formed packet that is settled here would have got the same verdict by
//! all of its headers. What is wrong behind the IP header is its receiver's to refuse.
//! Nothing is noted but the verdict, and nothing is written into the packet but the hop that
//! it makes.

use super::{Verdict, Work, to_other_node, translate};
use crate::{
    abi::{Addr, Family, NetworkValue, PodValue, protocol},
    packet::{Packet, headers},
    tables::Tables,
};

/// Bytes of the shortest transport header, UDP's and ICMP's. A length of 0 is what the
/// kernel writes into packets above 64 KiB (BIG TCP).
const SHORTEST: u32 = 8;

/// A packet that a pod sent: as [`into_pod`], or to another node's pod, if the sender was
/// never an end of a translated flow.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, family: Family, work: &mut Work, tables: &mut T) -> bool {
    let settled = judge_from_pod(packet, family, work, tables);
    if settled && work.changes.hops {
        translate::write(packet, work, tables);
    }
    settled
}

#[inline(never)]
fn judge_from_pod<P: Packet, T: Tables>(packet: &P, family: Family, work: &mut Work, tables: &T) -> bool {
    work.changes = translate::Changes::NONE;
    let Some(seen) = Seen::of(packet, family) else { return false };
    if let Some(pod) = tables.pod(&seen.dst) {
        work.verdict = Verdict::ToPod(*pod);
        return pod.flags == 0 && pod.nat_protocols & seen.suspects == 0;
    }
    let ends = seen.suspects | seen.suspects << SERVER_BITS;
    if tables.pod(&seen.src).is_none_or(|pod| pod.nat_protocols & ends != 0) {
        return false;
    }
    let Some(network) = tables.network(&seen.dst) else { return false };
    if network.kind != NetworkValue::PODS {
        return false;
    }
    work.headers.family = family;
    work.headers.hops = seen.hops;
    // Routes are asked by more of the headers.
    if network.tunnel.is_unspecified() && !headers::parse_plain(packet, family, &mut work.headers) {
        return false;
    }
    to_other_node(work, network);
    true
}

/// A packet that came over the wire or by the overlay: straight into a pod of this node, if
/// it is for one and answers no translated flow. False: all headers are to be read.
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
    let seen = Seen::of(packet, family)?;
    let pod = tables.pod(&seen.dst)?;
    // One that is held, or whose packets have to pass by a queue, is not for here.
    (pod.flags == 0 && pod.nat_protocols & seen.suspects == 0).then_some(pod)
}

/// By how much [`PodValue::server_bit`] is shifted against [`PodValue::client_bit`].
const SERVER_BITS: u32 = 16;

/// What is seen of a whole packet without options or extension headers.
struct Seen {
    src: Addr,
    dst: Addr,
    hops: u8,
    /// The clients' bits of [`super::suspects`].
    suspects: u32,
}

impl Seen {
    #[inline(always)]
    fn of<P: Packet>(packet: &P, family: Family) -> Option<Self> {
        match family {
            Family::V4 => Self::of_v4(packet),
            Family::V6 => Self::of_v6(packet),
        }
    }

    #[inline(always)]
    fn of_v4<P: Packet>(packet: &P) -> Option<Self> {
        const VERSION_AND_LENGTH: u32 = 0x45;
        let [first, fragment, ttl_protocol, src, dst] = packet.glance()?;
        let first = u32::from_be(first);
        // More fragments, and the offset.
        let whole = u32::from_be(fragment) & 0x3fff == 0;
        let total_len = first & 0xffff;
        let sound = first >> 24 == VERSION_AND_LENGTH && total_len >= 20 + SHORTEST && total_len <= packet.available();
        let ttl_protocol = u32::from_be(ttl_protocol);
        (whole && sound).then(|| Self {
            src: Addr::v4(src),
            dst: Addr::v4(dst),
            hops: (ttl_protocol >> 24) as u8,
            suspects: suspects((ttl_protocol >> 16) as u8),
        })
    }

    #[inline(always)]
    fn of_v6<P: Packet>(packet: &P) -> Option<Self> {
        let [first, length_next, s0, s1, s2, s3, d0, d1, d2, d3] = packet.glance()?;
        let length_next = u32::from_be(length_next);
        let next = (length_next >> 8) as u8;
        let bare = matches!(next, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMPV6);
        let payload = length_next >> 16;
        let sound = u32::from_be(first) >> 28 == 6 && payload >= SHORTEST && payload + 40 <= packet.available();
        (bare && sound).then(|| Self {
            src: Addr::v6([s0, s1, s2, s3]),
            dst: Addr::v6([d0, d1, d2, d3]),
            hops: length_next as u8,
            suspects: suspects(next),
        })
    }
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
