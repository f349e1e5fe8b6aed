//! Whom nobody serves: refused at once, or dropped with a reason.

use datapath::abi::{DropReason, Family, FrontendValue, protocol};

use super::{BACKEND, CLIENT, CLUSTER_IP, PROTOCOLS, SERVICE_PORT, ends, name, service, world_with};
use crate::packets::{
    build::{
        ACK, FIN_ACK, Packet, RST, SYN, SYN_ACK, Transport, echo, icmp, opening, port_unreachable, reset, sctp, tcp,
        udp,
    },
    case::{Case, Expected::*, Program, Program::*},
    place::{FAMILIES, Place},
    world::World,
};

/// A port that the Service doesn't have.
const UNUSED: u16 = 81;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        cases.extend(unused_ports(family));
        cases.push(no_answer(family));
        for protocol in PROTOCOLS {
            cases.extend([
                no_endpoints(protocol, family),
                no_local_endpoint(protocol, family),
                unknown(protocol, family),
                missing_backend(protocol, family),
            ]);
        }
    }
    cases.push(neighbour_redirect());
    cases
}

/// What an ICMP error quotes: the headers and what its receiver finds the socket by.
fn quote(packet: &Packet) -> Vec<u8> {
    let bytes = packet.bytes();
    let len = (packet.network_len() + 20).min(bytes.len()) / 4 * 4;
    bytes[..len].to_vec()
}

/// What refuses a packet.
fn refusal(packet: &Packet) -> Packet {
    let (src, dst) = (packet.src, packet.dst);
    match packet.transport {
        Transport::Tcp { flags, ack, .. } if flags & ACK != 0 => reset(dst, src, RST, ack, 0),
        Transport::Tcp { flags, seq, .. } => {
            let len = packet.payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & 1);
            reset(dst, src, RST | ACK, 0, seq.wrapping_add(len))
        }
        _ => port_unreachable(dst.ip(), src.ip(), &quote(packet)),
    }
}

fn unused_ports(family: Family) -> Vec<Case> {
    let unused = CLUSTER_IP.at(family, UNUSED);
    let clients = [(FromPod, CLIENT.at(family, 4000)), (FromHost, Place::Node.at(family, 4000))];
    let mut cases = Vec::new();
    for (program, client) in clients {
        let mut packets = vec![
            ("SYN", tcp(client, unused, SYN)),
            ("SYN with data", tcp(client, unused, SYN).carrying(b"fast open")),
            ("ACK", tcp(client, unused, ACK)),
            ("SYN-ACK", tcp(client, unused, SYN_ACK)),
            ("FIN-ACK", tcp(client, unused, FIN_ACK)),
            ("FIN", tcp(client, unused, 1)),
            ("no flags at all", tcp(client, unused, 0)),
            ("the highest sequence number", highest_sequence(tcp(client, unused, SYN))),
            ("UDP", udp(client, unused)),
            ("empty UDP", udp(client, unused).carrying(b"")),
            ("long UDP", udp(client, unused).carrying(&[7; 1200])),
            ("UDP without checksum", udp(client, unused).without_checksum()),
            ("SCTP", sctp(client, unused)),
            ("echo", echo(client.ip(), unused.ip())),
            ("port 0", udp(client, CLUSTER_IP.at(family, 0))),
            ("GRE", Packet { transport: Transport::Other(47), ..udp(client, unused) }),
        ];
        match family {
            Family::V4 => packets.extend([
                ("SYN with IPv4 options", tcp(client, unused, SYN).options(&[1; 12])),
                ("UDP with IPv4 options", udp(client, unused).options(&[1; 40])),
            ]),
            Family::V6 => packets.extend([
                ("SYN with an extension header", tcp(client, unused, SYN).extension(60, &[0, 1, 4, 0, 0, 0, 0])),
                ("UDP with an extension header", udp(client, unused).extension(60, &[0, 1, 4, 0, 0, 0, 0])),
            ]),
        }
        for (what, packet) in packets {
            let name = format!("an unused port, {program:?}: {what}, {family:?}");
            let world = world_with(protocol::TCP, BACKEND);
            cases.push(Case::new(name, world).packet(program, &packet, Answer, refusal(&packet)));
        }
    }
    cases
}

fn highest_sequence(mut packet: Packet) -> Packet {
    if let Transport::Tcp { seq, .. } = &mut packet.transport {
        *seq = u32::MAX;
    }
    packet
}

