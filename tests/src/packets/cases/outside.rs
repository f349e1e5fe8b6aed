//! What pods send to outside the cluster: masqueraded, and back.

use std::net::SocketAddr;

use datapath::abi::{DropReason, Family, OVERLAY_PORT};

use super::{CLIENT, OTHER, PROTOCOLS, name};
use crate::packets::{
    build::{
        ACK, FIN_ACK, Packet, SYN, answering, echo_of, echo_reply, icmp, opening, port_unreachable, tcp, time_exceeded,
        too_big, udp,
    },
    case::{Case, Expected::*, Frame, Program::*},
    place::{FAMILIES, Place},
    world::{SNAT_PORT, ServicePort, World},
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend([
                there_and_back(protocol, family),
                one_port_for_two_pods(protocol, family),
                errors(protocol, family),
                out_of_hops(protocol, family),
                not_masquerading(protocol, family),
                to_known_networks(protocol, family),
                no_address_to_hide_behind(protocol, family),
                becomes_a_service(protocol, family),
            ]);
        }
        cases.extend([
            pings(family),
            pings_of_two_pods(family),
            pings_from_outside(family),
            errors_about_pings(family),
            fragments(family),
            fragmented_pings(family),
            other_protocols(family),
            on_the_link(family),
            a_closed_connection_gives_its_port_back(family),
            a_silent_datagram_flow_gives_its_port_back(family),
            an_unanswered_dial_gives_its_port_back(family),
        ]);
    }
    cases
}

const WEB: u16 = 443;

/// A pod, somebody outside, and the pod as that one sees it.
fn ends(family: Family) -> (SocketAddr, SocketAddr, SocketAddr) {
    (CLIENT.at(family, 4000), Place::Outside.at(family, WEB), Place::Node.at(family, SNAT_PORT))
}

fn world() -> World {
    World::new().masquerading()
}

fn there_and_back(protocol: u8, family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let first = opening(protocol, client, server);
    let answer = answering(protocol, server, hidden);
    Case::new(format!("to outside and back: {}", name(protocol, family)), world())
        .packet(FromPod, &first, Forward, first.between(hidden, server).hop())
        .packet(FromNetwork, &answer, ToPod(CLIENT), answer.between(server, client))
        .packet(FromPod, &first, Forward, first.between(hidden, server).hop())
        .same(FromNetwork, answering(protocol, Place::Outside.at(family, WEB + 1), hidden), Pass)
        .same(FromNetwork, answering(protocol, server, Place::Node.at(family, SNAT_PORT + 1)), Pass)
}

/// There is one port, and two pods want it for one server; a third packet is for another.
fn one_port_for_two_pods(protocol: u8, family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let other_server = Place::Outside.at(family, WEB + 1);
    let first = opening(protocol, client, server);
    let second = opening(protocol, OTHER.at(family, 4000), server);
    let third = second.between(second.src, other_server);
    Case::new(format!("one port for two pods: {}", name(protocol, family)), world())
        .packet(FromPod, &first, Forward, first.between(hidden, server).hop())
        .dropped(FromPod, &second, DropReason::SnatExhausted)
        .packet(FromPod, &third, Forward, third.between(hidden, other_server).hop())
        .packet(FromPod, &first, Forward, first.between(hidden, server).hop())
}

/// What the quote of an error becomes: the packet as it was sent, but for what nobody reads.
fn requote(sent: &Packet, arrived: &Packet) -> Vec<u8> {
    let quoted_ports = sent.network_len() + 4;
    let (sent, arrived) = (sent.bytes(), arrived.bytes());
    [&sent[..quoted_ports], &arrived[quoted_ports..quoted_ports + 4]].concat()
}

fn quote(packet: &Packet) -> Vec<u8> {
    packet.bytes()[..packet.network_len() + 8].to_vec()
}

