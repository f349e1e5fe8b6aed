//! ICMP errors about translated flows: their receiver must recognise the packet that it sent.

use datapath::abi::{Family, protocol};

use super::{
    BACKEND, BACKEND_PORT, CLIENT, CLIENT_PORT, CLUSTER_IP, OTHER, PROTOCOLS, SERVICE_PORT, ends, name, world_with,
};
use crate::packets::{
    build::{Packet, answering, icmp, opening, port_unreachable, too_big, udp},
    case::{Case, Expected::*, Frame, Program::*},
    place::{FAMILIES, Place},
    world::SNAT_PORT,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend([
                to_the_client(protocol, family),
                to_the_backend(protocol, family),
                to_the_node(protocol, family),
                through_itself(protocol, family),
                with_longer_headers(protocol, family),
            ]);
            cases.extend(short_quotes(protocol, family));
        }
        cases.extend([about_fragments(family), about_something_else(family), of_every_kind(family)]);
    }
    cases
}

/// The packet, cut to its network header and `more` bytes.
fn quote(packet: &Packet, more: usize) -> Vec<u8> {
    packet.bytes()[..packet.network_len() + more].to_vec()
}

/// What a quote of `arrived` becomes: `sent` by its addresses and ports, and otherwise as it arrived,
/// with the transport's checksum, which nobody reads in a quote.
fn requote(sent: &Packet, arrived: &Packet, more: usize) -> Vec<u8> {
    let mut quoted = quote(sent, more);
    let ports_end = sent.network_len() + 4;
    quoted[ports_end..].copy_from_slice(&quote(arrived, more)[ports_end..]);
    quoted
}

/// From a backend's end, and from a router on the way.
fn to_the_client(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let remote = Place::RemotePod.at(family, BACKEND_PORT);
    let sent = opening(protocol, e.client, e.service);
    let arrived = sent.between(e.client, remote);
    let router = Place::Router.ip(family);
    let client = e.client.ip();
    Case::new(format!("an error to the client: {}", name(protocol, family)), world_with(protocol, Place::RemotePod))
        .packet(FromPod, &sent, Forward, arrived.hop())
        .packet(
            FromNetwork,
            port_unreachable(remote.ip(), client, &quote(&arrived, 8)),
            ToPod(CLIENT),
            port_unreachable(e.service.ip(), client, &requote(&sent, &arrived, 8)),
        )
        .packet(
            FromNetwork,
            too_big(router, client, &quote(&arrived, 8)),
            ToPod(CLIENT),
            too_big(router, client, &requote(&sent, &arrived, 8)),
        )
        .packet(
            NodeToPod,
            too_big(Place::Node.ip(family), client, &quote(&arrived, 8)),
            Pass,
            too_big(Place::Node.ip(family), client, &requote(&sent, &arrived, 8)),
        )
}

