//! `--load-balancer-mode=dsr`: at the node that was dialled, and at the backend's.

use std::net::{IpAddr, SocketAddr};

use datapath::abi::{Beginnings, DropReason, Family, FrontendValue, NodeConfig, protocol};

use super::{BACKEND, BACKEND_PORT, OTHER, SERVICE_PORT, name};
use crate::packets::{
    build::{ACK, FIN_ACK, Packet, SYN, answering, opening, port_unreachable, sctp, tcp, too_big, udp},
    case::{Case, Expected::*, Program::*},
    place::{FAMILIES, Place},
    world::{SNAT_PORT, ServicePort, World},
};

const NODE_PORT: u16 = 30_080;
const DIAL_FROM: u16 = 4000;
const ANNOUNCED: [u8; 2] = [protocol::TCP, protocol::UDP];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in ANNOUNCED {
            for ip in [Place::Node, Place::ExternalIp(1)] {
                cases.push(at_the_first_node(ip, protocol, family));
            }
            for told in [address(Place::Router, family), address(Place::ExternalIp(1), family)] {
                cases.push(at_the_backends_node(told, protocol, family));
            }
            cases.extend([host_network(protocol, family), same_port_twice(protocol, family), errors(protocol, family)]);
            cases.extend(not_believed(protocol, family));
        }
        cases.extend([
            connection(family),
            datagrams(family),
            taken_port(family),
            stays_known(family),
            takes_over_nothing(family),
            mid_connection(family),
            heard_and_opened(family, false),
            heard_and_opened(family, true),
        ]);
        cases.extend(hidden_all_the_same(family));
        for protocol in super::PROTOCOLS {
            cases.push(local_backend(protocol, family));
        }
    }
    cases
}

fn at(ip: Place, protocol: u8) -> ServicePort {
    let port = if ip == Place::Node { NODE_PORT } else { SERVICE_PORT };
    ServicePort { ip, port, protocol }
}

/// What a client dials at a node, ours or another, or at an external IP.
fn address(ip: Place, family: Family) -> SocketAddr {
    ip.at(family, if matches!(ip, Place::ExternalIp(_)) { SERVICE_PORT } else { NODE_PORT })
}

fn direct(world: World) -> World {
    world.and(|world| world.tables.node.flags |= NodeConfig::DIRECT_ANSWERS)
}

fn serving(ip: Place, protocol: u8, flags: u32, backend: Place) -> World {
    direct(World::new().masquerading().with_external(at(ip, protocol), flags, &[(backend, BACKEND_PORT)]))
}

/// A node that has the NodePort and the external IP, before a backend of its own.
fn backends_node(protocol: u8, backend: Place) -> World {
    let backends = [(backend, BACKEND_PORT)];
    serving(Place::Node, protocol, 0, backend).with_external(at(Place::ExternalIp(1), protocol), 0, &backends)
}

/// The packet as the first node sends it.
fn announcing(packet: &Packet, dialled: SocketAddr) -> Packet {
    let port = dialled.port().to_be_bytes();
    match dialled.ip() {
        IpAddr::V4(ip) => packet.clone().options(&[&[158, 8][..], &port, &ip.octets()].concat()),
        IpAddr::V6(ip) => packet.clone().extension(60, &[&[2, 30, 20][..], &port, &[0, 0], &ip.octets()].concat()),
    }
}

fn at_the_first_node(ip: Place, protocol: u8, family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(ip, family));
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let first = opening(protocol, client, dialled);
    let arrives = announcing(&first.between(client, server).hop(), dialled);
    let name = format!("a direct answer to {ip:?}, announced: {}", name(protocol, family));
    Case::new(name, serving(ip, protocol, 0, Place::RemotePod))
        .packet(FromNetwork, &first, Forward, &arrives)
        .packet(FromNetwork, &first, Forward, &arrives)
        .same(FromNetwork, first.hops(1), Pass)
}

