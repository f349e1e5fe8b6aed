//! The shortest way: most packets are let through for what their first words say.
//!
//! Invariant: a well-formed packet that is settled here would have got the same verdict by
//! all of its headers. What is wrong behind the IP header is its receiver's to refuse.
//! Nothing is noted but the verdict, and nothing is written into the packet but the hop that
//! it makes.

use super::{Verdict, Work, to_other_node, translate};
use crate::{
    abi::{Family, NetworkValue, PodValue, protocol},
    packet::{Packet, bare::Bare, headers},
    tables::Tables,
};

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
    let Some(bare) = Bare::read(packet, family) else { return false };
    let suspects = suspects(bare.protocol);
    if let Some(pod) = tables.pod(&bare.dst) {
        work.verdict = Verdict::ToPod(*pod);
        return takes_as_it_is(pod, suspects);
    }
    let ends = suspects | PodValue::servers(suspects);
    if tables.pod(&bare.src).is_none_or(|pod| pod.nat_protocols & ends != 0) {
        return false;
    }
    let Some(network) = tables.network(&bare.dst) else { return false };
    if network.kind != NetworkValue::PODS {
        return false;
    }
    work.headers.family = family;
    work.headers.hops = bare.hops;
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
    let bare = Bare::read(packet, family)?;
    tables.pod(&bare.dst).filter(|pod| takes_as_it_is(pod, suspects(bare.protocol)))
}

/// Whether a pod gets packets of such protocols as they are. One that is held or judged, or
/// whose packets have to pass by a queue, is not for here.
#[inline(always)]
const fn takes_as_it_is(pod: &PodValue, suspects: u32) -> bool {
    pod.flags == 0 && pod.nat_protocols & suspects == 0
}

/// The clients' bits of the protocols that a packet of this one may be about.
#[inline(always)]
const fn suspects(protocol: u8) -> u32 {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => PodValue::client_bit(protocol),
        // An ICMP error is about any.
        _ => PodValue::CLIENT_BITS,
    }
}
