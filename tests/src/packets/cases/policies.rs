//! Pods that policies select: who reaches them, whom they reach, what answers pass, what is counted.

use std::net::SocketAddr;

use datapath::abi::{DropReason::*, Family, PolicyVerdict, direction, protocol};

use super::{BACKEND, BACKEND_PORT, CLIENT, OTHER, PROTOCOLS, SERVICE_PORT, ends, name, service};
use crate::packets::{
    build::{ACK, Packet, answering, echo_of, echo_reply, opening, port_unreachable, sctp_data, tcp, udp},
    case::{Case, Expected::*, Frame, Program::*},
    place::{FAMILIES, Place},
    policies::{BOTH, Ports},
    world::{SNAT_PORT, ServicePort, World},
};

const IN: u32 = direction::INGRESS;
const OUT: u32 = direction::EGRESS;
const FRIENDS: u32 = 7;
const NETWORK: u32 = 8;
const EXCEPT: u32 = 9;
const RULE: u32 = 5;
const LIST: Ports = Ports(3);

const YES: PolicyVerdict = PolicyVerdict { rule: RULE, ports: 0 };
const NO: PolicyVerdict = PolicyVerdict { rule: PolicyVerdict::DENY | RULE, ports: 0 };
const BY_PORT: PolicyVerdict = PolicyVerdict { rule: 0, ports: LIST.number() };

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend([
                into_a_pod(protocol, family),
                out_of_a_pod(protocol, family),
                by_network(protocol, family),
                by_port(protocol, family),
                denied_by_a_rule(protocol, family),
                in_another_epoch(protocol, family),
                behind_a_service(protocol, family),
                behind_a_node_port(protocol, family),
                itself(protocol, family),
                shaped(protocol, family),
            ]);
        }
        for protocol in [protocol::TCP, protocol::UDP] {
            cases.push(fragments(protocol, family));
        }
        cases.extend([
            pings(family),
            errors(family),
            late(family),
            older_than_the_policy(family),
            datagrams_older_than_the_policy(family),
            link(family),
        ]);
    }
    cases
}

