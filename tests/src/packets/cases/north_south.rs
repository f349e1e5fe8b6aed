//! NodePorts, external IPs and load balancers' IPs: from everywhere, to backends everywhere, and back.

use std::net::SocketAddr;

use datapath::abi::{DropReason, Family, FrontendValue, NodeConfig, protocol};

use super::{BACKEND, BACKEND_PORT, CLIENT, CLUSTER_IP, OTHER, PROTOCOLS, SERVICE_PORT, name, world_with};
use crate::packets::{
    build::{ACK, Packet, SYN, answering, icmp, opening, port_unreachable, reset, tcp, too_big, udp},
    case::{Case, Expected, Expected::*, Frame, Program, Program::*},
    place::{FAMILIES, Place},
    world::{SNAT_PORT, ServicePort, World},
};

const NODE_PORT: u16 = 30_080;
const EXTERNAL_IP: Place = Place::ExternalIp(1);
const KEEP: u32 = FrontendValue::KEEP_CLIENT;

/// Who dials, where its packets are met, and its port.
const OUTSIDE: (Place, Program) = (Place::Outside, FromNetwork);
const PEER: (Place, Program) = (Place::Peer, FromNetwork);
const REMOTE_POD: (Place, Program) = (Place::RemotePod, FromNetwork);
const TUNNEL_POD: (Place, Program) = (Place::TunnelPod, FromOverlay);
const POD: (Place, Program) = (CLIENT, FromPod);
const NODE: (Place, Program) = (Place::Node, FromHost);
const NODE_ON_LOOPBACK: (Place, Program) = (Place::Node, FromHostLoopback);
const DIAL_FROM: u16 = 4000;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend(everyone_to_everywhere(protocol, family));
            cases.extend([
                local_only(protocol, family),
                no_local_endpoint(protocol, family),
                source_ranges(protocol, family),
                unused_ports(protocol, family),
                errors(protocol, family),
                error_from_the_node(protocol, family),
                cluster_ip_from_outside(protocol, family),
                masquerade_all(protocol, family),
                back_to_the_client_itself(protocol, family),
                twice_the_same_backend(protocol, family),
                dead_backend(protocol, family),
            ]);
        }
        cases.extend([refused(family), out_of_hops(family), fragments(family), loopback(family), bystanders(family)]);
    }
    cases
}

fn at(ip: Place, protocol: u8) -> ServicePort {
    let port = if ip == Place::Node { NODE_PORT } else { SERVICE_PORT };
    ServicePort { ip, port, protocol }
}

fn serving(ip: Place, protocol: u8, flags: u32, backend: Place) -> World {
    World::new().masquerading().with_external(at(ip, protocol), flags, &[(backend, BACKEND_PORT)])
}

fn address(ip: Place, family: Family) -> SocketAddr {
    ip.at(family, at(ip, 0).port)
}

/// What a packet that goes that way is: a hop further on, if it leaves the node by us.
fn on(way: Expected, packet: Packet) -> Packet {
    if way == Forward { packet.hop() } else { packet }
}

/// kube-proxy's table: who dials what of which kind, where the backend is, and whether it sees who dialled.
fn everyone_to_everywhere(protocol: u8, family: Family) -> Vec<Case> {
    let clients = [OUTSIDE, PEER, REMOTE_POD, TUNNEL_POD, POD, NODE, NODE_ON_LOOPBACK];
    let mut cases = Vec::new();
    for (client, met) in clients {
        for ip in [Place::Node, EXTERNAL_IP] {
            // What goes to an own address is met on the loopback device, all else that the node sends on ours.
            let is_met = match met {
                FromHostLoopback => ip == Place::Node,
                FromHost => ip != Place::Node,
                _ => true,
            };
            if !is_met {
                continue;
            }
            for flags in [0, KEEP] {
                for backend in [BACKEND, Place::RemotePod, Place::TunnelPod, Place::Node] {
                    cases.push(dials((client, met), ip, flags, backend, protocol, family));
                }
            }
        }
    }
    cases
}