fn errors(protocol: u8, family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let sent = opening(protocol, client, server);
    let arrived = sent.between(hidden, server).hop();
    let seen = requote(&sent.hop(), &arrived);
    let router = Place::Router.ip(family);
    let answer = answering(protocol, server, hidden);
    let answered = answer.between(server, client);
    Case::new(format!("errors both ways: {}", name(protocol, family)), world())
        .packet(FromPod, &sent, Forward, &arrived)
        .packet(
            FromNetwork,
            port_unreachable(server.ip(), hidden.ip(), &quote(&arrived)),
            ToPod(CLIENT),
            port_unreachable(server.ip(), client.ip(), &seen),
        )
        .packet(
            FromNetwork,
            too_big(router, hidden.ip(), &quote(&arrived)),
            ToPod(CLIENT),
            too_big(router, client.ip(), &seen),
        )
        .packet(
            FromNetwork,
            time_exceeded(router, hidden.ip(), &quote(&arrived)),
            ToPod(CLIENT),
            time_exceeded(router, client.ip(), &seen),
        )
        .packet(FromNetwork, &answer, ToPod(CLIENT), &answered)
        .packet(
            FromPod,
            port_unreachable(client.ip(), server.ip(), &quote(&answered)),
            Forward,
            port_unreachable(hidden.ip(), server.ip(), &requote(&answer, &answered)).hop(),
        )
}

/// The stack tells the sender: a route is traced by that.
fn out_of_hops(protocol: u8, family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let packet = opening(protocol, client, server);
    Case::new(format!("out of hops: {}", name(protocol, family)), world())
        .same(FromPod, packet.hops(1), Pass)
        .packet(FromPod, packet.hops(2), Forward, packet.between(hidden, server).hops(1))
        .same(FromPod, packet.hops(1), Pass)
}

fn not_masquerading(protocol: u8, family: Family) -> Case {
    let (client, server, _) = ends(family);
    let packet = opening(protocol, client, server);
    Case::new(format!("a node that doesn't masquerade: {}", name(protocol, family)), World::new())
        .same(FromPod, &packet, Pass)
        .same(FromNetwork, answering(protocol, server, client), ToPod(CLIENT))
}

fn to_known_networks(protocol: u8, family: Family) -> Case {
    let client = CLIENT.at(family, 4000);
    let to = |place: Place| opening(protocol, client, place.at(family, WEB));
    let name = format!("within the cluster nothing is masqueraded: {}", name(protocol, family));
    Case::new(name, world())
        .packet(FromPod, to(Place::RemotePod), Forward, to(Place::RemotePod).hop())
        .same(FromPod, to(Place::RemotePod).hops(1), Pass)
        .packet(FromPod, to(Place::TunnelPod), Tunnel(Place::Peer), to(Place::TunnelPod).hop())
        .same(FromPod, to(Place::TunnelPod).hops(1), Pass)
        .same(FromPod, to(Place::Node), Pass)
        .packet(FromPod, to(Place::Peer), Tunnel(Place::Peer), to(Place::Peer).hop())
        .same(FromPod, to(Place::Router), Pass)
        .same(ToOverlay, to(Place::TunnelPod), Tunnel(Place::Peer))
        .same(ForwardedToOverlay, to(Place::TunnelPod), Tunnel(Place::Peer))
        .dropped(ForwardedToOverlay, to(Place::RemotePod), DropReason::NoTunnel)
        .same(FromOverlay, opening(protocol, Place::TunnelPod.at(family, WEB), client), ToPod(CLIENT))
        // What carries the overlay's packets, and what is beside it.
        .same(FromNetwork, opening(protocol, Place::Peer.at(family, 4000), Place::Node.at(family, OVERLAY_PORT)), Pass)
        .same(
            FromNetwork,
            opening(protocol, Place::Peer.at(family, 4000), CLIENT.at(family, OVERLAY_PORT)),
            ToPod(CLIENT),
        )
}

fn no_address_to_hide_behind(protocol: u8, family: Family) -> Case {
    let (client, server, _) = ends(family);
    let world = world().and(|world| {
        world.tables.node.v4 = datapath::abi::Addr::UNSPECIFIED;
        world.tables.node.v6 = datapath::abi::Addr::UNSPECIFIED;
    });
    Case::new(format!("a node without address: {}", name(protocol, family)), world).same(
        FromPod,
        opening(protocol, client, server),
        Pass,
    )
}

/// A destination outside becomes a Service's address: connections go on, all else is served.
fn becomes_a_service(protocol: u8, family: Family) -> Case {
    let client = CLIENT.at(family, 4000);
    let server = Place::ExternalIp(1).at(family, WEB);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let port = ServicePort { ip: Place::ExternalIp(1), port: WEB, protocol };
    let backend = OTHER.at(family, 8080);
    let packet = opening(protocol, client, server);
    Case::new(format!("outside becomes a Service: {}", name(protocol, family)), world())
        .packet(FromPod, &packet, Forward, packet.between(hidden, server).hop())
        .change(move |world| *world = world.clone().with_external(port, 0, &[(OTHER, 8080)]))
        .wait(2)
        .packet(FromPod, &packet, ToPod(OTHER), packet.between(hidden, backend))
}