/// Of TCP what opens the connection announces it, and the first packet that follows.
fn connection(family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let sent = |flags| tcp(client, dialled, flags);
    let arrives = |flags| tcp(client, server, flags).hop();
    Case::new(format!("a direct connection: {family:?}"), serving(Place::Node, protocol::TCP, 0, Place::RemotePod))
        .packet(FromNetwork, sent(SYN), Forward, announcing(&arrives(SYN), dialled))
        .packet(FromNetwork, sent(ACK), Forward, announcing(&arrives(ACK), dialled))
        .packet(FromNetwork, sent(ACK), Forward, arrives(ACK))
        .wait(5)
        .packet(FromNetwork, sent(ACK), Forward, arrives(ACK))
        .packet(FromNetwork, sent(FIN_ACK), Forward, arrives(FIN_ACK))
        .packet(FromNetwork, sent(ACK), Forward, arrives(ACK))
        // The same port again.
        .packet(FromNetwork, sent(SYN), Forward, announcing(&arrives(SYN), dialled))
}

/// Of UDP the packets of the first second announce the flow, and one in each second after it.
fn datagrams(family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let sent = udp(client, dialled);
    let arrives = sent.between(client, server).hop();
    let announced = announcing(&arrives, dialled);
    let long = sent.clone().carrying(&[7; 1300]);
    Case::new(format!("direct datagrams: {family:?}"), serving(Place::Node, protocol::UDP, 0, Place::RemotePod))
        .packet(FromNetwork, &sent, Forward, &announced)
        .packet(FromNetwork, &sent, Forward, &announced)
        .packet(FromNetwork, &long, Forward, long.between(client, server).hop())
        .wait(1)
        .packet(FromNetwork, &sent, Forward, &announced)
        .packet(FromNetwork, &sent, Forward, &arrives)
        .wait(1)
        .packet(FromNetwork, &long, Forward, long.between(client, server).hop())
        .packet(FromNetwork, &sent, Forward, &arrives)
        .wait(1)
        .packet(FromNetwork, &sent, Forward, &announced)
}

/// What can't be answered directly is masqueraded, as without the mode.
fn hidden_all_the_same(family: Family) -> Vec<Case> {
    let outside = Place::Outside.at(family, DIAL_FROM);
    let dialled = address(Place::Node, family);
    let flagged = match family {
        Family::V4 => tcp(outside, dialled, SYN).options(&[1, 1, 1, 1]),
        Family::V6 => tcp(outside, dialled, SYN).extension(60, &[0, 1, 4, 0, 0, 0, 0]),
    };
    let long = udp(outside, dialled).carrying(&[7; 1300]);
    let routed = Place::RemotePod;
    let mid_connection = tcp(outside, dialled, ACK).carrying(&[7; 1300]);
    let from_a_node = tcp(Place::Router.at(family, DIAL_FROM), dialled, SYN);
    let rows = [
        ("SCTP", sctp(outside, dialled), protocol::SCTP, routed),
        ("IP options", flagged, protocol::TCP, routed),
        ("a long datagram", long, protocol::UDP, routed),
        ("a long segment", mid_connection, protocol::TCP, routed),
        ("a backend behind the overlay", tcp(outside, dialled, SYN), protocol::TCP, Place::TunnelPod),
        ("a backend outside", tcp(outside, dialled, SYN), protocol::TCP, Place::ExternalIp(7)),
        ("another node dials", from_a_node, protocol::TCP, routed),
    ];
    let case = |(what, packet, protocol, backend): (&str, Packet, u8, Place)| {
        let hidden = Place::Node.at(family, SNAT_PORT);
        let arrives = packet.between(hidden, backend.at(family, BACKEND_PORT)).hop();
        Case::new(format!("masqueraded all the same, {what}: {family:?}"), serving(Place::Node, protocol, 0, backend))
            .packet(FromNetwork, &packet, Forward, &arrives)
            .packet(FromNetwork, &packet, Forward, &arrives)
    };
    rows.into_iter().map(case).collect()
}

