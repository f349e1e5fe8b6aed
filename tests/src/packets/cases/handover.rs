//! Beside a proxy that translates by netfilter: what may belong to a connection of its own is left to it.

use datapath::abi::{Family, NodeConfig, protocol};

use super::{BACKEND, BACKEND_PORT, CLIENT, CLUSTER_IP, SERVICE_PORT, ends, world_with};
use crate::packets::{
    build::{ACK, FIN_ACK, RST, SYN, SYN_ACK, opening, tcp},
    case::{Case, Expected::*, Program::*},
    place::{FAMILIES, Place},
    world::{SNAT_PORT, ServicePort, World},
};

const NODE_PORT: u16 = 30_080;

pub fn cases() -> Vec<Case> {
    let of_family = |family| {
        [
            at_a_cluster_ip(family),
            at_a_node_port(family),
            what_begins_is_ours(family),
            what_the_node_sends(family),
            alone(family),
        ]
    };
    FAMILIES.into_iter().flat_map(of_family).collect()
}

fn beside(mut world: World) -> World {
    world.tables.node.flags |= NodeConfig::HANDOVER;
    world
}

/// Whatever a connection's later packets are, they go to netfilter untouched, and so do its backend's answers.
fn at_a_cluster_ip(family: Family) -> Case {
    let e = ends(family);
    let remote = Place::RemotePod.at(family, BACKEND_PORT);
    let unused = CLUSTER_IP.at(family, SERVICE_PORT + 1);
    let mut case = Case::new(
        format!("a connection of netfilter's to a ClusterIP: {family:?}"),
        beside(world_with(protocol::TCP, Place::RemotePod)),
    );
    for flags in [ACK, FIN_ACK, RST, SYN_ACK] {
        case = case.same(FromPod, tcp(e.client, e.service, flags), Pass);
    }
    // Its Service may have lost the port meanwhile.
    case.same(FromPod, tcp(e.client, unused, ACK), Pass).same(
        FromNetwork,
        tcp(remote, Place::Node.at(family, 5000), ACK),
        Pass,
    )
}

fn at_a_node_port(family: Family) -> Case {
    let dialled = Place::Node.at(family, NODE_PORT);
    let client = Place::Outside.at(family, 4000);
    let port = ServicePort { ip: Place::Node, port: NODE_PORT, protocol: protocol::TCP };
    let world = World::new().with_external(port, 0, &[(Place::RemotePod, BACKEND_PORT)]);
    Case::new(format!("a connection of netfilter's to a NodePort: {family:?}"), beside(world))
        .same(FromNetwork, tcp(client, dialled, ACK), Pass)
        .same(FromNetwork, tcp(client, dialled, FIN_ACK), Pass)
}

/// A SYN or a datagram begins a flow of ours, which then goes on as any other.
fn what_begins_is_ours(family: Family) -> Case {
    let e = ends(family);
    let (syn, ack) = (tcp(e.client, e.service, SYN), tcp(e.client, e.service, ACK));
    let datagram = opening(protocol::UDP, e.client, e.service);
    let udp = ServicePort { ip: CLUSTER_IP, port: SERVICE_PORT, protocol: protocol::UDP };
    let world = world_with(protocol::TCP, BACKEND).with(udp, &[(BACKEND, BACKEND_PORT)]);
    Case::new(format!("what begins is ours: {family:?}"), beside(world))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .packet(FromPod, tcp(e.backend, e.client, SYN_ACK), ToPod(CLIENT), tcp(e.service, e.client, SYN_ACK))
        .packet(FromPod, &ack, ToPod(BACKEND), ack.between(e.client, e.backend))
        .packet(FromPod, &datagram, ToPod(BACKEND), datagram.between(e.client, e.backend))
}

/// Netfilter has seen it before us and left it alone.
fn what_the_node_sends(family: Family) -> Case {
    let e = ends(family);
    let node = Place::Node.at(family, 4000);
    let ack = tcp(node, e.service, ACK);
    Case::new(
        format!("what the node sends has passed netfilter: {family:?}"),
        beside(world_with(protocol::TCP, BACKEND)),
    )
    .packet(FromHost, &ack, ToPod(BACKEND), ack.between(node, e.backend))
}

/// With nobody else there a connection that nobody knows begins anew: so a Maglev table's
/// goes on where another node had it.
fn alone(family: Family) -> Case {
    let e = ends(family);
    let ack = tcp(e.client, e.service, ACK);
    let dialled = Place::Node.at(family, NODE_PORT);
    let from_outside = tcp(Place::Outside.at(family, 4000), dialled, ACK);
    let port = ServicePort { ip: Place::Node, port: NODE_PORT, protocol: protocol::TCP };
    let world = world_with(protocol::TCP, BACKEND).with_external(port, 0, &[(BACKEND, BACKEND_PORT)]);
    Case::new(format!("a connection that nobody knows: {family:?}"), world)
        .packet(FromPod, &ack, ToPod(BACKEND), ack.between(e.client, e.backend))
        .packet(
            FromNetwork,
            &from_outside,
            ToPod(BACKEND),
            from_outside.between(Place::Node.at(family, SNAT_PORT), e.backend),
        )
}
