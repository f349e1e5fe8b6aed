//! The shortest way: most packets are let through for what their first words say.
//!
//! Invariant: a well-formed packet that is settled here would have got the same verdict by
//! all of its headers. What is wrong behind the IP header is its receiver's to refuse. Flows
//! are followed here in which there is nothing to note.

use super::{
    Verdict, Work, to_other_node,
    translate::{self, Changes},
};
use crate::{
    abi::{Family, NetworkValue, PodValue, protocol},
    masquerade::Sender,
    packet::{Packet, bare::Bare, headers},
    tables::Tables,
    track::Steady,
};

/// A packet that a pod sent: as [`into_pod`], or by its flow to wherever that leads, or to
/// another node's pod.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, family: Family, work: &mut Work, tables: &mut T) -> bool {
    let settled = judge_from_pod(packet, family, work, tables);
    if settled && work.changes != Changes::NONE {
        translate::write(packet, work, tables);
    }
    settled
}

#[inline(never)]
fn judge_from_pod<P: Packet, T: Tables>(packet: &P, family: Family, work: &mut Work, tables: &mut T) -> bool {
    work.forget();
    let Some(bare) = Bare::read(packet, family) else { return false };
    if let Some(pod) = tables.pod(&bare.dst).copied() {
        return enters(packet, &bare, &pod, work, tables);
    }
    let suspects = suspects(bare.protocol);
    let Some(nat) = tables.pod(&bare.src).map(|pod| pod.nat_protocols) else { return false };
    if nat & (suspects | PodValue::servers(suspects)) != 0 {
        if !headers::complete(packet, &bare, &mut work.headers) {
            return false;
        }
        match translate::find_steady(work, tables) {
            Steady::Found(_) => return goes(work, tables),
            Steady::Nothing => {}
            Steady::Perhaps => return false,
        }
    }
    let Some(network) = tables.network(&bare.dst) else { return false };
    if network.kind != NetworkValue::PODS {
        return false;
    }
    work.headers.family = family;
    work.headers.hops = bare.hops;
    // Routes are asked by more of the headers.
    if network.tunnel.is_unspecified() && !headers::complete(packet, &bare, &mut work.headers) {
        return false;
    }
    to_other_node(work, network);
    true
}

/// Directs a packet by its flow, and says whether that is all.
#[inline(always)]
fn goes<T: Tables>(work: &mut Work, tables: &mut T) -> bool {
    translate::direct(work, tables, Sender::Pod);
    match &work.verdict {
        Verdict::ToPod(pod) => pod.is_plain(),
        Verdict::Forward => true,
        _ => false,
    }
}

/// Directs a packet into the pod of this node to which it is addressed, and says whether that is all.
#[inline(always)]
fn enters<P: Packet, T: Tables>(packet: &P, bare: &Bare, pod: &PodValue, work: &mut Work, tables: &mut T) -> bool {
    work.verdict = Verdict::ToPod(*pod);
    let suspected = pod.nat_protocols & suspects(bare.protocol) != 0;
    pod.is_plain() && (!suspected || headers::complete(packet, bare, &mut work.headers) && answers(work, tables))
}

/// Undoes the translation of a packet that answers one; false: nobody knows yet whether it does.
#[inline(always)]
fn answers<T: Tables>(work: &mut Work, tables: &mut T) -> bool {
    match translate::find_steady(work, tables) {
        Steady::Found(_) => work.changes.ends = work.member.reverse,
        Steady::Nothing => {}
        Steady::Perhaps => return false,
    }
    true
}

/// A packet that came over the wire or by the overlay: straight into a pod of this node, if
/// it is for one. False: all headers are to be read.
#[inline(always)]
pub fn into_pod<P: Packet, T: Tables>(packet: &mut P, family: Family, work: &mut Work, tables: &mut T) -> bool {
    let settled = judge_into_pod(packet, family, work, tables);
    if settled && work.changes.ends {
        translate::write(packet, work, tables);
    }
    settled
}

/// A function of its own, so that the verifier needn't walk on once for every reason not to
/// know the pod.
#[inline(never)]
fn judge_into_pod<P: Packet, T: Tables>(packet: &P, family: Family, work: &mut Work, tables: &mut T) -> bool {
    work.forget();
    let Some(bare) = Bare::read(packet, family) else { return false };
    let Some(pod) = tables.pod(&bare.dst).copied() else { return false };
    enters(packet, &bare, &pod, work, tables)
}

/// A packet that the node's stack sends into a pod: on to it, if it is to get it as it is. One
/// that is held or judged, or whose packets have to pass by a queue, is not for here, nor is
/// what may be an answer.
#[inline(never)]
pub fn to_pod<P: Packet, T: Tables>(packet: &P, family: Family, work: &mut Work, tables: &T) -> bool {
    work.verdict = Verdict::Pass;
    let Some(bare) = Bare::read(packet, family) else { return false };
    tables.pod(&bare.dst).is_some_and(|pod| pod.is_plain() && pod.nat_protocols & suspects(bare.protocol) == 0)
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