/// Two frontends with one backend: the client's port can stand for one of them only.
fn taken_port(family: Family) -> Case {
    let ips = [Place::Node, Place::ExternalIp(1)];
    let world = serving(ips[0], protocol::TCP, 0, Place::RemotePod).with_external(
        at(ips[1], protocol::TCP),
        0,
        &[(Place::RemotePod, BACKEND_PORT)],
    );
    let client = Place::Outside.at(family, DIAL_FROM);
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let [first, second] = ips.map(|ip| tcp(client, address(ip, family), SYN));
    let hidden = Place::Node.at(family, SNAT_PORT);
    let answer = answering(protocol::TCP, server, hidden);
    Case::new(format!("one client port to one backend by two addresses: {family:?}"), world)
        .packet(FromNetwork, &first, Forward, announcing(&first.between(client, server).hop(), first.dst))
        .packet(FromNetwork, &second, Forward, second.between(hidden, server).hop())
        .packet(FromNetwork, &answer, Forward, answer.between(second.dst, client).hop())
}

/// Where Maglev chooses, another node may have begun the connection.
fn mid_connection(family: Family) -> Case {
    let maglev = FrontendValue::MAGLEV;
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::ExternalIp(1), family));
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let long = tcp(client, dialled, ACK).carrying(&[7; 1300]);
    Case::new(
        format!("a connection that another node has begun: {family:?}"),
        serving(Place::ExternalIp(1), protocol::TCP, maglev, Place::RemotePod),
    )
    .packet(FromNetwork, &long, Forward, long.between(client, server).hop())
}

/// A pod of this node sees its client too, whatever the protocol.
fn local_backend(protocol: u8, family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let server = BACKEND.at(family, BACKEND_PORT);
    let first = opening(protocol, client, dialled);
    let answer = answering(protocol, server, client);
    Case::new(
        format!("direct answers, a backend here: {}", name(protocol, family)),
        serving(Place::Node, protocol, 0, BACKEND),
    )
    .packet(FromNetwork, &first, ToPod(BACKEND), first.between(client, server))
    .packet(FromPod, &answer, Forward, answer.between(dialled, client).hop())
}

fn at_the_backends_node(told: SocketAddr, protocol: u8, family: Family) -> Case {
    let client = Place::Outside.at(family, DIAL_FROM);
    let server = BACKEND.at(family, BACKEND_PORT);
    let first = opening(protocol, client, server);
    let answer = answering(protocol, server, client);
    let answers = answer.between(told, client).hop();
    let heard = announcing(&first, told);
    Case::new(format!("heard of {told}: {}", name(protocol, family)), backends_node(protocol, BACKEND))
        .packet(FromNetwork, &heard, ToPod(BACKEND), &first)
        .packet(FromPod, &answer, Forward, &answers)
        .same(FromNetwork, &first, ToPod(BACKEND))
        .packet(FromNetwork, &heard, ToPod(BACKEND), &first)
        .packet(FromPod, &answer, Forward, &answers)
        .wait(1)
        .packet(FromPod, &answer, Forward, &answers)
        // Whoever comes here himself finds the flow that he has.
        .packet(
            FromPod,
            port_unreachable(server.ip(), client.ip(), &quote(&first)),
            Forward,
            port_unreachable(told.ip(), client.ip(), &requote(&opening(protocol, client, told), &first)).hop(),
        )
}