fn dials((client, met): (Place, Program), ip: Place, flags: u32, backend: Place, protocol: u8, family: Family) -> Case {
    let dialler = client.at(family, DIAL_FROM);
    let dialled = address(ip, family);
    let server = backend.at(family, BACKEND_PORT);
    let own_client = client == Place::Node;
    let itself = backend == client;
    let hidden = match backend {
        Place::Node => false,
        _ => flags & KEEP == 0 || own_client || itself,
    };
    let seen_as = match (own_client, backend, ip) {
        (true, Place::Node, Place::Node) => dialler,
        (true, Place::Node, _) => ip.at(family, SNAT_PORT),
        // The node's own address is what hides it already.
        (true, ..) => dialler,
        _ if hidden => Place::Node.at(family, SNAT_PORT),
        _ => dialler,
    };
    let there = match (backend, own_client) {
        (Place::Pod(_), _) => ToPod(backend),
        (_, true) => Reroute,
        (Place::Node, false) => Pass,
        _ => Forward,
    };
    // Where the backend's answer is met, and what becomes of it.
    let answered_at = match (backend, client) {
        (Place::Pod(_), _) => FromPod,
        (Place::RemotePod, _) => FromNetwork,
        (Place::TunnelPod, _) => FromOverlay,
        (_, Place::Pod(_)) => NodeToPod,
        (_, Place::Node) if ip == Place::Node => FromHostLoopback,
        (_, Place::Node) => FromHost,
        (_, Place::TunnelPod) => ToOverlay,
        _ => ToNetwork,
    };
    let back = match (client, answered_at) {
        (Place::Pod(_), NodeToPod) => Pass,
        (Place::Pod(_), _) => ToPod(client),
        (Place::Node, FromHostLoopback | FromHost) => Reroute,
        (Place::Node, _) if ip == Place::Node => Reroute,
        (Place::Node, _) => Pass,
        (_, ToNetwork) => Pass,
        (_, ToOverlay) => Tunnel(Place::Peer),
        _ => Forward,
    };
    let first = opening(protocol, dialler, dialled);
    let answer = answering(protocol, server, seen_as);
    let kept = if flags & KEEP != 0 { ", Local" } else { "" };
    let name = format!("{client:?} by {met:?} to {ip:?}{kept}, {backend:?}: {}", name(protocol, family));
    Case::new(name, serving(ip, protocol, flags, backend))
        .packet(met, &first, there, on(there, first.between(seen_as, server)))
        .packet(answered_at, &answer, back, on(back, answer.between(dialled, dialler)))
        .packet(met, &first, there, on(there, first.between(seen_as, server)))
}

/// `externalTrafficPolicy: Local`: who is outside gets a local endpoint and is seen, who is inside gets any.
fn local_only(protocol: u8, family: Family) -> Case {
    let port = at(Place::Node, protocol);
    let world = World::new()
        .with_external(port, KEEP, &[(Place::RemotePod, BACKEND_PORT)])
        .serving_outside(port, &[(BACKEND, BACKEND_PORT)]);
    let dialled = address(Place::Node, family);
    let (local, remote) = (BACKEND.at(family, BACKEND_PORT), Place::RemotePod.at(family, BACKEND_PORT));
    let from = |place: Place| opening(protocol, place.at(family, DIAL_FROM), dialled);
    let outside = Place::Outside.at(family, DIAL_FROM);
    let pod = CLIENT.at(family, DIAL_FROM);
    Case::new(format!("Local serves whom: {}", name(protocol, family)), world)
        .packet(FromNetwork, from(Place::Outside), ToPod(BACKEND), from(Place::Outside).between(outside, local))
        .packet(FromPod, from(CLIENT), Forward, from(CLIENT).between(pod, remote).hop())
}

