//! The fast way: what comes over the wire, met before the kernel makes a socket
//! buffer of it.
//!
//! Invariant: a packet is taken on wholly or left untouched for
//! [`super::from_network`], which judges it by the same decisions. Taken on are
//! packets of translated TCP and UDP flows that go into a pod of this node or out again by the
//! wire. Where out is, the caller knows, and is asked before anything is changed that
//! asking again would not change in the same way.

use super::{
    Work, names_loopback,
    translate::{self, Prepared},
};
use crate::{
    abi::{Addr, Family, FlowValue, FrontendKey, PodValue},
    masquerade::Sender,
    packet::{
        Packet, checksum,
        headers::{self, Headers, Transport},
        rewrite::{self, Ends, Plain},
    },
    tables::Tables,
    track::Steady,
};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing: it is as it was.
    Untouched,
    /// It is translated and goes to the pod of this node to which it is addressed.
    In,
    /// It is translated and goes out by the way that was found for it.
    Out,
}

/// Where a packet goes, by its IP header.
#[inline(always)]
pub fn destination<P: Packet>(packet: &P, family: Family) -> Option<Addr> {
    match family {
        Family::V4 => packet.read(16).map(|[word]| Addr::v4(word)),
        Family::V6 => packet.read(24).map(Addr::v6),
    }
}

/// Whether a packet to this address may be any of ours: one look-up.
#[inline(always)]
pub fn concerns<T: Tables>(dst: &Addr, tables: &T) -> bool {
    tables.frontend(&FrontendKey::whole_address(*dst)).is_some()
}

/// A packet to an address of which [`concerns`] is true. `way_out` says whether there is a way for
/// a packet with these headers once it has these ends.
#[inline(always)]
pub fn from_wire<P: Packet, T: Tables>(
    packet: &mut P,
    family: Family,
    work: &mut Work,
    tables: &mut T,
    way_out: impl FnOnce(&Headers, &Ends) -> bool,
) -> Taken {
    if !reads(packet, family, work) {
        return Taken::Untouched;
    }
    let known = match translate::find_steady(work, tables) {
        Steady::Found(_) => Known::Flow,
        Steady::Nothing => Known::Not,
        Steady::Perhaps => look_up(work, tables),
    };
    let begins = known == Known::Not;
    if known == Known::Announced {
        return Taken::Untouched;
    }
    if begins {
        let prepared = translate::prepare(work, tables, Sender::Network);
        // Only at tc there is room for an announcement.
        if prepared != Prepared::Flow || work.flow.forward.flags & FlowValue::DIRECT != 0 {
            return Taken::Untouched;
        }
        translate::take_place(work);
    }
    let place = place(work, tables, way_out);
    if place == Taken::Untouched || begins && translate::open(work, tables).is_err() {
        return Taken::Untouched;
    }
    translate::end_flow(work, tables);
    // All that is written has been read, so this doesn't fail.
    let how = Plain { hop: place == Taken::Out, finished: true };
    match rewrite::rewrite_plain(packet, &mut work.headers, &work.ends, how) {
        Ok(()) => place,
        Err(_) => Taken::Untouched,
    }
}

/// Reads the headers of a packet that is translated here: one like most, whose checksum is
/// finished. (By itself, since the kernel's stack is small.)
#[inline(never)]
fn reads<P: Packet>(packet: &P, family: Family, work: &mut Work) -> bool {
    work.occurred = 0;
    headers::parse_plain(packet, family, &mut work.headers)
        && !names_loopback(&work.headers)
        && !is_partial(packet, &work.headers)
}

/// What is known of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Known {
    /// Nothing.
    Not,
    /// The packet tells another node of it.
    Announced,
    /// What the packet becomes.
    Flow,
}

/// Looks the packet's flow up. (By itself, so that the verifier walks on once.)
#[inline(never)]
fn look_up<T: Tables>(work: &mut Work, tables: &mut T) -> Known {
    if translate::is_announced(work, tables) {
        Known::Announced
    } else if translate::find_flow(work, tables) {
        Known::Flow
    } else {
        Known::Not
    }
}

/// Where the packet goes with its new ends, if it is not for others to bring it there.
#[inline(always)]
fn place<T: Tables>(work: &Work, tables: &T, way_out: impl FnOnce(&Headers, &Ends) -> bool) -> Taken {
    if work.member.out {
        return if work.headers.hops > 1 && way_out(&work.headers, &work.ends) { Taken::Out } else { Taken::Untouched };
    }
    match tables.pod(&work.ends.dst) {
        // An answer to a pod would be taken for one again on its way into the pod, and
        // policies are to see the true client.
        Some(pod) if pod.flags & PodValue::HELD == 0 && !pod.is_judged() && !work.member.reverse => Taken::In,
        _ => Taken::Untouched,
    }
}

/// Whether the checksum may hold the pseudo-header's sum only, the rest being left to
/// a network card: so it is in packets that never were on a wire. Of finished
/// checksums, two in 65,536 look the same.
#[inline(always)]
fn is_partial<P: Packet>(packet: &P, headers: &Headers) -> bool {
    let is_udp = headers.transport == Transport::Udp;
    // It is in the first half of a word of TCP's, in the second of UDP's.
    let Some([word]) = packet.read(headers.l4 + if is_udp { 4 } else { 16 }) else { return true };
    let [a, b, c, d] = u32::to_ne_bytes(word);
    let found = if is_udp { [c, d] } else { [a, b] };
    let found = u32::from(u16::from_ne_bytes(found));
    if found == 0 && is_udp {
        return false;
    }
    let partial = checksum::pseudo_header(headers, headers.total_len - headers.l4, headers.protocol);
    let partial = u32::from(checksum::fold(partial));
    // In one's complement there are two zeros.
    partial % 0xffff == found % 0xffff
}