fn pings(family: Family) -> Case {
    let (client, server, node) = (CLIENT.ip(family), Place::Outside.ip(family), Place::Node.ip(family));
    let request = echo_of(client, server, 7);
    Case::new(format!("pings to outside: {family:?}"), world())
        .packet(FromPod, &request, Forward, echo_of(node, server, SNAT_PORT).hop())
        .packet(FromNetwork, echo_reply(server, node, SNAT_PORT), ToPod(CLIENT), echo_reply(server, client, 7))
        .packet(FromPod, &request, Forward, echo_of(node, server, SNAT_PORT).hop())
        .same(FromNetwork, echo_reply(server, node, 7), Pass)
        .same(FromPod, echo_reply(client, server, 7), Pass)
}

fn pings_of_two_pods(family: Family) -> Case {
    let (server, node) = (Place::Outside.ip(family), Place::Node.ip(family));
    let from = |pod: Place| echo_of(pod.ip(family), server, 7);
    Case::new(format!("pings of two pods: {family:?}"), world())
        .packet(FromPod, from(CLIENT), Forward, echo_of(node, server, SNAT_PORT).hop())
        .dropped(FromPod, from(OTHER), DropReason::SnatExhausted)
        .wait(31)
        .packet(FromPod, from(OTHER), Forward, echo_of(node, server, SNAT_PORT).hop())
        .packet(FromNetwork, echo_reply(server, node, SNAT_PORT), ToPod(OTHER), echo_reply(server, OTHER.ip(family), 7))
}

/// A request with the identifier of a flow is no reply to it.
fn pings_from_outside(family: Family) -> Case {
    let (client, server, node) = (CLIENT.ip(family), Place::Outside.ip(family), Place::Node.ip(family));
    Case::new(format!("pings from outside: {family:?}"), world())
        .packet(FromPod, echo_of(client, server, 7), Forward, echo_of(node, server, SNAT_PORT).hop())
        .same(FromNetwork, echo_of(server, node, SNAT_PORT), Pass)
        .same(ToNetwork, echo_reply(node, server, SNAT_PORT), Pass)
}

fn errors_about_pings(family: Family) -> Case {
    let (client, server, node) = (CLIENT.ip(family), Place::Outside.ip(family), Place::Node.ip(family));
    let router = Place::Router.ip(family);
    let (sent, arrived) = (echo_of(client, server, 7), echo_of(node, server, SNAT_PORT).hop());
    // In a quote, the checksum is as it was when the packet met its end.
    let mut seen = quote(&sent.hop());
    let checksum = sent.network_len() + 2..sent.network_len() + 4;
    seen[checksum.clone()].copy_from_slice(&arrived.bytes()[checksum]);
    let short = &quote(&arrived)[..arrived.network_len() + 4];
    Case::new(format!("an error about a ping: {family:?}"), world())
        .packet(FromPod, &sent, Forward, &arrived)
        .packet(
            FromNetwork,
            time_exceeded(router, node, &quote(&arrived)),
            ToPod(CLIENT),
            time_exceeded(router, client, &seen),
        )
        .same(FromNetwork, time_exceeded(router, node, short), Pass)
}

fn parts(packet: &Packet) -> [Frame; 2] {
    packet.fragments(32).map(|bytes| Frame::ip(packet.family(), bytes))
}

fn fragments(family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let out = udp(client, server).carrying(&[5; 90]).identified(3);
    let back = udp(server, hidden).carrying(&[6; 90]).identified(4);
    let [first, later] = parts(&out);
    let [first_out, later_out] = parts(&out.between(hidden, server).hop());
    let [first_back, later_back] = parts(&back);
    let [first_in, later_in] = parts(&back.between(server, client));
    Case::new(format!("fragments to outside and back: {family:?}"), world())
        .dropped(FromPod, later.clone(), DropReason::FragmentOrphan)
        .packet(FromPod, first, Forward, first_out)
        .packet(FromPod, later, Forward, later_out)
        .same(FromNetwork, later_back.clone(), Pass)
        .packet(FromNetwork, first_back, ToPod(CLIENT), first_in)
        .packet(FromNetwork, later_back, ToPod(CLIENT), later_in)
}