/// At the backend's node no packet of the client's passes by the flow: whether it is open is heard, and a
/// flood takes only what isn't.
fn heard_and_opened(family: Family, opened: bool) -> Case {
    let (client, told) = (Place::Outside.at(family, DIAL_FROM), address(Place::Router, family));
    let server = BACKEND.at(family, BACKEND_PORT);
    let heard = |client, flags| (announcing(&tcp(client, server, flags), told), tcp(client, server, flags));
    let answer = answering(protocol::TCP, server, client);
    let what = if opened { "opened stays" } else { "never opened makes room" };
    let (syn, first) = heard(client, SYN);
    let mut case = Case::new(format!("what is heard and {what}: {family:?}"), backends_node(protocol::TCP, BACKEND))
        .packet(FromNetwork, &syn, ToPod(BACKEND), &first)
        .packet(FromPod, &answer, Forward, answer.between(told, client).hop());
    if opened {
        let (ack, next) = heard(client, ACK);
        case = case.packet(FromNetwork, &ack, ToPod(BACKEND), &next);
    }
    let (later, other) = heard(Place::Outside.at(family, DIAL_FROM + 1), SYN);
    let source = if opened { told } else { Place::Node.at(family, SNAT_PORT) };
    case.change(|world| world.tables.beginnings.begun += u64::from(Beginnings::REMEMBERED) - 1)
        .packet(FromNetwork, &later, ToPod(BACKEND), &other)
        .packet(FromPod, &answer, Forward, answer.between(source, client).hop())
}

fn quote(packet: &Packet) -> Vec<u8> {
    packet.bytes()[..packet.network_len() + 8].to_vec()
}

/// The quote of what was sent, but for the transport's bytes behind the ports.
fn requote(sent: &Packet, arrived: &Packet) -> Vec<u8> {
    let ports_end = sent.network_len() + 4;
    [&sent.bytes()[..ports_end], &arrived.bytes()[ports_end..ports_end + 4]].concat()
}

/// A backend of the node's own.
fn host_network(protocol: u8, family: Family) -> Case {
    let (client, told) = (Place::Outside.at(family, DIAL_FROM), address(Place::Router, family));
    let server = Place::Node.at(family, BACKEND_PORT);
    let first = opening(protocol, client, server);
    let answer = answering(protocol, server, client);
    Case::new(format!("heard, for the node itself: {}", name(protocol, family)), backends_node(protocol, Place::Node))
        .packet(FromNetwork, announcing(&first, told), Pass, &first)
        .packet(ToNetwork, &answer, Pass, answer.between(told, client))
}

/// An announcement that can't be true changes nothing, and the pod gets it as it is.
fn not_believed(protocol: u8, family: Family) -> Vec<Case> {
    let outside = Place::Outside.at(family, DIAL_FROM);
    let truth = address(Place::Router, family);
    let world = || backends_node(protocol, BACKEND);
    let keeping = serving(Place::Node, protocol, FrontendValue::KEEP_CLIENT, BACKEND);
    let snat = world().and(|world| world.tables.node.flags &= !NodeConfig::DIRECT_ANSWERS);
    let cluster_ip =
        direct(World::new().masquerading()).with(at(Place::ClusterIp(10), protocol), &[(BACKEND, BACKEND_PORT)]);
    let rows = [
        ("in the other mode", snat, outside, truth),
        ("of a Service that keeps clients here", keeping, outside, truth),
        ("of a ClusterIP", cluster_ip, outside, Place::ClusterIp(10).at(family, SERVICE_PORT)),
        ("of nobody's address", world(), outside, Place::ExternalIp(7).at(family, NODE_PORT)),
        ("of another port", world(), outside, Place::Router.at(family, NODE_PORT + 1)),
        ("of this node's own address", world(), outside, address(Place::Node, family)),
        ("by a pod", world(), Place::RemotePod.at(family, DIAL_FROM), truth),
        ("by a node", world(), Place::Router.at(family, DIAL_FROM), truth),
    ];
    let case = |(what, world, client, told): (&str, World, SocketAddr, SocketAddr)| {
        let server = BACKEND.at(family, BACKEND_PORT);
        let packet = announcing(&opening(protocol, client, server), told);
        let answer = answering(protocol, server, client);
        let case = Case::new(format!("an announcement {what}: {}", name(protocol, family)), world).same(
            FromNetwork,
            packet,
            ToPod(BACKEND),
        );
        if client == outside {
            let hidden = Place::Node.at(family, SNAT_PORT);
            return case.packet(FromPod, &answer, Forward, answer.between(hidden, client).hop());
        }
        let forwards = client.ip() == Place::RemotePod.ip(family);
        if forwards { case.packet(FromPod, &answer, Forward, answer.hop()) } else { case.same(FromPod, &answer, Pass) }
    };
    rows.into_iter().map(case).collect()
}

