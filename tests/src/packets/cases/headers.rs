//! Headers of every shape: options, extension headers, odd checksums, cut and forged packets.

use datapath::abi::{DropReason, Family, protocol};

use super::{BACKEND, CLIENT, OTHER, PROTOCOLS, ends, name, world_with};
use crate::packets::{
    build::{Packet, echo, opening, tcp, udp},
    case::{Case, Expected, Expected::*, Frame, Program::*},
    check,
    place::{FAMILIES, Place},
};

/// Extension headers that are stepped over, by number: hop-by-hop options,
/// routing (with no segments left), destination options, authentication.
const EXTENSIONS: [(u8, &[u8]); 4] = [
    (0, &[0, 1, 4, 0, 0, 0, 0]),
    (43, &[0, 4, 0, 0, 0, 0, 0]),
    (60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (51, &[4, 0, 0, 1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
];

/// How many extension headers may stand in a row.
const MOST_EXTENSIONS: usize = 6;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in PROTOCOLS {
        cases.extend((1..=10).map(|words| v4_options(protocol, words)));
        cases.extend(EXTENSIONS.map(|extension| v6_extensions(protocol, &[extension])));
        cases.push(v6_extensions(protocol, &EXTENSIONS));
        cases.push(v6_extensions(protocol, &[EXTENSIONS[2]; MOST_EXTENSIONS]));
        cases.push(too_many_extensions(protocol));
        for family in FAMILIES {
            cases.extend([without_total_length(protocol, family), with_a_trailer(protocol, family)]);
            cases.extend(cut_short(opening(protocol, ends(family).client, ends(family).service)));
        }
    }
    for family in FAMILIES {
        let e = ends(family);
        cases.extend(forged(family));
        cases.extend(cut_short(echo(e.client.ip(), e.backend.ip())));
        cases.push(becomes_zero(family));
    }
    cases.push(no_checksum());
    cases.push(sctp_checksum_left_to_the_card());
    cases
}

fn translated(what: String, protocol: u8, first: &Packet) -> Case {
    let e = ends(first.family());
    Case::new(what, world_with(protocol, BACKEND))
        .packet(FromPod, first, ToPod(BACKEND), first.between(e.client, e.backend))
        .packet(FromPod, first.between(e.backend, e.client), ToPod(CLIENT), first.between(e.service, e.client))
}

fn v4_options(protocol: u8, words: usize) -> Case {
    let e = ends(Family::V4);
    let packet = opening(protocol, e.client, e.service).options(&vec![1; words * 4]);
    translated(format!("{words} words of IPv4 options: {}", name(protocol, Family::V4)), protocol, &packet)
}

fn extended(packet: Packet, extensions: &[(u8, &[u8])]) -> Packet {
    extensions.iter().fold(packet, |packet, (number, body)| packet.extension(*number, body))
}

fn v6_extensions(protocol: u8, extensions: &[(u8, &[u8])]) -> Case {
    let e = ends(Family::V6);
    let packet = extended(opening(protocol, e.client, e.service), extensions);
    let numbers: Vec<u8> = extensions.iter().map(|(number, _)| *number).collect();
    translated(format!("extension headers {numbers:?}: {}", name(protocol, Family::V6)), protocol, &packet)
}

fn too_many_extensions(protocol: u8) -> Case {
    let e = ends(Family::V6);
    let packet = extended(opening(protocol, e.client, e.service), &[EXTENSIONS[2]; MOST_EXTENSIONS + 1]);
    Case::new(format!("too many extension headers: {}", name(protocol, Family::V6)), world_with(protocol, BACKEND))
        .dropped(FromPod, &packet, DropReason::TooManyHeaders)
        .dropped(FromNetwork, &packet, DropReason::TooManyHeaders)
}

/// Above 64 KiB the length doesn't fit, and the kernel writes 0 (BIG TCP). The length isn't in the
/// transport's checksum, so all else is as ever.
fn without_total_length(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let first = opening(protocol, e.client, e.service);
    let big = |packet: &Packet| {
        let mut bytes = packet.bytes();
        match family {
            Family::V4 => {
                bytes[2..4].fill(0);
                bytes[10..12].fill(0);
                let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[..20]).ones_complement();
                bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
            }
            Family::V6 => bytes[4..6].fill(0),
        }
        Frame::ip(family, bytes)
    };
    Case::new(format!("no total length: {}", name(protocol, family)), world_with(protocol, BACKEND)).packet(
        FromPod,
        big(&first),
        ToPod(BACKEND),
        big(&first.between(e.client, e.backend)),
    )
}

/// Ethernet pads short frames.
fn with_a_trailer(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let first = opening(protocol, e.client, e.service);
    let padded = |packet: &Packet| Frame::ip(family, [packet.bytes(), vec![0xee; 17]].concat());
    Case::new(format!("padding after the packet: {}", name(protocol, family)), world_with(protocol, BACKEND)).packet(
        FromPod,
        padded(&first),
        ToPod(BACKEND),
        padded(&first.between(e.client, e.backend)),
    )
}

/// The packet cut at each byte of its headers, first as a cable would do it, then by somebody who
/// mends the length too.
fn cut_short(packet: Packet) -> Vec<Case> {
    let family = packet.family();
    let network = packet.network_len();
    let transport = match packet.protocol() {
        protocol::TCP => 20,
        protocol::SCTP => 12,
        _ => 8,
    };
    let whole = packet.bytes();
    (0..network + transport)
        .map(|len| {
            let cut = whole[..len].to_vec();
            let world = world_with(packet.protocol(), BACKEND);
            let name = format!("protocol {} cut to {len} bytes: {family:?}", packet.protocol());
            let mut case = Case::new(name, world);
            for program in [FromPod, FromHost, FromNetwork] {
                case = case.dropped(program, Frame::ip(family, cut.clone()), DropReason::Truncated);
            }
            // A length of 0 is no length.
            if len > network {
                let mut mended = cut;
                match family {
                    Family::V4 => mended[2..4].copy_from_slice(&(len as u16).to_be_bytes()),
                    Family::V6 => mended[4..6].copy_from_slice(&((len - network) as u16).to_be_bytes()),
                }
                case = case.dropped(FromPod, Frame::ip(family, mended), DropReason::Truncated);
            }
            case
        })
        .collect()
}

/// One forged byte or more, and what becomes of the packet then.
fn forged(family: Family) -> Vec<Case> {
    let e = ends(family);
    type Forgery = (&'static str, usize, &'static [u8], Expected);
    let v4: [Forgery; 8] = [
        ("version 0", 0, &[0x05], Drop(DropReason::Malformed)),
        ("version 6", 0, &[0x65], Drop(DropReason::Malformed)),
        ("no header length", 0, &[0x40], Drop(DropReason::Malformed)),
        ("a short header length", 0, &[0x44], Drop(DropReason::Malformed)),
        ("a header longer than the packet", 2, &[0, 19], Drop(DropReason::Malformed)),
        ("options beyond the end", 0, &[0x4f], Drop(DropReason::Malformed)),
        ("a total length beyond the end", 2, &[0xff, 0xff], Drop(DropReason::Truncated)),
        ("a total length one beyond the end", 2, &[0, 41], Drop(DropReason::Truncated)),
    ];
    let v6: [Forgery; 6] = [
        ("version 0", 0, &[0x00], Drop(DropReason::Malformed)),
        ("version 4", 0, &[0x45], Drop(DropReason::Malformed)),
        ("a payload length beyond the end", 4, &[0xff, 0xff], Drop(DropReason::Truncated)),
        ("a payload length one beyond the end", 4, &[0, 21], Drop(DropReason::Truncated)),
        ("an extension header beyond the end", 6, &[60], Drop(DropReason::Malformed)),
        ("a payload length within the header", 4, &[0, 1], Drop(DropReason::Truncated)),
    ];
    let l4 = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    let tcp_forgeries: [Forgery; 3] = [
        ("no TCP header length", l4 + 12, &[0x00], Drop(DropReason::Malformed)),
        ("a short TCP header length", l4 + 12, &[0x40], Drop(DropReason::Malformed)),
        ("a TCP header beyond the end", l4 + 12, &[0x60], Drop(DropReason::Malformed)),
    ];
    let network = match family {
        Family::V4 => &v4[..],
        Family::V6 => &v6[..],
    };
    network
        .iter()
        .chain(&tcp_forgeries)
        .map(|(what, at, bytes, expected)| {
            let mut packet = opening(protocol::TCP, e.client, e.service).bytes();
            // The extension header that isn't there would have had the TCP header's bytes.
            if packet.len() > l4 + 1 && *what == "an extension header beyond the end" {
                packet[l4 + 1] = 0xff;
            }
            packet[*at..at + bytes.len()].copy_from_slice(bytes);
            let case = Case::new(format!("forged: {what}, {family:?}"), world_with(protocol::TCP, BACKEND));
            case.same(FromPod, Frame::ip(family, packet.clone()), *expected).same(
                FromNetwork,
                Frame::ip(family, packet),
                *expected,
            )
        })
        .collect()
}

/// UDP over IPv4 may go without a checksum; it must not get half of one.
fn no_checksum() -> Case {
    let e = ends(Family::V4);
    let packet = udp(e.client, e.service).without_checksum();
    translated("UDP without checksum stays without".into(), protocol::UDP, &packet)
}

/// A UDP checksum that comes out as 0 is written as 0xffff: 0 would say that there is none.
fn becomes_zero(family: Family) -> Case {
    let e = ends(family);
    let packet = (0..=u16::MAX)
        .map(|word| udp(e.client, e.service).carrying(&word.to_be_bytes()))
        .find(|packet| checksum(&packet.between(e.client, e.backend)) == [0xff, 0xff])
        .expect("one payload of all that there are has this checksum");
    translated(format!("a UDP checksum that becomes 0: {family:?}"), protocol::UDP, &packet)
}

fn checksum(packet: &Packet) -> [u8; 2] {
    let seen = check::Seen::read(&packet.bytes()).expect("it was built so");
    [seen.segment[6], seen.segment[7]]
}

/// SCTP's checksum is 0 while it is left to the network card, which computes it over what is there.
fn sctp_checksum_left_to_the_card() -> Case {
    let e = ends(Family::V4);
    let left = |packet: Packet| {
        let mut bytes = packet.bytes();
        bytes[28..32].fill(0);
        Frame::ip(Family::V4, bytes)
    };
    let first = opening(protocol::SCTP, e.client, e.service);
    Case::new("an SCTP checksum left to the network card", world_with(protocol::SCTP, BACKEND)).packet(
        FromPod,
        left(first.clone()),
        ToPod(BACKEND),
        left(first.between(e.client, e.backend)),
    )
}

/// What else comes along: everything that isn't IP passes, and IP that is for nobody here.
pub fn strangers() -> Vec<Case> {
    let mut cases = Vec::new();
    for program in crate::packets::case::Program::ALL {
        for ethertype in [0x0806, 0x8100, 0x88cc, 0x0000, 0x05dc] {
            let frame = Frame { ethertype, packet: vec![0x5a; 60] };
            let name = format!("EtherType {ethertype:04x}, {program:?}");
            cases.push(Case::new(name, world_with(protocol::TCP, BACKEND)).same(program, frame, Pass));
        }
    }
    for family in FAMILIES {
        let outside = Place::Outside.at(family, 443);
        let packet = tcp(CLIENT.at(family, 4000), outside, 2);
        let back = tcp(outside, CLIENT.at(family, 4000), 18);
        cases.push(
            Case::new(format!("to the world and back: {family:?}"), world_with(protocol::TCP, OTHER))
                .same(FromPod, &packet, Pass)
                .same(FromNetwork, &back, ToPod(CLIENT))
                .same(ForwardedToPod, &back, Pass),
        );
    }
    cases
}