fn no_answer(family: Family) -> Case {
    let client = CLIENT.at(family, 4000);
    let unused = CLUSTER_IP.at(family, UNUSED);
    let [first, later] = udp(client, unused).carrying(&[1; 64]).fragments(32);
    Case::new(format!("what may not be answered: {family:?}"), world_with(protocol::TCP, BACKEND))
        .dropped(FromPod, tcp(client, unused, RST), DropReason::Rejected)
        .dropped(FromPod, tcp(client, unused, RST | ACK), DropReason::Rejected)
        .dropped(FromPod, port_unreachable(client.ip(), unused.ip(), &first), DropReason::Rejected)
        .dropped(FromPod, frame(family, later), DropReason::FragmentOrphan)
}

/// RFC 4443, 2.4 (e.2).
fn neighbour_redirect() -> Case {
    let (client, service) = (CLIENT.ip(Family::V6), CLUSTER_IP.ip(Family::V6));
    Case::new("an ICMPv6 redirect may not be answered", world_with(protocol::TCP, BACKEND)).dropped(
        FromPod,
        icmp(client, service, 137, 0, &[0; 32]),
        DropReason::Rejected,
    )
}

fn frame(family: Family, packet: Vec<u8>) -> crate::packets::case::Frame {
    crate::packets::case::Frame::ip(family, packet)
}

fn no_endpoints(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let node = Place::Node.at(family, 4000);
    let (from_pod, from_node) = (opening(protocol, e.client, e.service), opening(protocol, node, e.service));
    Case::new(format!("no endpoints: {}", name(protocol, family)), World::new().with(service(protocol), &[]))
        .packet(FromPod, &from_pod, Answer, refusal(&from_pod))
        .packet(FromHost, &from_node, Answer, refusal(&from_node))
        .change(move |world| world.set_backends(service(protocol), &[(BACKEND, 8080)]))
        .packet(FromPod, &from_pod, ToPod(BACKEND), from_pod.between(e.client, e.backend))
}

fn no_local_endpoint(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let node = Place::Node.at(family, 4000);
    let world = World::new()
        .with(service(protocol), &[])
        .and(|world| world.frontend(service(protocol), |frontend| frontend.flags = FrontendValue::DROP_INTERNAL));
    Case::new(format!("internalTrafficPolicy Local without endpoint: {}", name(protocol, family)), world)
        .dropped(FromPod, opening(protocol, e.client, e.service), DropReason::NoLocalEndpoint)
        .dropped(FromHost, opening(protocol, node, e.service), DropReason::NoLocalEndpoint)
}

fn unknown(protocol: u8, family: Family) -> Case {
    let nowhere = Place::UnknownClusterIp.at(family, SERVICE_PORT);
    let from = |place: Place, program: Program| (program, opening(protocol, place.at(family, 4000), nowhere));
    let (from_pod, from_node) = (from(CLIENT, FromPod), from(Place::Node, FromHost));
    Case::new(format!("an unknown ClusterIP: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .dropped(from_pod.0, from_pod.1, DropReason::UnknownClusterIp)
        .dropped(from_node.0, from_node.1, DropReason::UnknownClusterIp)
        .dropped(FromPod, echo(CLIENT.ip(family), nowhere.ip()), DropReason::UnknownClusterIp)
        .dropped(
            FromHost,
            opening(protocol, Place::Node.at(family, 4000), Place::Outside.at(family, 80)),
            DropReason::UnknownClusterIp,
        )
        .dropped(FromNetwork, opening(protocol, Place::Outside.at(family, 4000), nowhere), DropReason::UnknownClusterIp)
}

fn missing_backend(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let packet = opening(protocol, e.client, e.service);
    Case::new(format!("a frontend that names no backend: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .change(|world| world.tables.backends.iter_mut().for_each(|backend| backend.flags = 0))
        .dropped(FromPod, &packet, DropReason::BackendMissing)
        .change(|world| world.tables.blocks.iter_mut().for_each(|id| *id = u32::MAX))
        .dropped(FromPod, &packet, DropReason::BackendMissing)
        .change(move |world| world.frontend(service(protocol), |frontend| frontend.internal.base = u32::MAX))
        .dropped(FromPod, &packet, DropReason::BackendMissing)
}
