//! Flows that nobody has opened make room for later ones; those that both ends have opened stay.

use datapath::abi::{Beginnings, Family, protocol};

use super::{BACKEND, CLIENT, CLIENT_PORT, ends, name, world_with};
use crate::packets::{
    build::{ACK, FIN_ACK, Packet, RST, SYN, SYN_ACK, answering, opening, sctp_data, tcp},
    case::{Case, Expected::*, Program::*},
    place::FAMILIES,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let e = ends(family);
        let (syn, ack) = (tcp(e.client, e.service, SYN), tcp(e.client, e.service, ACK));
        let from_backend = |flags| tcp(e.backend, e.client, flags);
        for (what, packets, stays) in [
            ("a SYN", vec![&syn], false),
            ("a SYN that is answered", vec![&syn, &from_backend(SYN_ACK)], false),
            ("a SYN that is refused", vec![&syn, &from_backend(RST)], false),
            ("a handshake", vec![&syn, &from_backend(SYN_ACK), &ack], true),
            (
                "what the backend closes",
                vec![&syn, &from_backend(SYN_ACK), &ack, &from_backend(ACK), &from_backend(FIN_ACK)],
                true,
            ),
            ("what was forged, and refused", vec![&ack, &from_backend(RST), &ack], false),
        ] {
            cases.push(after(what, protocol::TCP, family, &packets, stays));
        }
        let (init, data) = (opening(protocol::SCTP, e.client, e.service), sctp_data(e.client, e.service));
        cases.push(after("an INIT", protocol::SCTP, family, &[&init], false));
        cases.push(after("an INIT and what follows it", protocol::SCTP, family, &[&init, &data], true));
    }
    cases
}

/// These packets, and then as many beginnings of other flows as are remembered.
fn after(what: &str, protocol: u8, family: Family, packets: &[&Packet], stays: bool) -> Case {
    let e = ends(family);
    let becomes = if stays { "stays" } else { "makes room" };
    let mut case = Case::new(format!("{what} {becomes}: {}", name(protocol, family)), world_with(protocol, BACKEND));
    for packet in packets {
        case = if packet.src == e.backend {
            case.packet(FromPod, *packet, ToPod(CLIENT), packet.between(e.service, e.client))
        } else {
            case.packet(FromPod, *packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        };
    }
    let later = std::net::SocketAddr::new(e.client.ip(), CLIENT_PORT + 1);
    let next = opening(protocol, later, e.service);
    let answer = answering(protocol, e.backend, e.client);
    case.change(|world| world.tables.beginnings.begun += u64::from(Beginnings::REMEMBERED) - 1)
        .packet(FromPod, &next, ToPod(BACKEND), next.between(later, e.backend))
        .packet(
            FromPod,
            &answer,
            ToPod(CLIENT),
            if stays { answer.between(e.service, e.client) } else { answer.clone() },
        )
}
