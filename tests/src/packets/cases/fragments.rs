//! Fragments: only the first one has ports.

use datapath::abi::{DropReason, Family, protocol};

use super::{BACKEND, CLIENT, OTHER, PROTOCOLS, ends, name, world_with};
use crate::packets::{
    build::{Packet, opening, tcp, udp},
    case::{Case, Expected::*, Frame, Program::*},
    place::FAMILIES,
};

/// Bytes of the transport in the first fragment.
const AT: usize = 32;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in [protocol::TCP, protocol::UDP] {
            cases.extend([both_ways(protocol, family), interleaved(protocol, family)]);
        }
        for protocol in PROTOCOLS {
            cases.extend([orphans(protocol, family), a_first_one_too_short(protocol, family)]);
        }
        cases.extend([sctp_to_the_same_port(family), sctp_to_another_port(family), atomic(family)]);
    }
    cases
}

fn long(protocol: u8, src: std::net::SocketAddr, dst: std::net::SocketAddr, identification: u32) -> Packet {
    let body: Vec<u8> = (0..100).collect();
    let packet = match protocol {
        protocol::TCP => tcp(src, dst, 16),
        _ => opening(protocol, src, dst),
    };
    packet.carrying(&body).identified(identification)
}

fn parts(packet: &Packet) -> [Frame; 2] {
    packet.fragments(AT).map(|bytes| Frame::ip(packet.family(), bytes))
}

fn both_ways(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let out = long(protocol, e.client, e.service, 0x4321);
    let back = long(protocol, e.backend, e.client, 0x4321);
    let [first, later] = parts(&out);
    let [first_to, later_to] = parts(&out.between(e.client, e.backend));
    let [first_back, later_back] = parts(&back);
    let [first_from, later_from] = parts(&back.between(e.service, e.client));
    Case::new(format!("fragments both ways: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromPod, first.clone(), ToPod(BACKEND), first_to.clone())
        .packet(FromPod, later.clone(), ToPod(BACKEND), later_to.clone())
        .packet(FromPod, first_back, ToPod(CLIENT), first_from)
        .packet(FromPod, later_back, ToPod(CLIENT), later_from)
        .packet(FromPod, first, ToPod(BACKEND), first_to)
        .packet(FromPod, later, ToPod(BACKEND), later_to)
}

/// Two datagrams of two flows at once, told apart by their identification.
fn interleaved(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let second_client = CLIENT.at(family, 4001);
    let (one, two) = (long(protocol, e.client, e.service, 1), long(protocol, second_client, e.service, 2));
    let ([a1, a2], [b1, b2]) = (parts(&one), parts(&two));
    let ([a1_to, a2_to], [b1_to, b2_to]) =
        (parts(&one.between(e.client, e.backend)), parts(&two.between(second_client, e.backend)));
    Case::new(format!("fragments of two datagrams: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromPod, a1, ToPod(BACKEND), a1_to)
        .packet(FromPod, b1, ToPod(BACKEND), b1_to)
        .packet(FromPod, b2, ToPod(BACKEND), b2_to)
        .packet(FromPod, a2, ToPod(BACKEND), a2_to)
}

fn orphans(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let [_, later] = parts(&long(protocol, e.client, e.service, 7));
    let [_, direct] = parts(&long(protocol, e.client, e.other, 7));
    Case::new(format!("fragments without a first one: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .dropped(FromPod, later.clone(), DropReason::FragmentOrphan)
        .dropped(FromHost, later, DropReason::FragmentOrphan)
        .same(FromPod, direct, ToPod(OTHER))
}

/// RFC 1858: ports without the rest of the header are a way around a filter.
fn a_first_one_too_short(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let packet = long(protocol, e.client, e.service, 9);
    let too_short = match protocol {
        protocol::TCP => 16,
        protocol::SCTP => 8,
        _ => 0,
    };
    let [first, _] = packet.fragments(too_short);
    Case::new(format!("a first fragment too short: {}", name(protocol, family)), world_with(protocol, BACKEND)).dropped(
        FromPod,
        Frame::ip(family, first),
        DropReason::Truncated,
    )
}

/// The checksum of all of the packet covers the ports, and can't be mended from a part of it.
fn sctp_to_another_port(family: Family) -> Case {
    let e = ends(family);
    let [first, _] = parts(&long(protocol::SCTP, e.client, e.service, 5));
    Case::new(format!("a fragment of SCTP whose ports change: {family:?}"), world_with(protocol::SCTP, BACKEND))
        .dropped(FromPod, first, DropReason::RewriteFailed)
}

fn sctp_to_the_same_port(family: Family) -> Case {
    let service = super::service(protocol::SCTP);
    let world = crate::packets::world::World::new().with(service, &[(BACKEND, service.port)]);
    let e = ends(family);
    let backend = BACKEND.at(family, service.port);
    let out = long(protocol::SCTP, e.client, e.service, 5);
    let [first, later] = parts(&out);
    let [first_to, later_to] = parts(&out.between(e.client, backend));
    Case::new(format!("fragments of SCTP whose ports stay: {family:?}"), world)
        .packet(FromPod, first, ToPod(BACKEND), first_to)
        .packet(FromPod, later, ToPod(BACKEND), later_to)
}

/// A fragment that is all of its datagram, RFC 6946. The header's second byte, a length in others, is reserved.
fn atomic(family: Family) -> Case {
    let e = ends(family);
    let wrapped = |packet: Packet| match family {
        Family::V4 => Frame::from(packet),
        Family::V6 => packet.extension(44, &[0xff, 0, 0, 1, 2, 3, 4]).into(),
    };
    let packet = udp(e.client, e.service);
    Case::new(format!("an atomic fragment: {family:?}"), world_with(protocol::UDP, BACKEND)).packet(
        FromPod,
        wrapped(packet.clone()),
        ToPod(BACKEND),
        wrapped(packet.between(e.client, e.backend)),
    )
}