fn no_local_endpoint(protocol: u8, family: Family) -> Case {
    let port = at(Place::Node, protocol);
    let world = World::new()
        .with_external(port, KEEP | FrontendValue::DROP_EXTERNAL, &[(BACKEND, BACKEND_PORT)])
        .serving_outside(port, &[]);
    let dialled = address(Place::Node, family);
    let pod = CLIENT.at(family, DIAL_FROM);
    let from_pod = opening(protocol, pod, dialled);
    Case::new(format!("Local without endpoint: {}", name(protocol, family)), world)
        .dropped(
            FromNetwork,
            opening(protocol, Place::Outside.at(family, DIAL_FROM), dialled),
            DropReason::NoLocalEndpoint,
        )
        .packet(FromPod, &from_pod, ToPod(BACKEND), from_pod.between(pod, BACKEND.at(family, BACKEND_PORT)))
}

fn source_ranges(protocol: u8, family: Family) -> Case {
    let port = at(EXTERNAL_IP, protocol);
    let world = serving(EXTERNAL_IP, protocol, 0, BACKEND).only_for(port, Place::Outside);
    let dialled = address(EXTERNAL_IP, family);
    let from = |place: Place| opening(protocol, place.at(family, DIAL_FROM), dialled);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let arrives = from(Place::Outside).between(hidden, BACKEND.at(family, BACKEND_PORT));
    Case::new(format!("source ranges: {}", name(protocol, family)), world)
        .packet(FromNetwork, from(Place::Outside), ToPod(BACKEND), &arrives)
        .dropped(FromNetwork, from(Place::Router), DropReason::SourceNotAllowed)
        .dropped(FromPod, from(CLIENT), DropReason::SourceNotAllowed)
        .dropped(FromHost, from(Place::Node), DropReason::SourceNotAllowed)
        .packet(FromNetwork, from(Place::Outside), ToPod(BACKEND), &arrives)
}

/// Ports that are nobody's are the business of whoever has the address.
fn unused_ports(protocol: u8, family: Family) -> Case {
    let world = serving(Place::Node, protocol, 0, BACKEND).with_external(
        at(EXTERNAL_IP, protocol),
        0,
        &[(BACKEND, BACKEND_PORT)],
    );
    let outside = Place::Outside.at(family, DIAL_FROM);
    let pod = CLIENT.at(family, DIAL_FROM);
    let elsewhere = EXTERNAL_IP.at(family, 81);
    let masqueraded = opening(protocol, pod, elsewhere);
    let hidden = Place::Node.at(family, SNAT_PORT);
    Case::new(format!("unused ports of external addresses: {}", name(protocol, family)), world)
        .same(FromNetwork, opening(protocol, outside, Place::Node.at(family, 22)), Pass)
        .same(FromNetwork, opening(protocol, outside, elsewhere), Pass)
        .same(FromPod, opening(protocol, pod, Place::Node.at(family, 22)), Pass)
        .same(FromHostLoopback, opening(protocol, Place::Node.at(family, 5), Place::Node.at(family, 22)), Pass)
        .packet(FromPod, &masqueraded, Forward, masqueraded.between(hidden, elsewhere).hop())
        // A NodePort is at the addresses that have NodePorts, and at no others.
        .same(FromNetwork, opening(protocol, outside, EXTERNAL_IP.at(family, NODE_PORT)), Pass)
}

fn quote(packet: &Packet) -> Vec<u8> {
    packet.bytes()[..packet.network_len() + 8].to_vec()
}

fn requote(sent: &Packet, arrived: &Packet) -> Vec<u8> {
    let ports_end = sent.network_len() + 4;
    [&sent.bytes()[..ports_end], &arrived.bytes()[ports_end..ports_end + 4]].concat()
}

/// From the backend, and from a router on the way to it, to the client.
fn errors(protocol: u8, family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let sent = opening(protocol, client, dialled);
    let arrived = sent.between(hidden, server).hop();
    let seen = requote(&sent.hop(), &arrived);
    let router = Place::Router.ip(family);
    let answer = answering(protocol, server, hidden);
    let answered = answer.between(dialled, client).hop();
    let name = format!("errors about a NodePort's flow: {}", name(protocol, family));
    Case::new(name, serving(Place::Node, protocol, 0, Place::RemotePod))
        .packet(FromNetwork, &sent, Forward, &arrived)
        .packet(
            FromNetwork,
            port_unreachable(server.ip(), hidden.ip(), &quote(&arrived)),
            Forward,
            port_unreachable(dialled.ip(), client.ip(), &seen).hop(),
        )
        .packet(
            FromNetwork,
            too_big(router, hidden.ip(), &quote(&arrived)),
            Forward,
            too_big(router, client.ip(), &seen).hop(),
        )
        .packet(FromNetwork, &answer, Forward, &answered)
        .packet(
            FromNetwork,
            too_big(router, dialled.ip(), &quote(&answered)),
            Forward,
            too_big(router, server.ip(), &requote(&answer.hop(), &answered)).hop(),
        )
}

