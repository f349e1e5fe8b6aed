//! The fast way: what comes over the wire, met before the kernel makes a socket
//! buffer of it.
//!
//! Invariant: a packet is taken on wholly or left untouched for
//! [`super::from_network`], which judges it by the same decisions. Taken on are whole
//! packets of translated flows that go into a pod of this node or out again by the
//! wire. Where out is, the caller knows, and is asked before anything is changed that
//! asking again would not change in the same way.

use super::{
    Work, names_loopback,
    translate::{self, Prepared},
};
use crate::{
    abi::{Addr, Family, FrontendKey, PodValue},
    masquerade::Sender,
    packet::{
        Packet, checksum,
        headers::{Fragment, Headers, Transport},
        rewrite::{self, Ends},
    },
    tables::Tables,
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

/// Whether a packet may be any of ours: one look-up, of its destination.
#[inline(always)]
pub fn concerns<P: Packet, T: Tables>(packet: &P, family: Family, tables: &T) -> bool {
    let dst = match family {
        Family::V4 => packet.read(16).map(|[word]| Addr::v4(word)),
        Family::V6 => packet.read(24).map(Addr::v6),
    };
    dst.is_some_and(|dst| tables.frontend(&FrontendKey::whole_address(dst)).is_some())
}

/// A packet of which [`concerns`] is true. `way_out` says whether there is a way for
/// a packet with these headers once it has these ends.
#[inline(always)]
pub fn from_wire<P: Packet, T: Tables>(
    packet: &mut P,
    family: Family,
    work: &mut Work,
    tables: &mut T,
    way_out: impl FnOnce(&Headers, &Ends) -> bool,
) -> Taken {
    if work.read(packet, family).is_err() || names_loopback(&work.headers) || !is_plain(packet, &work.headers) {
        return Taken::Untouched;
    }
    let begins = !translate::find_flow(work, tables);
    if begins {
        if translate::prepare(work, tables, Sender::Network) != Prepared::Flow {
            return Taken::Untouched;
        }
        translate::take_place(work);
    }
    let place = place(work, tables, way_out);
    if place == Taken::Untouched || begins && translate::open(work, tables).is_err() {
        return Taken::Untouched;
    }
    // All that is written has been read, so this doesn't fail.
    if translate::apply(packet, work, tables).is_err() {
        return Taken::Untouched;
    }
    if place == Taken::Out && rewrite::take_hop(packet, &mut work.headers).is_err() {
        return Taken::Untouched;
    }
    place
}

/// Where the packet goes with its new ends, if it is not for others to bring it there.
#[inline(always)]
fn place<T: Tables>(work: &Work, tables: &T, way_out: impl FnOnce(&Headers, &Ends) -> bool) -> Taken {
    if work.member.out {
        return if work.headers.hops > 1 && way_out(&work.headers, &work.ends) { Taken::Out } else { Taken::Untouched };
    }
    match tables.pod(&work.ends.dst) {
        // An answer to a pod would be taken for one again on its way into the pod.
        Some(pod) if pod.flags & PodValue::HELD == 0 && !work.member.reverse => Taken::In,
        _ => Taken::Untouched,
    }
}

/// Whether the packet is one that is translated here: all of a TCP, UDP or SCTP
/// packet without IP options, whose checksum is finished.
#[inline(always)]
fn is_plain<P: Packet>(packet: &P, headers: &Headers) -> bool {
    let bare = match headers.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    if headers.fragment != Fragment::Whole || headers.l4 != bare {
        return false;
    }
    match headers.transport {
        Transport::Tcp(_) => !is_partial(packet, headers, bare + 16),
        Transport::Udp => !is_partial(packet, headers, bare + 6),
        // A checksum of 0 is left to the network card.
        Transport::Sctp => packet.read(bare + 8).is_some_and(|[checksum]: [u32; 1]| checksum != 0),
        _ => false,
    }
}

/// Whether the checksum may hold the pseudo-header's sum only, the rest being left to
/// a network card: so it is in packets that never were on a wire. Of finished
/// checksums, two in 65,536 look the same.
#[inline(always)]
fn is_partial<P: Packet>(packet: &P, headers: &Headers, at: u32) -> bool {
    // The checksum is in the first half of a word of TCP's, in the second of UDP's.
    let Some([word]) = packet.read(at & !3) else { return true };
    let [a, b, c, d] = u32::to_ne_bytes(word);
    let found = if at & 3 == 0 { [a, b] } else { [c, d] };
    let found = u32::from(u16::from_ne_bytes(found));
    if found == 0 && headers.transport == Transport::Udp {
        return false;
    }
    let partial = checksum::pseudo_header(headers, headers.total_len - headers.l4, headers.protocol);
    let partial = u32::from(checksum::fold(partial));
    // In one's complement there are two zeros.
    partial % 0xffff == found % 0xffff
}
