//! Which backend a client gets, and how long it keeps it: affinity, and flows whose backend goes.
//!
//! A Service moves to another backend by a new block; who stays with the old one
//! was bound to it.

use datapath::abi::{BlockRef, Family, protocol};

use super::{BACKEND, BACKEND_PORT, CLIENT_PORT, OTHER, PROTOCOLS, ends, name, service, world_with};
use crate::packets::{
    build::{ACK, opening, tcp, udp},
    case::{Case, Expected::*, Program::*},
    place::{FAMILIES, Place},
    world::{World, key},
};

/// The affinity's timeout in seconds.
const AFFINITY: u32 = 10;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend([
                affinity_holds_and_expires(protocol, family),
                affinity_ends_with_its_backend(protocol, family),
                affinity_ends_when_the_id_is_reused(protocol, family),
                affinity_ends_when_its_backend_drains(protocol, family),
                draining_flows_go_on(protocol, family),
                new_flows_move_at_once(protocol, family),
            ]);
        }
        cases.extend([
            udp_leaves_a_dead_backend(family),
            udp_leaves_a_reused_id(family),
            udp_leaves_a_service_whose_address_is_anothers(family),
            a_syn_leaves_a_service_whose_address_is_anothers(family),
            udp_idles(family),
            udp_answers_keep_a_flow(family),
            tcp_stays_with_a_dead_backend(family),
            tcp_reselects_before_it_is_established(family),
        ]);
    }
    cases
}

/// The Service moves on, and its backend is as alive as before.
fn move_block(world: &mut World, protocol: u8) {
    world.set_block(service(protocol), &[(OTHER, BACKEND_PORT)]);
}

fn with_affinity(protocol: u8) -> World {
    world_with(protocol, BACKEND)
        .and(|world| world.frontend(service(protocol), |frontend| frontend.affinity_seconds = AFFINITY))
}

fn affinity_holds_and_expires(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let from = |place: Place, port| opening(protocol, place.at(family, port), e.service);
    let to = |place: Place, port, backend| opening(protocol, place.at(family, port), backend);
    let client = super::CLIENT;
    Case::new(format!("affinity holds and expires: {}", name(protocol, family)), with_affinity(protocol))
        .packet(FromPod, from(client, 4000), ToPod(BACKEND), to(client, 4000, e.backend))
        .change(move |world| move_block(world, protocol))
        .packet(FromPod, from(client, 4001), ToPod(BACKEND), to(client, 4001, e.backend))
        .packet(FromHost, from(Place::Node, 4001), ToPod(OTHER), to(Place::Node, 4001, e.other))
        .wait(8)
        .packet(FromPod, from(client, 4002), ToPod(BACKEND), to(client, 4002, e.backend))
        .wait(8)
        .packet(FromPod, from(client, 4003), ToPod(BACKEND), to(client, 4003, e.backend))
        .wait(12)
        .packet(FromPod, from(client, 4004), ToPod(OTHER), to(client, 4004, e.other))
}

fn affinity_ends(what: &str, protocol: u8, family: Family, change: impl Fn(&mut World) + Sync + 'static) -> Case {
    let e = ends(family);
    let from = |port| opening(protocol, super::CLIENT.at(family, port), e.service);
    let to = |port, backend| opening(protocol, super::CLIENT.at(family, port), backend);
    Case::new(format!("{what}: {}", name(protocol, family)), with_affinity(protocol))
        .packet(FromPod, from(4000), ToPod(BACKEND), to(4000, e.backend))
        .change(change)
        .packet(FromPod, from(4001), ToPod(OTHER), to(4001, e.other))
        .packet(FromPod, from(4002), ToPod(OTHER), to(4002, e.other))
}

fn affinity_ends_with_its_backend(protocol: u8, family: Family) -> Case {
    affinity_ends("affinity ends with its backend", protocol, family, move |world| {
        world.set_backends(service(protocol), &[(OTHER, BACKEND_PORT)]);
    })
}

fn affinity_ends_when_its_backend_drains(protocol: u8, family: Family) -> Case {
    affinity_ends("affinity ends when its backend drains", protocol, family, move |world| {
        world.drain_to(service(protocol), &[(OTHER, BACKEND_PORT)]);
    })
}

fn affinity_ends_when_the_id_is_reused(protocol: u8, family: Family) -> Case {
    affinity_ends("affinity ends when the id is reused", protocol, family, move |world| {
        // Another endpoint of the Service got the id that the client is bound to.
        world.reuse_ids(service(protocol), BACKEND_PORT + 1);
        world.set_block(service(protocol), &[(OTHER, BACKEND_PORT)]);
    })
}