/// The node itself says that nobody listens.
fn error_from_the_node(protocol: u8, family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let server = Place::Node.at(family, BACKEND_PORT);
    let sent = opening(protocol, client, dialled);
    let arrived = sent.between(client, server);
    let name = format!("an error of a host-network backend: {}", name(protocol, family));
    Case::new(name, serving(Place::Node, protocol, 0, Place::Node)).packet(FromNetwork, &sent, Pass, &arrived).packet(
        ToNetwork,
        port_unreachable(server.ip(), client.ip(), &quote(&arrived)),
        Pass,
        port_unreachable(dialled.ip(), client.ip(), &requote(&sent, &arrived)),
    )
}

fn cluster_ip_from_outside(protocol: u8, family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), CLUSTER_IP.at(family, SERVICE_PORT));
    let backend = BACKEND.at(family, BACKEND_PORT);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let first = opening(protocol, client, dialled);
    let answer = answering(protocol, backend, hidden);
    Case::new(format!("a ClusterIP from outside: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromNetwork, &first, ToPod(BACKEND), first.between(hidden, backend))
        .packet(FromPod, &answer, Forward, answer.between(dialled, client).hop())
}

fn masquerade_all(protocol: u8, family: Family) -> Case {
    let (client, dialled) = (CLIENT.at(family, DIAL_FROM), CLUSTER_IP.at(family, SERVICE_PORT));
    let backend = BACKEND.at(family, BACKEND_PORT);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let first = opening(protocol, client, dialled);
    let answer = answering(protocol, backend, hidden);
    let world = world_with(protocol, BACKEND).and(|world| world.tables.node.flags = NodeConfig::MASQUERADE_ALL);
    Case::new(format!("--masquerade-all: {}", name(protocol, family)), world)
        .packet(FromPod, &first, ToPod(BACKEND), first.between(hidden, backend))
        .packet(FromPod, &answer, ToPod(CLIENT), answer.between(dialled, client))
}

/// A pod elsewhere dials a NodePort here that leads back to it.
fn back_to_the_client_itself(protocol: u8, family: Family) -> Case {
    let client = Place::RemotePod.at(family, DIAL_FROM);
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    let dialled = address(Place::Node, family);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let first = opening(protocol, client, dialled);
    let answer = answering(protocol, server, hidden);
    let name = format!("back to the client itself: {}", name(protocol, family));
    Case::new(name, serving(Place::Node, protocol, KEEP, Place::RemotePod))
        .packet(FromNetwork, &first, Forward, first.between(hidden, server).hop())
        .packet(FromNetwork, &answer, Forward, answer.between(dialled, client).hop())
}

/// One client port, one backend, a NodePort and an external IP whose clients are seen.
fn twice_the_same_backend(protocol: u8, family: Family) -> Case {
    let world = serving(Place::Node, protocol, KEEP, BACKEND).with_external(
        at(EXTERNAL_IP, protocol),
        KEEP,
        &[(BACKEND, BACKEND_PORT)],
    );
    let client = Place::Outside.at(family, DIAL_FROM);
    let other_port = Place::Outside.at(family, SNAT_PORT);
    let backend = BACKEND.at(family, BACKEND_PORT);
    let (one, two) = (address(Place::Node, family), address(EXTERNAL_IP, family));
    let (first, second) = (opening(protocol, client, one), opening(protocol, client, two));
    let answer = |to| answering(protocol, backend, to);
    Case::new(format!("one backend behind two addresses: {}", name(protocol, family)), world)
        .packet(FromNetwork, &first, ToPod(BACKEND), first.between(client, backend))
        .packet(FromNetwork, &second, ToPod(BACKEND), second.between(other_port, backend))
        .packet(FromPod, answer(client), Forward, answering(protocol, one, client).hop())
        .packet(FromPod, answer(other_port), Forward, answering(protocol, two, client).hop())
}

/// Established connections go on to their end, what begins begins elsewhere.
fn dead_backend(protocol: u8, family: Family) -> Case {
    let port = at(Place::Node, protocol);
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let (hidden, old, new) =
        (Place::Node.at(family, SNAT_PORT), BACKEND.at(family, BACKEND_PORT), OTHER.at(family, BACKEND_PORT));
    let first = opening(protocol, client, dialled);
    let second = match protocol {
        protocol::TCP => tcp(client, dialled, ACK),
        protocol::SCTP => crate::packets::build::sctp_data(client, dialled),
        _ => udp(client, dialled),
    };
    let (stays_with, stays_at) = if protocol == protocol::UDP { (OTHER, new) } else { (BACKEND, old) };
    Case::new(format!("a backend goes: {}", name(protocol, family)), serving(Place::Node, protocol, 0, BACKEND))
        .packet(FromNetwork, &first, ToPod(BACKEND), first.between(hidden, old))
        .packet(FromNetwork, &second, ToPod(BACKEND), second.between(hidden, old))
        .change(move |world| world.set_backends(port, &[(OTHER, BACKEND_PORT)]))
        .packet(FromNetwork, &second, ToPod(stays_with), second.between(hidden, stays_at))
        .packet(FromNetwork, &first, ToPod(OTHER), first.between(hidden, new))
        .packet(FromNetwork, &second, ToPod(OTHER), second.between(hidden, new))
}

/// No endpoints at all: the client is told at once, wherever it is.
fn refused(family: Family) -> Case {
    let world = World::new().with_external(at(Place::Node, protocol::TCP), 0, &[]).with_external(
        at(EXTERNAL_IP, protocol::UDP),
        0,
        &[],
    );
    let (tcp_port, udp_port) = (address(Place::Node, family), address(EXTERNAL_IP, family));
    let refusal = |syn: &Packet| reset(syn.dst, syn.src, 4 | ACK, 0, 0x1234_5679);
    let syn = |place: Place| tcp(place.at(family, DIAL_FROM), tcp_port, SYN);
    let datagram = udp(Place::Outside.at(family, DIAL_FROM), udp_port);
    let quoted = datagram.bytes()[..datagram.network_len() + 16].to_vec();
    let unreachable = port_unreachable(udp_port.ip(), datagram.src.ip(), &quoted);
    Case::new(format!("no endpoints, from everywhere: {family:?}"), world)
        .packet(FromNetwork, syn(Place::Outside), Answer, refusal(&syn(Place::Outside)))
        .packet(FromOverlay, syn(Place::TunnelPod), Answer, refusal(&syn(Place::TunnelPod)))
        .packet(FromPod, syn(CLIENT), Answer, refusal(&syn(CLIENT)))
        .packet(FromHostLoopback, syn(Place::Node), Answer, refusal(&syn(Place::Node)))
        .packet(FromNetwork, &datagram, Answer, unreachable)
}

fn out_of_hops(family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let (server, hidden) = (Place::RemotePod.at(family, BACKEND_PORT), Place::Node.at(family, SNAT_PORT));
    let syn = tcp(client, dialled, SYN);
    let answer = tcp(server, hidden, ACK);
    let world = serving(Place::Node, protocol::TCP, 0, Place::RemotePod);
    Case::new(format!("a NodePort's packets out of hops: {family:?}"), world)
        .same(FromNetwork, syn.hops(1), Pass)
        .packet(FromNetwork, syn.hops(2), Forward, syn.between(hidden, server).hops(1))
        .same(FromNetwork, answer.hops(1), Pass)
        .packet(FromNetwork, answer.hops(9), Forward, answer.between(dialled, client).hops(8))
}

fn fragments(family: Family) -> Case {
    let (client, dialled) = (Place::Outside.at(family, DIAL_FROM), address(Place::Node, family));
    let (server, hidden) = (Place::RemotePod.at(family, BACKEND_PORT), Place::Node.at(family, SNAT_PORT));
    let parts = |packet: &Packet| packet.fragments(32).map(|bytes| Frame::ip(family, bytes));
    let out = udp(client, dialled).carrying(&[1; 90]).identified(11);
    let back = udp(server, hidden).carrying(&[2; 90]).identified(12);
    let ([first, later], [first_out, later_out]) = (parts(&out), parts(&out.between(hidden, server).hop()));
    let ([first_back, later_back], [first_in, later_in]) = (parts(&back), parts(&back.between(dialled, client).hop()));
    let world = serving(Place::Node, protocol::UDP, 0, Place::RemotePod);
    Case::new(format!("fragments to a NodePort: {family:?}"), world)
        .packet(FromNetwork, first, Forward, first_out)
        .packet(FromNetwork, later, Forward, later_out)
        .packet(FromNetwork, first_back, Forward, first_in)
        .packet(FromNetwork, later_back, Forward, later_in)
}

/// NodePorts at the loopback address, as `--localhost-nodeports` has them.
fn loopback(family: Family) -> Case {
    let dialled = Place::Loopback.at(family, NODE_PORT);
    let client = Place::Loopback.at(family, DIAL_FROM);
    let (backend, hidden) = (BACKEND.at(family, BACKEND_PORT), Place::Node.at(family, SNAT_PORT));
    let world = serving(Place::Node, protocol::UDP, 0, BACKEND).and(|world| {
        let node = world.tables.frontends[&datapath::abi::FrontendKey::whole_address(Place::Node.addr(family))];
        let loopback = datapath::abi::FrontendKey::whole_address(Place::Loopback.addr(family));
        world.tables.frontends.insert(loopback, node);
    });
    let first = udp(client, dialled);
    let answer = udp(backend, hidden);
    Case::new(format!("a NodePort at the loopback address: {family:?}"), world)
        .packet(FromHostLoopback, &first, ToPod(BACKEND), first.between(hidden, backend))
        .packet(FromPod, &answer, Reroute, answer.between(dialled, client))
        .same(FromHostLoopback, udp(client, Place::Loopback.at(family, 53)), Pass)
        // Whoever else names the loopback address forges it.
        .same(FromNetwork, &first, Pass)
        .same(FromNetwork, udp(client, address(Place::Node, family)), Pass)
        .same(FromNetwork, udp(Place::Outside.at(family, DIAL_FROM), dialled), Pass)
        .same(FromPod, udp(CLIENT.at(family, DIAL_FROM), dialled), Pass)
}

/// What the node does for itself stays as it is.
fn bystanders(family: Family) -> Case {
    let (outside, node) = (Place::Outside.at(family, 443), Place::Node.at(family, 40_000));
    let world = serving(Place::Node, protocol::TCP, 0, Place::Node);
    let dial = tcp(Place::Outside.at(family, DIAL_FROM), address(Place::Node, family), SYN);
    let to_backend = dial.between(dial.src, Place::Node.at(family, BACKEND_PORT));
    let router = Place::Router.ip(family);
    let kind = if family == Family::V4 { 8 } else { 128 };
    Case::new(format!("the node's own traffic: {family:?}"), world)
        .same(ToNetwork, tcp(node, outside, SYN), Pass)
        .packet(FromNetwork, &dial, Pass, &to_backend)
        .same(ToNetwork, tcp(node, outside, ACK), Pass)
        .same(FromNetwork, tcp(outside, node, ACK), Pass)
        .same(FromNetwork, icmp(router, node.ip(), kind, 0, &[0; 16]), Pass)
        .same(ToNetwork, udp(node, outside), Pass)
        .same(FromHostLoopback, tcp(node, Place::Node.at(family, BACKEND_PORT), SYN), Pass)
        .same(FromHostLoopback, udp(Place::Loopback.at(family, 1), Place::Loopback.at(family, 53)), Pass)
}