/// What answers an opening packet, and opens nothing itself.
fn reply(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Packet {
    if protocol == protocol::SCTP { sctp_data(src, dst) } else { answering(protocol, src, dst) }
}

/// Only the client may come in, or only it may be gone to.
fn isolated(pod: Place, way: u32) -> World {
    World::new().and(|world| {
        world.judge(pod, &[way]);
        world.class_pod(if way == IN { CLIENT } else { BACKEND }, FRIENDS);
        world.say(pod, way, FRIENDS, YES);
    })
}

fn into_a_pod(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let (far, outside) = (Place::RemotePod.at(family, 9), Place::Outside.at(family, 9));
    let to_pod = |from| opening(protocol, from, e.backend);
    Case::new(format!("into a pod that policies isolate: {}", name(protocol, family)), isolated(BACKEND, IN))
        .same(FromPod, to_pod(e.client), ToPod(BACKEND))
        .same(FromJudgedPod, reply(protocol, e.backend, e.client), ToPod(CLIENT))
        .dropped(FromPod, to_pod(e.other), IngressDenied)
        .dropped(FromNetwork, to_pod(far), IngressDenied)
        .dropped(FromOverlay, to_pod(Place::TunnelPod.at(family, 9)), IngressDenied)
        .dropped(ForwardedToPod, to_pod(outside), IngressDenied)
        .same(NodeToPod, to_pod(Place::Node.at(family, 9)), Pass)
        // It may go where it likes, and is answered.
        .same(FromJudgedPod, opening(protocol, BACKEND.at(family, 9), e.other), ToPod(OTHER))
        .same(FromPod, reply(protocol, e.other, BACKEND.at(family, 9)), ToPod(BACKEND))
        .dropped(FromPod, opening(protocol, e.other, BACKEND.at(family, 10)), IngressDenied)
}

fn out_of_a_pod(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let to = |dst| opening(protocol, e.client, dst);
    let node = Place::Node.at(family, 22);
    Case::new(format!("out of a pod that policies isolate: {}", name(protocol, family)), isolated(CLIENT, OUT))
        .same(FromJudgedPod, to(e.backend), ToPod(BACKEND))
        .same(FromPod, reply(protocol, e.backend, e.client), ToPod(CLIENT))
        .dropped(FromJudgedPod, to(e.other), EgressDenied)
        .dropped(FromJudgedPod, to(Place::Outside.at(family, 443)), EgressDenied)
        .dropped(FromJudgedPod, to(Place::RemotePod.at(family, 9)), EgressDenied)
        .dropped(FromJudgedPod, to(Place::TunnelPod.at(family, 9)), EgressDenied)
        .same(FromJudgedPod, to(node), Pass)
        .same(FromPod, opening(protocol, e.other, CLIENT.at(family, 9)), ToPod(CLIENT))
        .same(FromJudgedPod, reply(protocol, CLIENT.at(family, 9), e.other), ToPod(OTHER))
        .dropped(FromJudgedPod, opening(protocol, e.other, e.backend), SourceForged)
}

/// The longest prefix counts; who is allowed as a pod is, whatever its network.
fn by_network(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let from = |place: Place| opening(protocol, place.at(family, 9), e.backend);
    let world = World::new().and(|world| {
        world.judge(BACKEND, &[IN]);
        world.class_network(Place::Outside, [24, 48], NETWORK);
        world.class_network(Place::RemotePod, [16, 32], NETWORK);
        world.class_network(Place::RemotePod, [32, 128], EXCEPT);
        world.class_pod(OTHER, FRIENDS);
        world.class_pod(CLIENT, FRIENDS);
        world.say(BACKEND, IN, NETWORK, YES);
    });
    Case::new(format!("networks of peers: {}", name(protocol, family)), world)
        .same(FromNetwork, from(Place::Outside), ToPod(BACKEND))
        .dropped(FromNetwork, from(Place::RemotePod), IngressDenied)
        .dropped(FromNetwork, from(Place::Router), IngressDenied)
        .same(FromOverlay, from(Place::TunnelPod), ToPod(BACKEND))
        .same(FromPod, from(CLIENT), ToPod(BACKEND))
        .change(|world| world.class_pod(Place::RemotePod, EXCEPT + 1))
        .change(|world| world.say(BACKEND, IN, EXCEPT + 1, YES))
        .same(FromNetwork, from(Place::RemotePod), ToPod(BACKEND))
}

fn by_port(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let another = if protocol == protocol::UDP { protocol::TCP } else { protocol::UDP };
    let to = |port| opening(protocol, e.client, BACKEND.at(family, port));
    let world = World::new().and(|world| {
        world.judge(BACKEND, &[IN]);
        world.say(BACKEND, IN, 0, BY_PORT);
        world.rule_for(LIST, protocol, 80, 16, RULE);
        // 8192 to 8199, but not the last.
        world.rule_for(LIST, protocol, 8192, 13, RULE);
        world.rule_for(LIST, protocol, 8199, 16, PolicyVerdict::DENY | RULE);
    });
    Case::new(format!("ports by number and range: {}", name(protocol, family)), world)
        .same(FromPod, to(80), ToPod(BACKEND))
        .dropped(FromPod, to(81), IngressDenied)
        .dropped(FromPod, to(8191), IngressDenied)
        .same(FromPod, to(8192), ToPod(BACKEND))
        .same(FromPod, to(8198), ToPod(BACKEND))
        .dropped(FromPod, to(8199), IngressDenied)
        .dropped(FromPod, to(8200), IngressDenied)
        .dropped(FromPod, opening(another, e.client, BACKEND.at(family, 80)), IngressDenied)
        .dropped(FromPod, echo_of(e.client.ip(), e.backend.ip(), 7), IngressDenied)
        .change(move |world| world.rule_for(LIST, protocol, 0, 0, RULE))
        .same(FromPod, to(81), ToPod(BACKEND))
        .dropped(FromPod, to(8199), IngressDenied)
}

/// Where rules deny, those who none is about are allowed.
fn denied_by_a_rule(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let all = PolicyVerdict { rule: PolicyVerdict::DEFAULT_ALLOW, ports: 0 };
    let world = World::new().and(|world| {
        world.judge(BACKEND, &BOTH);
        world.class_pod(CLIENT, FRIENDS);
        for way in BOTH {
            world.say(BACKEND, way, 0, all);
            world.say(BACKEND, way, FRIENDS, NO);
        }
    });
    Case::new(format!("a rule that denies: {}", name(protocol, family)), world)
        .dropped(FromPod, opening(protocol, e.client, e.backend), IngressDenied)
        .same(FromPod, opening(protocol, e.other, e.backend), ToPod(BACKEND))
        .dropped(FromJudgedPod, opening(protocol, e.backend, e.client), EgressDenied)
        .same(FromJudgedPod, opening(protocol, BACKEND.at(family, 9), e.other), ToPod(OTHER))
}

/// What was allowed in another epoch is judged again, with its next packet.
fn in_another_epoch(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let next = match protocol {
        protocol::TCP => tcp(e.client, e.backend, ACK),
        _ => opening(protocol, e.client, e.backend),
    };
    let back = match protocol {
        protocol::TCP => tcp(e.backend, e.client, ACK),
        _ => reply(protocol, e.backend, e.client),
    };
    let both_judged = isolated(BACKEND, IN).and(|world| {
        world.judge(CLIENT, &[OUT]);
        world.class_pod(BACKEND, FRIENDS);
        world.say(CLIENT, OUT, FRIENDS, YES);
    });
    Case::new(format!("another epoch: {}", name(protocol, family)), both_judged)
        .same(FromJudgedPod, opening(protocol, e.client, e.backend), ToPod(BACKEND))
        .same(FromJudgedPod, &back, ToPod(CLIENT))
        .change(|world| world.say(BACKEND, IN, FRIENDS, NO))
        .same(FromJudgedPod, &next, ToPod(BACKEND))
        .change(World::next_epoch)
        .dropped(FromJudgedPod, &next, IngressDenied)
        // It may go where it likes, but what answers that is still of a flow that is denied.
        .same(FromJudgedPod, &back, ToPod(CLIENT))
        .dropped(FromJudgedPod, &next, IngressDenied)
        .change(|world| world.say(BACKEND, IN, FRIENDS, YES))
        .change(World::next_epoch)
        .same(FromJudgedPod, &next, ToPod(BACKEND))
        .same(FromJudgedPod, &back, ToPod(CLIENT))
        .change(|world| world.say(CLIENT, OUT, FRIENDS, NO))
        .change(World::next_epoch)
        .dropped(FromJudgedPod, &next, EgressDenied)
}

/// The backend is judged, and the client that dialled.
fn behind_a_service(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let world = isolated(BACKEND, IN).with(service(protocol), &[(BACKEND, BACKEND_PORT)]);
    let dialled = |from: SocketAddr| opening(protocol, from, e.service);
    Case::new(format!("behind a Service: {}", name(protocol, family)), world)
        .packet(FromPod, dialled(e.client), ToPod(BACKEND), opening(protocol, e.client, e.backend))
        .packet(
            FromJudgedPod,
            reply(protocol, e.backend, e.client),
            ToPod(CLIENT),
            reply(protocol, e.service, e.client),
        )
        .dropped(FromPod, dialled(e.other), IngressDenied)
        .change(|world| world.judge(OTHER, &[OUT]))
        .dropped(FromJudgedPod, dialled(e.other), EgressDenied)
}

/// The client is hidden from the pod, not from its policies.
fn behind_a_node_port(protocol: u8, family: Family) -> Case {
    let port = ServicePort { ip: Place::Node, port: 30_080, protocol };
    let (dialled, server) = (Place::Node.at(family, 30_080), BACKEND.at(family, BACKEND_PORT));
    let (client, hidden) = (Place::Outside.at(family, 9), Place::Node.at(family, SNAT_PORT));
    let world = World::new().masquerading().with_external(port, 0, &[(BACKEND, BACKEND_PORT)]).and(|world| {
        world.judge(BACKEND, &BOTH);
        world.class_network(Place::Outside, [32, 128], NETWORK);
        world.say(BACKEND, IN, NETWORK, YES);
    });
    Case::new(format!("behind a NodePort: {}", name(protocol, family)), world)
        .packet(FromNetwork, opening(protocol, client, dialled), ToPod(BACKEND), opening(protocol, hidden, server))
        .packet(FromJudgedPod, reply(protocol, server, hidden), Forward, reply(protocol, dialled, client).hop())
}

/// A pod reaches itself, also by way of a Service.
fn itself(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let server = CLIENT.at(family, BACKEND_PORT);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let world = World::new()
        .masquerading()
        .with(service(protocol), &[(CLIENT, BACKEND_PORT)])
        .and(|world| world.judge(CLIENT, &BOTH));
    Case::new(format!("a judged pod to itself: {}", name(protocol, family)), world)
        .packet(FromJudgedPod, opening(protocol, e.client, e.service), ToPod(CLIENT), opening(protocol, hidden, server))
        .packet(FromJudgedPod, reply(protocol, server, hidden), ToPod(CLIENT), reply(protocol, e.service, e.client))
}

/// Judged once, before the stack has it.
fn shaped(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let world = isolated(BACKEND, IN).with(service(protocol), &[(BACKEND, BACKEND_PORT)]).and(|world| {
        world.judge(OTHER, &[OUT]);
    });
    Case::new(format!("a shaped pod that policies select: {}", name(protocol, family)), world)
        .packet(
            FromShapedPod,
            opening(protocol, e.client, e.service),
            ToPod(BACKEND),
            opening(protocol, e.client, e.backend),
        )
        .dropped(FromShapedPod, opening(protocol, e.other, e.backend), IngressDenied)
        .dropped(FromJudgedShapedPod, opening(protocol, e.other, e.service), EgressDenied)
        .dropped(FromJudgedShapedPod, opening(protocol, e.client, e.other), SourceForged)
}

fn fragments(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let body: Vec<u8> = (0..100).collect();
    let parts = |to: SocketAddr, identification| {
        let packet = opening(protocol, e.client, to).carrying(&body).identified(identification);
        packet.fragments(32).map(|bytes| Frame::ip(family, bytes))
    };
    let world = World::new().and(|world| {
        world.judge(BACKEND, &[IN]);
        world.say(BACKEND, IN, 0, BY_PORT);
        world.rule_for(LIST, protocol, BACKEND_PORT, 16, RULE);
    });
    let ([allowed, rest], [denied, its_rest]) = (parts(e.backend, 5), parts(BACKEND.at(family, SERVICE_PORT), 6));
    let [_, orphan] = parts(e.backend, 7);
    Case::new(format!("fragments into a judged pod: {}", name(protocol, family)), world)
        .same(FromPod, allowed, ToPod(BACKEND))
        .same(FromPod, rest, ToPod(BACKEND))
        .dropped(FromPod, denied, IngressDenied)
        .dropped(FromPod, its_rest, IngressDenied)
        .dropped(FromPod, orphan, IngressDenied)
}

/// ICMP is allowed by rules without ports only; an echo is answered.
fn pings(family: Family) -> Case {
    let e = ends(family);
    let (client, pod, other) = (e.client.ip(), e.backend.ip(), e.other.ip());
    let world = isolated(BACKEND, IN).and(|world| {
        world.judge(BACKEND, &BOTH);
        world.class_pod(OTHER, EXCEPT);
        world.say(BACKEND, IN, FRIENDS, YES);
        world.say(BACKEND, IN, EXCEPT, BY_PORT);
        world.rule_for(LIST, protocol::TCP, 0, 0, RULE);
    });
    Case::new(format!("pings of a judged pod: {family:?}"), world)
        .dropped(FromJudgedPod, echo_reply(pod, client, 7), EgressDenied)
        .same(FromPod, echo_of(client, pod, 7), ToPod(BACKEND))
        .same(FromJudgedPod, echo_reply(pod, client, 7), ToPod(CLIENT))
        .dropped(FromJudgedPod, echo_reply(pod, client, 8), EgressDenied)
        .dropped(FromPod, echo_of(other, pod, 7), IngressDenied)
        .dropped(FromJudgedPod, echo_of(pod, client, 9), EgressDenied)
        .wait(40)
        .dropped(FromJudgedPod, echo_reply(pod, client, 7), EgressDenied)
}

/// An error about a flow that is allowed passes, and no other.
fn errors(family: Family) -> Case {
    let e = ends(family);
    let world = isolated(BACKEND, IN).and(|world| {
        world.judge(BACKEND, &BOTH);
        world.say(BACKEND, IN, FRIENDS, YES);
    });
    let dialled = udp(e.client, e.backend);
    let error = port_unreachable(e.backend.ip(), e.client.ip(), &dialled.bytes());
    let forged = port_unreachable(e.backend.ip(), e.other.ip(), &udp(e.other, e.backend).bytes());
    Case::new(format!("errors about a judged pod's flows: {family:?}"), world)
        .dropped(FromJudgedPod, &error, EgressDenied)
        .same(FromPod, &dialled, ToPod(BACKEND))
        .same(FromJudgedPod, &error, ToPod(CLIENT))
        .dropped(FromJudgedPod, &forged, EgressDenied)
}

fn late(family: Family) -> Case {
    let e = ends(family);
    Case::new(format!("an answer that comes late: {family:?}"), isolated(BACKEND, IN))
        .same(FromJudgedPod, udp(e.backend, e.other), ToPod(OTHER))
        .wait(110)
        .same(FromPod, udp(e.other, e.backend), ToPod(BACKEND))
        .wait(130)
        .dropped(FromPod, udp(e.other, e.backend), IngressDenied)
}

/// A connection that nobody noted goes on if it looks like one that the pod opened, and can open nothing.
fn older_than_the_policy(family: Family) -> Case {
    let (pod, server) = (BACKEND.at(family, 40_000), OTHER.at(family, 80));
    Case::new(format!("a connection older than its policies: {family:?}"), isolated(BACKEND, IN))
        .same(FromPod, tcp(server, pod, ACK), ToPod(BACKEND))
        .same(FromJudgedPod, tcp(pod, server, ACK), ToPod(OTHER))
        .dropped(FromPod, opening(protocol::TCP, server, pod), IngressDenied)
        .dropped(FromPod, tcp(OTHER.at(family, 40_000), BACKEND.at(family, 80), ACK), IngressDenied)
        // What the pod sends on such a connection doesn't make it its own.
        .same(FromJudgedPod, tcp(BACKEND.at(family, 80), OTHER.at(family, 40_000), ACK), ToPod(OTHER))
        .dropped(FromPod, tcp(OTHER.at(family, 40_000), BACKEND.at(family, 80), ACK), IngressDenied)
}

/// Datagrams of a flow that nobody noted are taken for what their ports say, as long as there may be one.
fn datagrams_older_than_the_policy(family: Family) -> Case {
    let (pod, other) = (|port| BACKEND.at(family, port), |port| OTHER.at(family, port));
    let world = isolated(BACKEND, IN).and(|world| world.was_open(BACKEND));
    Case::new(format!("datagrams older than their policies: {family:?}"), world)
        // A late answer passes, and what it answers is denied all the same.
        .same(FromJudgedPod, udp(pod(80), other(40_000)), ToPod(OTHER))
        .dropped(FromPod, udp(other(40_000), pod(80)), IngressDenied)
        // What the pod has asked for reaches it.
        .same(FromPod, udp(other(80), pod(40_000)), ToPod(BACKEND))
        .same(FromJudgedPod, udp(pod(40_000), other(80)), ToPod(OTHER))
        .dropped(FromPod, udp(other(40_001), pod(40_001)), IngressDenied)
        .dropped(FromPod, udp(other(80), pod(81)), IngressDenied)
        .wait(10)
        .dropped(FromPod, udp(other(80), pod(40_002)), IngressDenied)
        .same(FromJudgedPod, udp(pod(80), other(40_003)), ToPod(OTHER))
        .dropped(FromPod, udp(other(40_003), pod(80)), IngressDenied)
        .same(FromPod, udp(other(80), pod(40_000)), ToPod(BACKEND))
        .wait(115)
        .same(FromJudgedPod, udp(pod(80), other(40_004)), ToPod(OTHER))
        .same(FromPod, udp(other(40_004), pod(80)), ToPod(BACKEND))
}

/// What is for the link itself is nobody's to deny.
fn link(family: Family) -> Case {
    let world = World::new().and(|world| world.judge(CLIENT, &BOTH));
    let to_group = udp(CLIENT.at(family, 5353), Place::Group.at(family, 5353));
    Case::new(format!("a judged pod to its link: {family:?}"), world).same(FromJudgedPod, to_group, Pass)
}
