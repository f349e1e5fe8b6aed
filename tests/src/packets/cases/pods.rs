//! Pods among themselves and with the node, held pods among them.

use datapath::abi::{DropReason, Family, protocol};

use super::{BACKEND, BACKEND_PORT, CLIENT, OTHER, PROTOCOLS, ends, name, world_with};
use crate::packets::{
    build::{answering, echo, icmp, opening},
    case::{Case, Expected::*, Program::*},
    place::{FAMILIES, Place},
    world::World,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend([directly(protocol, family), held(protocol, family), held_sends(protocol, family)]);
            cases.push(shaped(protocol, family));
        }
        cases.extend([pings(family), group(family)]);
    }
    cases
}

fn directly(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let there = opening(protocol, e.client, e.other);
    let back = answering(protocol, e.other, e.client);
    let (probe, probed) = (
        opening(protocol, Place::Node.at(family, 5), e.other),
        answering(protocol, e.other, Place::Node.at(family, 5)),
    );
    let from_afar = opening(protocol, Place::RemotePod.at(family, 5), e.other);
    // The client has a flow of its own to a Service, so its packets are looked up.
    let service = opening(protocol, CLIENT.at(family, 9), e.service);
    Case::new(format!("pods without a Service: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromPod, &service, ToPod(BACKEND), service.between(CLIENT.at(family, 9), e.backend))
        .same(FromPod, &there, ToPod(OTHER))
        .same(FromPod, &back, ToPod(CLIENT))
        .same(NodeToPod, &probe, Pass)
        .same(FromPod, &probed, Pass)
        .same(FromNetwork, &from_afar, ToPod(OTHER))
        .same(ForwardedToPod, &from_afar, Pass)
        .same(FromNetwork, opening(protocol, Place::Outside.at(family, 5), Place::Node.at(family, 22)), Pass)
        .same(ForwardedToPod, opening(protocol, Place::Outside.at(family, 5), Place::RemotePod.at(family, 22)), Pass)
}

fn held(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let to_service = opening(protocol, e.client, e.service);
    let arrived = to_service.between(e.client, e.backend);
    let probe = opening(protocol, Place::Node.at(family, 5), e.backend);
    let far = opening(protocol, Place::RemotePod.at(family, 5), e.backend);
    let world = world_with(protocol, BACKEND).and(|world| world.hold(BACKEND, true));
    Case::new(format!("a held pod is shut to all but the node: {}", name(protocol, family)), world)
        .dropped(FromPod, &to_service, DropReason::PodHeld)
        .dropped(FromPod, &arrived, DropReason::PodHeld)
        .dropped(FromNetwork, &far, DropReason::PodHeld)
        .dropped(ForwardedToPod, &far, DropReason::PodHeld)
        .same(NodeToPod, &probe, Pass)
        .same(DeviceToPod, &probe, Pass)
        .change(|world| world.hold(BACKEND, false))
        .packet(FromPod, &to_service, ToPod(BACKEND), &arrived)
        .same(FromNetwork, &far, ToPod(BACKEND))
        .change(|world| world.hold(BACKEND, true))
        .dropped(FromPod, &to_service, DropReason::PodHeld)
        .dropped(FromPod, answering(protocol, e.other, e.backend), DropReason::PodHeld)
}

fn held_sends(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let to = |dst| opening(protocol, e.client, dst);
    let held = World::new().and(|world| world.hold(CLIENT, true));
    Case::new(format!("a held pod reaches the node only: {}", name(protocol, family)), held)
        .same(FromHeldPod, answering(protocol, e.client, Place::Node.at(family, 5)), Pass)
        .same(FromHeldPod, to(Place::Group.at(family, 5)), Pass)
        .dropped(FromHeldPod, to(e.other), DropReason::PodHeld)
        .dropped(FromHeldPod, to(e.service), DropReason::PodHeld)
        .dropped(FromHeldPod, to(Place::Outside.at(family, 443)), DropReason::PodHeld)
        .dropped(FromHeldPod, to(Place::RemotePod.at(family, 80)), DropReason::PodHeld)
        .dropped(FromHeldPod, echo(e.client.ip(), e.other.ip()), DropReason::PodHeld)
}

/// What somebody shapes goes on by the stack, which takes the hop.
fn shaped(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let (remote, tunnelled) = (Place::RemotePod.at(family, 9), Place::TunnelPod.at(family, 9));
    let service = opening(protocol, e.client, e.service);
    let server = Place::RemotePod.at(family, BACKEND_PORT);
    Case::new(format!("a shaped pod: {}", name(protocol, family)), world_with(protocol, Place::RemotePod))
        .same(FromShapedPod, opening(protocol, e.client, e.other), ToPod(OTHER))
        .same(FromShapedPod, opening(protocol, e.client, remote), Forward)
        .same(FromShapedPod, opening(protocol, e.client, tunnelled), Tunnel(Place::Peer))
        .packet(FromShapedPod, &service, Forward, service.between(e.client, server))
}

fn pings(family: Family) -> Case {
    let e = ends(family);
    let reply = if family == Family::V4 { 0 } else { 129 };
    Case::new(format!("pings: {family:?}"), world_with(protocol::TCP, BACKEND))
        .same(FromPod, echo(e.client.ip(), e.other.ip()), ToPod(OTHER))
        .same(FromPod, icmp(e.other.ip(), e.client.ip(), reply, 0, b"0123456789abcdef"), ToPod(CLIENT))
        .same(FromPod, echo(e.client.ip(), Place::Outside.ip(family)), Pass)
        .same(FromNetwork, icmp(Place::Outside.ip(family), e.client.ip(), reply, 0, b"!"), ToPod(CLIENT))
}

/// Neighbours and routers are found by groups, also on our device.
fn group(family: Family) -> Case {
    let to_group = |place: Place| opening(protocol::UDP, place.at(family, 5353), Place::Group.at(family, 5353));
    let solicitation = if family == Family::V4 { 10 } else { 133 };
    let router = icmp(Place::Node.ip(family), Place::Group.ip(family), solicitation, 0, b"");
    Case::new(format!("to a group: {family:?}"), world_with(protocol::UDP, BACKEND))
        .same(FromPod, to_group(CLIENT), Pass)
        .same(FromHost, to_group(Place::Node), Pass)
        .same(FromHost, router, Pass)
        .same(FromNetwork, to_group(Place::Outside), Pass)
}