/// A client's port toward one backend is one flow's, unless that never began.
fn same_port_twice(protocol: u8, family: Family) -> Case {
    let client = Place::Outside.at(family, DIAL_FROM);
    let server = BACKEND.at(family, BACKEND_PORT);
    let [one, two] = [Place::Router, Place::ExternalIp(1)].map(|place| address(place, family));
    let first = opening(protocol, client, server);
    let answer = match protocol {
        protocol::TCP => tcp(server, client, ACK),
        _ => udp(server, client),
    };
    Case::new(format!("two announcements of one flow: {}", name(protocol, family)), backends_node(protocol, BACKEND))
        .packet(FromNetwork, announcing(&first, one), ToPod(BACKEND), &first)
        .packet(FromPod, &answer, Forward, answer.between(one, client).hop())
        .wait(5)
        .dropped(FromNetwork, announcing(&first, two), DropReason::SnatExhausted)
        .packet(FromPod, &answer, Forward, answer.between(one, client).hop())
}

/// What nobody has answered is nobody's connection.
fn takes_over_nothing(family: Family) -> Case {
    let client = Place::Outside.at(family, DIAL_FROM);
    let server = BACKEND.at(family, BACKEND_PORT);
    let [one, two] = [Place::Router, Place::ExternalIp(1)].map(|place| address(place, family));
    let first = tcp(client, server, SYN);
    let answer = answering(protocol::TCP, server, client);
    Case::new(format!("an announcement that came to nothing: {family:?}"), backends_node(protocol::TCP, BACKEND))
        .packet(FromNetwork, announcing(&first, one), ToPod(BACKEND), &first)
        .wait(5)
        .packet(FromNetwork, announcing(&first, two), ToPod(BACKEND), &first)
        .packet(FromPod, &answer, Forward, answer.between(two, client).hop())
}

/// A client that comes to the backend's node itself, later, has its flow there.
fn stays_known(family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::ExternalIp(1), family));
    let world = backends_node(protocol::TCP, BACKEND);
    let server = BACKEND.at(family, BACKEND_PORT);
    let first = tcp(client, server, SYN);
    let next = tcp(client, dialled, ACK);
    Case::new(format!("who was announced comes himself: {family:?}"), world)
        .packet(FromNetwork, announcing(&first, dialled), ToPod(BACKEND), &first)
        .change(|world| world.set_backends(at(Place::ExternalIp(1), protocol::TCP), &[(OTHER, BACKEND_PORT)]))
        .packet(FromNetwork, &next, ToPod(BACKEND), next.between(client, server))
}

/// At the first node: errors about what the backend has answered past it.
fn errors(protocol: u8, family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let router = Place::Router.ip(family);
    let first = opening(protocol, client, dialled);
    let answer = answering(protocol, server, client);
    let answered = answer.between(dialled, client);
    Case::new(
        format!("errors about direct answers: {}", name(protocol, family)),
        serving(Place::Node, protocol, 0, Place::RemotePod),
    )
    .packet(FromNetwork, &first, Forward, announcing(&first.between(client, server).hop(), dialled))
    .packet(
        FromNetwork,
        too_big(router, dialled.ip(), &quote(&answered)),
        Forward,
        too_big(router, server.ip(), &requote(&answer, &answered)).hop(),
    )
}
