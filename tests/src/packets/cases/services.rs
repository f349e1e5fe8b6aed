//! Services: to a backend and back, from pods and from the node, wherever the backend is.

use datapath::abi::{Addr, DropReason, Family, protocol};

use super::{
    BACKEND, BACKEND_PORT, CLIENT, CLIENT_PORT, CLUSTER_IP, OTHER, PROTOCOLS, SERVICE_PORT, ends, name, world_with,
};
use crate::packets::{
    build::{ACK, Packet, answering, opening, tcp},
    case::{Case, Expected::*, Program::*},
    place::{FAMILIES, Place},
    world::SNAT_PORT,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend([
                to_a_local_pod(protocol, family),
                to_a_remote_pod(protocol, family),
                to_the_node(protocol, family),
                to_itself(protocol, family),
                to_itself_on_a_node_without_address(protocol, family),
                from_the_node_to_a_local_pod(protocol, family),
                from_the_node_to_a_remote_pod(protocol, family),
                from_the_node_to_itself(protocol, family),
                while_another_version_takes_over(protocol, family),
            ]);
        }
    }
    cases
}

fn later(protocol: u8, src: std::net::SocketAddr, dst: std::net::SocketAddr) -> Packet {
    match protocol {
        protocol::TCP => tcp(src, dst, ACK),
        _ => opening(protocol, src, dst).carrying(b"and then some more, an odd number"),
    }
}

fn to_a_local_pod(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let first = opening(protocol, e.client, e.service);
    let answer = answering(protocol, e.backend, e.client);
    let second = later(protocol, e.client, e.service);
    let name = format!("to a pod on the node and back: {}", name(protocol, family));
    Case::new(name, world_with(protocol, BACKEND))
        .packet(FromPod, &first, ToPod(BACKEND), first.between(e.client, e.backend))
        .packet(FromPod, &answer, ToPod(CLIENT), answer.between(e.service, e.client))
        .packet(FromPod, &second, ToPod(BACKEND), second.between(e.client, e.backend))
        .packet(FromPod, &answer, ToPod(CLIENT), answer.between(e.service, e.client))
}

/// What is known goes on; what would begin waits, where it is sent again by itself.
fn while_another_version_takes_over(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let known = opening(protocol, e.client, e.service);
    let answer = answering(protocol, e.backend, e.client);
    let second = later(protocol, e.client, e.service);
    let new = opening(protocol, OTHER.at(family, CLIENT_PORT), e.service);
    let becomes = new.between(OTHER.at(family, CLIENT_PORT), e.backend);
    let case = Case::new(
        format!("while another version takes over: {}", name(protocol, family)),
        world_with(protocol, BACKEND),
    )
    .packet(FromPod, &known, ToPod(BACKEND), known.between(e.client, e.backend))
    .change(|world| world.tables.node.held_until = u64::MAX)
    .packet(FromPod, &answer, ToPod(CLIENT), answer.between(e.service, e.client))
    .packet(FromPod, &second, ToPod(BACKEND), second.between(e.client, e.backend));
    let case = match protocol {
        protocol::UDP => case,
        _ => case.dropped(FromPod, &new, DropReason::ChangingOver),
    };
    // A time that is over.
    case.change(|world| world.tables.node.held_until = 1).packet(FromPod, &new, ToPod(BACKEND), becomes)
}

fn to_a_remote_pod(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let remote = Place::RemotePod.at(family, BACKEND_PORT);
    let first = opening(protocol, e.client, e.service);
    let answer = answering(protocol, remote, e.client);
    let name = format!("to a pod on another node and back: {}", name(protocol, family));
    Case::new(name, world_with(protocol, Place::RemotePod))
        .packet(FromPod, &first, Forward, first.between(e.client, remote).hop())
        .packet(FromNetwork, &answer, ToPod(CLIENT), answer.between(e.service, e.client))
        .packet(ForwardedToPod, &answer, Pass, answer.between(e.service, e.client))
}

fn to_the_node(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let node = Place::Node.at(family, BACKEND_PORT);
    let first = opening(protocol, e.client, e.service);
    let answer = answering(protocol, node, e.client);
    let name = format!("to a host-network backend and back: {}", name(protocol, family));
    Case::new(name, world_with(protocol, Place::Node))
        .packet(FromPod, &first, Pass, first.between(e.client, node))
        .packet(NodeToPod, &answer, Pass, answer.between(e.service, e.client))
}

fn to_itself(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let hidden = Place::Node.at(family, SNAT_PORT);
    reaches_itself(format!("a pod through its own Service: {}", name(protocol, family)), protocol, e, hidden, |_| {})
}

fn to_itself_on_a_node_without_address(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let hidden = CLUSTER_IP.at(family, SNAT_PORT);
    let name = format!("the same where the node has no address: {}", name(protocol, family));
    reaches_itself(name, protocol, e, hidden, |world| {
        world.tables.node.v4 = Addr::UNSPECIFIED;
        world.tables.node.v6 = Addr::UNSPECIFIED;
    })
}

fn reaches_itself(
    name: String,
    protocol: u8,
    e: super::Ends,
    hidden: std::net::SocketAddr,
    change: impl FnOnce(&mut crate::packets::world::World),
) -> Case {
    let first = opening(protocol, e.client, e.service);
    let itself = std::net::SocketAddr::new(e.client.ip(), BACKEND_PORT);
    let answer = answering(protocol, itself, hidden);
    Case::new(name, world_with(protocol, CLIENT).and(change))
        .packet(FromPod, &first, ToPod(CLIENT), first.between(hidden, itself))
        .packet(FromPod, &answer, ToPod(CLIENT), answer.between(e.service, e.client))
        .packet(FromPod, &first, ToPod(CLIENT), first.between(hidden, itself))
}

fn from_the_node_to_a_local_pod(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let node = Place::Node.at(family, CLIENT_PORT);
    let first = opening(protocol, node, e.service);
    let answer = answering(protocol, e.backend, node);
    let name = format!("from the node to a pod on it and back: {}", name(protocol, family));
    Case::new(name, world_with(protocol, BACKEND))
        .packet(FromHost, &first, ToPod(BACKEND), first.between(node, e.backend))
        .same(NodeToPod, first.between(node, e.backend), Pass)
        .packet(FromPod, &answer, Pass, answer.between(e.service, node))
}

fn from_the_node_to_a_remote_pod(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let node = Place::Node.at(family, CLIENT_PORT);
    let remote = Place::RemotePod.at(family, BACKEND_PORT);
    let first = opening(protocol, node, e.service);
    let answer = answering(protocol, remote, node);
    let name = format!("from the node to a pod on another and back: {}", name(protocol, family));
    Case::new(name, world_with(protocol, Place::RemotePod))
        .packet(FromHost, &first, Reroute, first.between(node, remote))
        .packet(FromNetwork, &answer, Pass, answer.between(e.service, node))
}

fn from_the_node_to_itself(protocol: u8, family: Family) -> Case {
    let node = Place::Node.at(family, CLIENT_PORT);
    let listener = Place::Node.at(family, BACKEND_PORT);
    let service = CLUSTER_IP.at(family, SERVICE_PORT);
    let hidden = CLUSTER_IP.at(family, SNAT_PORT);
    let first = opening(protocol, node, service);
    let answer = answering(protocol, listener, hidden);
    let name = format!("from the node to itself and back: {}", name(protocol, family));
    Case::new(name, world_with(protocol, Place::Node))
        .packet(FromHost, &first, Reroute, first.between(hidden, listener))
        .packet(FromHost, &answer, Reroute, answer.between(service, node))
}
