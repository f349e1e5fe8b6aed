//! When a TCP flow's SYN begins a new flow: its ports may be used again once an end has said goodbye.

use datapath::abi::{Family, protocol};

use super::{BACKEND, BACKEND_PORT, CLIENT, OTHER, ends, service, world_with};
use crate::packets::{
    build::{ACK, FIN_ACK, RST, SYN, SYN_ACK, tcp},
    case::{Case, Expected::*, Program::*},
    place::FAMILIES,
};

pub fn cases() -> Vec<Case> {
    FAMILIES
        .into_iter()
        .flat_map(|family| {
            [
                closed_by("the client's FIN", family, Some(FIN_ACK), None),
                closed_by("the client's RST", family, Some(RST), None),
                closed_by("the backend's FIN", family, None, Some(FIN_ACK)),
                closed_by("the backend's RST", family, None, Some(RST)),
                closed_by("both", family, Some(FIN_ACK), Some(FIN_ACK)),
                stays_open(family),
                half_forgotten(family),
            ]
        })
        .collect()
}

/// After the goodbyes the flow's other packets still pass, and a SYN begins a new flow.
fn closed_by(who: &str, family: Family, client: Option<u8>, backend: Option<u8>) -> Case {
    let e = ends(family);
    let out = |flags| tcp(e.client, e.service, flags);
    let to = |flags, backend| tcp(e.client, backend, flags);
    let mut case = Case::new(format!("a SYN after {who}: {family:?}"), world_with(protocol::TCP, BACKEND))
        .packet(FromPod, out(SYN), ToPod(BACKEND), to(SYN, e.backend))
        .packet(FromPod, tcp(e.backend, e.client, SYN_ACK), ToPod(CLIENT), tcp(e.service, e.client, SYN_ACK))
        .packet(FromPod, out(ACK), ToPod(BACKEND), to(ACK, e.backend));
    if let Some(flags) = client {
        case = case.packet(FromPod, out(flags), ToPod(BACKEND), to(flags, e.backend));
    }
    if let Some(flags) = backend {
        case = case.packet(FromPod, tcp(e.backend, e.client, flags), ToPod(CLIENT), tcp(e.service, e.client, flags));
    }
    case = case.change(|world| world.drain_to(service(protocol::TCP), &[(OTHER, BACKEND_PORT)])).packet(
        FromPod,
        out(ACK),
        ToPod(BACKEND),
        to(ACK, e.backend),
    );
    // When both have closed, the acknowledgement is the flow's last packet.
    if client.is_none() || backend.is_none() {
        case = case.packet(FromPod, tcp(e.backend, e.client, ACK), ToPod(CLIENT), tcp(e.service, e.client, ACK));
    }
    case.packet(FromPod, out(SYN), ToPod(OTHER), to(SYN, e.other))
        .packet(FromPod, tcp(e.other, e.client, SYN_ACK), ToPod(CLIENT), tcp(e.service, e.client, SYN_ACK))
        .packet(FromPod, out(ACK), ToPod(OTHER), to(ACK, e.other))
}

fn stays_open(family: Family) -> Case {
    let e = ends(family);
    let syn = tcp(e.client, e.service, SYN);
    let data = tcp(e.client, e.service, ACK);
    Case::new(format!("a SYN on an open flow stays in it: {family:?}"), world_with(protocol::TCP, BACKEND))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .packet(FromPod, &data, ToPod(BACKEND), data.between(e.client, e.backend))
        .change(|world| world.drain_to(service(protocol::TCP), &[(OTHER, BACKEND_PORT)]))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .packet(FromPod, &data, ToPod(BACKEND), data.between(e.client, e.backend))
}

/// The table has forgotten how answers come back.
fn half_forgotten(family: Family) -> Case {
    let e = ends(family);
    let syn = tcp(e.client, e.service, SYN);
    Case::new(format!("a SYN of a half forgotten flow: {family:?}"), world_with(protocol::TCP, BACKEND))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .change(|world| world.tables.flows.retain(|_, flow| flow.flags & datapath::abi::FlowValue::REVERSE == 0))
        .packet(FromPod, &syn, ToPod(BACKEND), syn.between(e.client, e.backend))
        .packet(FromPod, tcp(e.backend, e.client, SYN_ACK), ToPod(CLIENT), tcp(e.service, e.client, SYN_ACK))
}
