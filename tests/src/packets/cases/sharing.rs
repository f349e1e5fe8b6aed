//! One client port, one backend, two ways to it: answers must find the way that they are of.

use datapath::abi::{DropReason, Family, FlowValue, protocol};

use super::{
    BACKEND, BACKEND_PORT, CLIENT, CLIENT_PORT, CLUSTER_IP, OTHER, PROTOCOLS, SERVICE_PORT, TWIN_IP, ends, name,
    service, world_with,
};
use crate::packets::{
    build::{answering, opening, udp},
    case::{Case, Expected::*, Program::*},
    place::{FAMILIES, Place},
    world::{SNAT_PORT, ServicePort, World},
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.extend([
                two_frontends(protocol, family),
                port_space_exhausted(protocol, family),
                a_forgotten_flow_gives_its_port_back(protocol, family),
                one_port_to_two_backends(protocol, family),
                itself_twice(protocol, family),
            ]);
        }
        cases.push(a_service_whose_address_is_anothers_gives_its_port_back(family));
    }
    cases
}

const THIRD_IP: Place = Place::ClusterIp(30);

fn at(ip: Place, protocol: u8) -> ServicePort {
    ServicePort { ip, port: SERVICE_PORT, protocol }
}

fn three_services(protocol: u8) -> World {
    let backends = [(BACKEND, BACKEND_PORT)];
    world_with(protocol, BACKEND).with(at(TWIN_IP, protocol), &backends).with(at(THIRD_IP, protocol), &backends)
}

fn two_frontends(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let twin = TWIN_IP.at(family, SERVICE_PORT);
    let hidden = CLIENT.at(family, SNAT_PORT);
    let (first, second) = (opening(protocol, e.client, e.service), opening(protocol, e.client, twin));
    let answer = |to| answering(protocol, e.backend, to);
    let back = |from| answering(protocol, from, e.client);
    Case::new(format!("one port to two Services of one backend: {}", name(protocol, family)), three_services(protocol))
        .packet(FromPod, &first, ToPod(BACKEND), first.between(e.client, e.backend))
        .packet(FromPod, &second, ToPod(BACKEND), second.between(hidden, e.backend))
        .packet(FromPod, answer(e.client), ToPod(CLIENT), back(e.service))
        .packet(FromPod, answer(hidden), ToPod(CLIENT), back(twin))
        .packet(FromPod, &first, ToPod(BACKEND), first.between(e.client, e.backend))
        .packet(FromPod, &second, ToPod(BACKEND), second.between(hidden, e.backend))
}

fn port_space_exhausted(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let (twin, third) = (TWIN_IP.at(family, SERVICE_PORT), THIRD_IP.at(family, SERVICE_PORT));
    let hidden = CLIENT.at(family, SNAT_PORT);
    let (first, second) = (opening(protocol, e.client, e.service), opening(protocol, e.client, twin));
    let elsewhere = CLIENT.at(family, CLIENT_PORT + 1);
    let fourth = opening(protocol, elsewhere, third);
    Case::new(format!("no port left: {}", name(protocol, family)), three_services(protocol))
        .packet(FromPod, &first, ToPod(BACKEND), first.between(e.client, e.backend))
        .packet(FromPod, &second, ToPod(BACKEND), second.between(hidden, e.backend))
        .dropped(FromPod, opening(protocol, e.client, third), DropReason::SnatExhausted)
        .packet(FromPod, &fourth, ToPod(BACKEND), fourth.between(elsewhere, e.backend))
        .packet(FromPod, &second, ToPod(BACKEND), second.between(hidden, e.backend))
}

/// The table forgets the first flow's way out; its way back is in the way then, and serves nobody.
fn a_forgotten_flow_gives_its_port_back(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let twin = TWIN_IP.at(family, SERVICE_PORT);
    let (first, second) = (opening(protocol, e.client, e.service), opening(protocol, e.client, twin));
    let answer = answering(protocol, e.backend, e.client);
    let name = format!("a forgotten flow gives its port back: {}", name(protocol, family));
    Case::new(name, three_services(protocol))
        .packet(FromPod, &first, ToPod(BACKEND), first.between(e.client, e.backend))
        .change(|world| world.tables.flows.retain(|_, flow| flow.flags & FlowValue::REVERSE != 0))
        .packet(FromPod, &second, ToPod(BACKEND), second.between(e.client, e.backend))
        .packet(FromPod, &answer, ToPod(CLIENT), answer.between(twin, e.client))
}

/// The first flow's client would be another Service's by now.
fn a_service_whose_address_is_anothers_gives_its_port_back(family: Family) -> Case {
    let e = ends(family);
    let twin = TWIN_IP.at(family, SERVICE_PORT);
    let (first, second) = (udp(e.client, e.service), udp(e.client, twin));
    let answer = udp(e.backend, e.client);
    let name = format!("a UDP flow to a Service whose address is another's gives its port back: {family:?}");
    Case::new(name, three_services(protocol::UDP))
        .packet(FromPod, &first, ToPod(BACKEND), first.between(e.client, e.backend))
        .change(|world| world.pass_on(service(protocol::UDP), &[(OTHER, BACKEND_PORT)]))
        .packet(FromPod, &second, ToPod(BACKEND), second.between(e.client, e.backend))
        .packet(FromPod, &answer, ToPod(CLIENT), answer.between(twin, e.client))
        .packet(FromPod, &first, ToPod(OTHER), first.between(e.client, e.other))
}

fn one_port_to_two_backends(protocol: u8, family: Family) -> Case {
    let e = ends(family);
    let twin = TWIN_IP.at(family, SERVICE_PORT);
    let world = world_with(protocol, BACKEND).with(at(TWIN_IP, protocol), &[(OTHER, BACKEND_PORT)]);
    let (first, second) = (opening(protocol, e.client, e.service), opening(protocol, e.client, twin));
    let answer = |from| answering(protocol, from, e.client);
    Case::new(format!("one port to two backends: {}", name(protocol, family)), world)
        .packet(FromPod, &first, ToPod(BACKEND), first.between(e.client, e.backend))
        .packet(FromPod, &second, ToPod(OTHER), second.between(e.client, e.other))
        .packet(FromPod, answer(e.other), ToPod(CLIENT), answer(twin))
        .packet(FromPod, answer(e.backend), ToPod(CLIENT), answer(e.service))
}

fn itself_twice(protocol: u8, family: Family) -> Case {
    let service_at = CLUSTER_IP.at(family, SERVICE_PORT);
    let itself = CLIENT.at(family, BACKEND_PORT);
    let hidden = Place::Node.at(family, SNAT_PORT);
    let from = |port| opening(protocol, CLIENT.at(family, port), service_at);
    let world = World::new().with(service(protocol), &[(CLIENT, BACKEND_PORT)]);
    Case::new(format!("itself, with more connections than ports: {}", name(protocol, family)), world)
        .packet(FromPod, from(4000), ToPod(CLIENT), from(4000).between(hidden, itself))
        .dropped(FromPod, from(4001), DropReason::SnatExhausted)
        .packet(FromPod, from(4000), ToPod(CLIENT), from(4000).between(hidden, itself))
}