fn fragmented_pings(family: Family) -> Case {
    let (client, server, node) = (CLIENT.ip(family), Place::Outside.ip(family), Place::Node.ip(family));
    let [first, later] = parts(&echo_of(client, server, 7).carrying(&[5; 90]).identified(3));
    let [first_out, later_out] = parts(&echo_of(node, server, SNAT_PORT).carrying(&[5; 90]).identified(3).hop());
    let [first_back, later_back] = parts(&echo_reply(server, node, SNAT_PORT).carrying(&[5; 90]).identified(4));
    let [first_in, later_in] = parts(&echo_reply(server, client, 7).carrying(&[5; 90]).identified(4));
    Case::new(format!("a long ping: {family:?}"), world())
        .packet(FromPod, first, Forward, first_out)
        .packet(FromPod, later, Forward, later_out)
        .packet(FromNetwork, first_back, ToPod(CLIENT), first_in)
        .packet(FromNetwork, later_back, ToPod(CLIENT), later_in)
}

/// What can't come back goes as it is.
fn other_protocols(family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let of = |number| Packet { transport: crate::packets::build::Transport::Other(number), ..udp(client, server) };
    let timestamp = if family == Family::V4 { 13 } else { 139 };
    Case::new(format!("other protocols to outside: {family:?}"), world())
        .same(FromPod, of(47), Pass)
        .same(FromPod, of(50), Pass)
        .same(FromPod, icmp(client.ip(), server.ip(), timestamp, 0, &[0; 12]), Pass)
        .same(FromPod, port_unreachable(client.ip(), server.ip(), &quote(&udp(server, hidden))), Pass)
}

fn on_the_link(family: Family) -> Case {
    let group = udp(CLIENT.at(family, 5353), Place::Group.at(family, 5353));
    let case = Case::new(format!("on the pod's own link: {family:?}"), world()).same(FromPod, group, Pass);
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 68);
    match family {
        Family::V4 => case.same(FromPod, udp(at("0.0.0.0"), at("255.255.255.255")), Pass),
        Family::V6 => {
            let advertisement = icmp(at("fe80::1").ip(), at("fe80::2").ip(), 136, 0, &[0; 16]);
            case.same(FromPod, udp(at("fe80::1"), at("fe80::2")), Pass).same(FromPod, advertisement, Pass)
        }
    }
}

fn a_closed_connection_gives_its_port_back(family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let out = |flags| tcp(client, server, flags);
    let to = |flags| tcp(hidden, server, flags).hop();
    let second = tcp(OTHER.at(family, 4000), server, SYN);
    let closed = tcp(server, hidden, FIN_ACK);
    Case::new(format!("a closed connection gives its port back: {family:?}"), world())
        .packet(FromPod, out(SYN), Forward, to(SYN))
        .packet(FromPod, out(ACK), Forward, to(ACK))
        .wait(300)
        .dropped(FromPod, &second, DropReason::SnatExhausted)
        .packet(FromPod, out(FIN_ACK), Forward, to(FIN_ACK))
        .packet(FromNetwork, &closed, ToPod(CLIENT), closed.between(server, client))
        .wait(2)
        .packet(FromPod, &second, Forward, second.between(hidden, server).hop())
        .same(FromNetwork, tcp(server, Place::Node.at(family, 22), ACK), Pass)
}

fn a_silent_datagram_flow_gives_its_port_back(family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let first = udp(client, server);
    let second = udp(OTHER.at(family, 4000), server);
    let answer = udp(server, hidden);
    let to_other = answer.between(server, OTHER.at(family, 4000));
    Case::new(format!("a silent datagram flow gives its port back: {family:?}"), world())
        .packet(FromPod, &first, Forward, first.between(hidden, server).hop())
        .dropped(FromPod, &second, DropReason::SnatExhausted)
        .wait(121)
        .packet(FromPod, &second, Forward, second.between(hidden, server).hop())
        .packet(FromNetwork, &answer, ToPod(OTHER), to_other)
}

fn an_unanswered_dial_gives_its_port_back(family: Family) -> Case {
    let (client, server, hidden) = ends(family);
    let first = tcp(client, server, SYN);
    let second = tcp(OTHER.at(family, 4000), server, SYN);
    Case::new(format!("an unanswered SYN gives its port back: {family:?}"), world())
        .packet(FromPod, &first, Forward, first.between(hidden, server).hop())
        .dropped(FromPod, &second, DropReason::SnatExhausted)
        .wait(4)
        .packet(FromPod, &second, Forward, second.between(hidden, server).hop())
}
