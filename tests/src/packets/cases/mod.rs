//! The table: what becomes of which packet.
//!
//! A case that depends on which backend is chosen, or which port, leaves one
//! choice only: the kernel's random numbers are not ours.

mod closing;
mod direct;
mod errors;
mod fragments;
mod handover;
mod headers;
mod north_south;
mod outside;
mod pods;
mod policies;
mod refusals;
mod selection;
mod services;
mod sharing;
mod unopened;

use std::net::SocketAddr;

use datapath::abi::{Family, protocol};

use super::{
    case::Case,
    place::Place,
    world::{ServicePort, World},
};

/// Protocols that have ports.
const PROTOCOLS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

const CLIENT: Place = Place::Pod(1);
const BACKEND: Place = Place::Pod(2);
const OTHER: Place = Place::Pod(3);
const CLUSTER_IP: Place = Place::ClusterIp(10);
const TWIN_IP: Place = Place::ClusterIp(20);

/// The port that the client dials from.
const CLIENT_PORT: u16 = 4000;
/// The port that backends listen on.
const BACKEND_PORT: u16 = 8080;
/// The port that Services listen on.
const SERVICE_PORT: u16 = 80;

const fn service(protocol: u8) -> ServicePort {
    ServicePort { ip: CLUSTER_IP, port: SERVICE_PORT, protocol }
}

/// The node and one Service with one backend.
fn world_with(protocol: u8, backend: Place) -> World {
    World::new().with(service(protocol), &[(backend, BACKEND_PORT)])
}

fn name(protocol: u8, family: Family) -> String {
    let protocol = match protocol {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        _ => "SCTP",
    };
    format!("{protocol}, {family:?}")
}

/// Who talks to whom in a family: the usual addresses.
#[derive(Clone, Copy)]
struct Ends {
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
    other: SocketAddr,
}

fn ends(family: Family) -> Ends {
    Ends {
        client: CLIENT.at(family, CLIENT_PORT),
        service: CLUSTER_IP.at(family, SERVICE_PORT),
        backend: BACKEND.at(family, BACKEND_PORT),
        other: OTHER.at(family, BACKEND_PORT),
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let tables = [
        services::cases(),
        refusals::cases(),
        selection::cases(),
        closing::cases(),
        unopened::cases(),
        sharing::cases(),
        headers::cases(),
        headers::strangers(),
        fragments::cases(),
        errors::cases(),
        pods::cases(),
        policies::cases(),
        north_south::cases(),
        direct::cases(),
        handover::cases(),
        outside::cases(),
    ];
    tables.into_iter().flatten().collect()
}