fn to_the_backend(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let sent = opening(protocol, e.client, e.service);
    let answer = answering(protocol, e.backend, e.client);
    let arrived = answer.between(e.service, e.client);
    Case::new(format!("an error to the backend: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromPod, &sent, ToPod(BACKEND), sent.between(e.client, e.backend))
        .packet(FromPod, &answer, ToPod(CLIENT), &arrived)
        .packet(
            FromPod,
            port_unreachable(e.client.ip(), e.service.ip(), &quote(&arrived, 8)),
            ToPod(BACKEND),
            port_unreachable(e.client.ip(), e.backend.ip(), &requote(&answer, &arrived, 8)),
        )
}

fn to_the_node(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let node = Place::Node.at(family, CLIENT_PORT);
    let sent = opening(protocol, node, e.service);
    let arrived = sent.between(node, e.backend);
    Case::new(format!("an error to the node: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromHost, &sent, ToPod(BACKEND), &arrived)
        .packet(
            FromPod,
            port_unreachable(e.backend.ip(), node.ip(), &quote(&arrived, 8)),
            Pass,
            port_unreachable(e.service.ip(), node.ip(), &requote(&sent, &arrived, 8)),
        )
}

/// Addresses and ports both change here.
fn through_itself(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let itself = CLIENT.at(family, BACKEND_PORT);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let sent = opening(protocol, e.client, e.service);
    let arrived = sent.between(hidden, itself);
    let answer = answering(protocol, itself, hidden);
    let answered = answer.between(e.service, e.client);
    Case::new(format!("an error of a pod to itself: {}", name(protocol, family)), world_with(protocol, CLIENT))
        .packet(FromPod, &sent, ToPod(CLIENT), &arrived)
        .packet(
            FromPod,
            port_unreachable(itself.ip(), hidden.ip(), &quote(&arrived, 8)),
            ToPod(CLIENT),
            port_unreachable(e.service.ip(), e.client.ip(), &requote(&sent, &arrived, 8)),
        )
        .packet(FromPod, &answer, ToPod(CLIENT), &answered)
        .packet(
            FromPod,
            port_unreachable(e.client.ip(), e.service.ip(), &quote(&answered, 8)),
            ToPod(CLIENT),
            port_unreachable(hidden.ip(), itself.ip(), &requote(&answer, &answered, 8)),
        )
}

/// Options and extension headers, outside and in the quote.
fn with_longer_headers(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let longer = |packet: Packet| match family {
        Family::V4 => packet.options(&[1; 8]),
        Family::V6 => packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]),
    };
    let sent = longer(opening(protocol, e.client, e.service));
    let arrived = sent.between(e.client, e.backend);
    Case::new(format!("an error with longer headers: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromPod, &sent, ToPod(BACKEND), &arrived)
        .packet(
            FromPod,
            longer(port_unreachable(e.backend.ip(), e.client.ip(), &quote(&arrived, 16))),
            ToPod(CLIENT),
            longer(port_unreachable(e.service.ip(), e.client.ip(), &requote(&sent, &arrived, 16))),
        )
}

/// A quote of which the ports are there is translated, a shorter one is delivered as it is.
fn short_quotes(protocol: u8, family: Family) -> Vec<Case> {
    let e = ends(family);
    let sent = opening(protocol, e.client, e.service);
    let arrived = sent.between(e.client, e.backend);
    let all = arrived.bytes();
    let network = arrived.network_len();
    let lengths = (0..4).map(|more| network + more).chain([0, 4, 19, network - 1]);
    let short = lengths.map(|len| {
        let error = port_unreachable(e.backend.ip(), e.client.ip(), &all[..len]);
        let name = format!("an error that quotes {len} bytes: {}", name(protocol, family));
        Case::new(name, world_with(protocol, BACKEND)).packet(FromPod, &sent, ToPod(BACKEND), &arrived).same(
            FromPod,
            error,
            ToPod(CLIENT),
        )
    });
    let long = [4, 7, all.len() - network].map(|more| {
        let name = format!("an error that quotes {more} bytes of the transport: {}", name(protocol, family));
        Case::new(name, world_with(protocol, BACKEND)).packet(FromPod, &sent, ToPod(BACKEND), &arrived).packet(
            FromPod,
            port_unreachable(e.backend.ip(), e.client.ip(), &quote(&arrived, more)),
            ToPod(CLIENT),
            port_unreachable(e.service.ip(), e.client.ip(), &requote(&sent, &arrived, more)),
        )
    });
    short.chain(long).collect()
}

fn about_fragments(family: Family) -> Case {
    let e = ends(family);
    let sent = udp(e.client, e.service).carrying(&[3; 64]).identified(77);
    let arrived = sent.between(e.client, e.backend);
    let ([first, later], [first_to, later_to]) = (sent.fragments(32), arrived.fragments(32));
    let error = |from, quote: &[u8]| icmp_time_exceeded(from, e.client.ip(), quote);
    let ip = |bytes: &[u8]| Frame::ip(family, bytes.to_vec());
    Case::new(format!("an error about a fragment: {family:?}"), world_with(protocol::UDP, BACKEND))
        .packet(FromPod, ip(&first), ToPod(BACKEND), ip(&first_to))
        .packet(FromPod, ip(&later), ToPod(BACKEND), ip(&later_to))
        .packet(
            FromPod,
            error(e.backend.ip(), &first_to),
            ToPod(CLIENT),
            error(e.service.ip(), &quoted_first(&first, &first_to)),
        )
        .same(FromPod, error(e.backend.ip(), &later_to), ToPod(CLIENT))
}

/// The first fragment as its sender knows it, but for the transport's checksum.
fn quoted_first(sent: &[u8], arrived: &[u8]) -> Vec<u8> {
    let at = sent.len() - 32 + 6;
    let mut quote = sent.to_vec();
    quote[at..at + 2].copy_from_slice(&arrived[at..at + 2]);
    quote
}

fn icmp_time_exceeded(src: std::net::IpAddr, dst: std::net::IpAddr, quote: &[u8]) -> Packet {
    icmp(src, dst, if src.is_ipv4() { 11 } else { 3 }, 1, quote)
}

/// Errors about packets of no flow go where they are for.
fn about_something_else(family: Family) -> Case {
    let e = ends(family);
    let sent = opening(protocol::TCP, e.client, e.service);
    let direct = udp(CLIENT.at(family, 9), OTHER.at(family, 9));
    let ping = icmp(e.client.ip(), OTHER.ip(family), if family == Family::V4 { 8 } else { 128 }, 0, &[0; 16]);
    let outside = Place::Outside.ip(family);
    let world = world_with(protocol::TCP, BACKEND);
    Case::new(format!("an error about something else: {family:?}"), world)
        .packet(FromPod, &sent, ToPod(BACKEND), sent.between(e.client, e.backend))
        .same(FromPod, port_unreachable(OTHER.ip(family), e.client.ip(), &direct.bytes()), ToPod(CLIENT))
        .same(FromNetwork, port_unreachable(outside, e.client.ip(), &ping.bytes()), ToPod(CLIENT))
        .same(FromPod, port_unreachable(e.client.ip(), outside, &direct.bytes()), Pass)
        .same(FromNetwork, port_unreachable(outside, Place::Node.ip(family), &direct.bytes()), Pass)
        .same(FromPod, port_unreachable(OTHER.ip(family), e.client.ip(), &[0x99; 48]), ToPod(CLIENT))
}

/// Every type of error that quotes a packet.
fn of_every_kind(family: Family) -> Case {
    let e = ends(family);
    let sent = opening(protocol::UDP, e.client, e.service);
    let arrived = sent.between(e.client, e.backend);
    let kinds: &[u8] = match family {
        Family::V4 => &[3, 4, 5, 11, 12],
        Family::V6 => &[1, 2, 3, 4, 100, 127],
    };
    let case = Case::new(format!("errors of every kind: {family:?}"), world_with(protocol::UDP, BACKEND)).packet(
        FromPod,
        &sent,
        ToPod(BACKEND),
        &arrived,
    );
    let service = CLUSTER_IP.at(family, SERVICE_PORT).ip();
    kinds.iter().fold(case, |case, kind| {
        case.packet(
            FromPod,
            icmp(e.backend.ip(), e.client.ip(), *kind, 0, &quote(&arrived, 4)),
            ToPod(CLIENT),
            icmp(service, e.client.ip(), *kind, 0, &requote(&sent, &arrived, 4)),
        )
    })
}