fn draining_flows_go_on(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let packet = opening(protocol, e.client, e.service);
    Case::new(format!("flows to a draining backend go on: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .change(move |world| world.drain_to(service(protocol), &[(OTHER, BACKEND_PORT)]))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
}

fn new_flows_move_at_once(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let packet = opening(protocol, e.client, e.service);
    let client = super::CLIENT.at(family, CLIENT_PORT + 1);
    let second = opening(protocol, client, e.service);
    Case::new(format!("new flows go to the new block: {}", name(protocol, family)), world_with(protocol, BACKEND))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .change(move |world| move_block(world, protocol))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .packet(FromPod, &second, ToPod(OTHER), second.between(client, e.other))
        .change(move |world| {
            let frontend = world.tables.frontends.get_mut(&key(service(protocol), family)).expect("it is there");
            frontend.internal = BlockRef::default();
        })
        .packet(FromPod, &second, ToPod(OTHER), second.between(client, e.other))
}

fn udp_leaves_a_dead_backend(family: Family) -> Case {
    let e = ends(family);
    let packet = udp(e.client, e.service);
    let answer = udp(e.other, e.client);
    Case::new(format!("UDP leaves a dead backend at once: {family:?}"), world_with(protocol::UDP, BACKEND))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .change(|world| world.set_backends(service(protocol::UDP), &[(OTHER, BACKEND_PORT)]))
        .packet(FromPod, &packet, ToPod(OTHER), packet.between(e.client, e.other))
        .packet(FromPod, &answer, ToPod(super::CLIENT), answer.between(e.service, e.client))
        .same(FromPod, udp(e.backend, e.client), ToPod(super::CLIENT))
}

fn udp_leaves_a_reused_id(family: Family) -> Case {
    let e = ends(family);
    let packet = udp(e.client, e.service);
    let moved = BACKEND.at(family, BACKEND_PORT + 1);
    Case::new(format!("UDP leaves a backend whose id is another's: {family:?}"), world_with(protocol::UDP, BACKEND))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .change(|world| world.reuse_ids(service(protocol::UDP), BACKEND_PORT + 1))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, moved))
}

fn udp_leaves_a_service_whose_address_is_anothers(family: Family) -> Case {
    let e = ends(family);
    let packet = udp(e.client, e.service);
    let answer = udp(e.other, e.client);
    let world = world_with(protocol::UDP, BACKEND);
    Case::new(format!("UDP leaves a Service whose address is another's within a second: {family:?}"), world)
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .change(|world| world.pass_on(service(protocol::UDP), &[(OTHER, BACKEND_PORT)]))
        .wait(1)
        .packet(FromPod, &packet, ToPod(OTHER), packet.between(e.client, e.other))
        .packet(FromPod, &answer, ToPod(super::CLIENT), answer.between(e.service, e.client))
}

fn a_syn_leaves_a_service_whose_address_is_anothers(family: Family) -> Case {
    let e = ends(family);
    let syn = opening(protocol::TCP, e.client, e.service);
    let data = tcp(e.client, e.service, ACK);
    let world = world_with(protocol::TCP, BACKEND);
    Case::new(format!("a SYN leaves a Service whose address is another's: {family:?}"), world)
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .packet(FromPod, &data, ToPod(BACKEND), data.between(e.client, e.backend))
        .change(|world| world.pass_on(service(protocol::TCP), &[(OTHER, BACKEND_PORT)]))
        .wait(1)
        .packet(FromPod, &data, ToPod(BACKEND), data.between(e.client, e.backend))
        .packet(FromPod, &syn, ToPod(OTHER), syn.between(e.client, e.other))
}

fn udp_idles(family: Family) -> Case {
    let e = ends(family);
    let packet = udp(e.client, e.service);
    Case::new(format!("UDP flows end after two minutes of silence: {family:?}"), world_with(protocol::UDP, BACKEND))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .change(|world| move_block(world, protocol::UDP))
        .wait(110)
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .wait(110)
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .wait(125)
        .packet(FromPod, &packet, ToPod(OTHER), packet.between(e.client, e.other))
}

fn udp_answers_keep_a_flow(family: Family) -> Case {
    let e = ends(family);
    let packet = udp(e.client, e.service);
    let answer = udp(e.backend, e.client);
    Case::new(format!("a UDP flow's answers keep it, too: {family:?}"), world_with(protocol::UDP, BACKEND))
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
        .change(|world| move_block(world, protocol::UDP))
        .wait(80)
        .packet(FromPod, &answer, ToPod(super::CLIENT), answer.between(e.service, e.client))
        .wait(80)
        .packet(FromPod, &packet, ToPod(BACKEND), packet.between(e.client, e.backend))
}

fn tcp_stays_with_a_dead_backend(family: Family) -> Case {
    let e = ends(family);
    let syn = opening(protocol::TCP, e.client, e.service);
    let data = tcp(e.client, e.service, ACK);
    let answer = tcp(e.backend, e.client, ACK);
    Case::new(format!("established TCP goes on to a removed backend: {family:?}"), world_with(protocol::TCP, BACKEND))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .packet(FromPod, &data, ToPod(BACKEND), data.between(e.client, e.backend))
        .change(|world| world.set_backends(service(protocol::TCP), &[(OTHER, BACKEND_PORT)]))
        .packet(FromPod, &data, ToPod(BACKEND), data.between(e.client, e.backend))
        .packet(FromPod, &answer, ToPod(super::CLIENT), answer.between(e.service, e.client))
        .wait(125)
        .packet(FromPod, &data, ToPod(BACKEND), data.between(e.client, e.backend))
}

fn tcp_reselects_before_it_is_established(family: Family) -> Case {
    let e = ends(family);
    let syn = opening(protocol::TCP, e.client, e.service);
    let answer = tcp(e.other, e.client, super::super::build::SYN_ACK);
    Case::new(format!("a repeated SYN leaves a removed backend: {family:?}"), world_with(protocol::TCP, BACKEND))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .change(|world| world.set_backends(service(protocol::TCP), &[(OTHER, BACKEND_PORT)]))
        .packet(FromPod, &syn, ToPod(OTHER), syn.between(e.client, e.other))
        .packet(FromPod, &answer, ToPod(super::CLIENT), answer.between(e.service, e.client))
}
