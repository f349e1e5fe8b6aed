//! A Service and its EndpointSlices become frontends and endpoints.
//!
//! Invariant: what isn't for this proxy (headless, ExternalName, another proxy's)
//! compiles to nothing. This module must not know other Services: who of two
//! claimants gets an address is decided where the claims meet.

use std::collections::HashSet;

use datapath::abi::{Addr, Be16, Family, FrontendKey, protocol};

use super::{
    CompiledEndpoint, CompiledFrontend, CompiledPort, CompiledService, EndpointSet, NodeContext,
    endpoints::{any_usable, categorize, is_local},
    merge::{MergedEndpoint, merge},
};
use crate::model::objects::{EndpointSlice, Protocol, Service, ServicePort, ServiceType, TrafficPolicy};

/// What a Service wants in the tables of a node. `slices` are all EndpointSlices
/// of the Service, in any order.
///
/// A port given twice (same number and protocol, which an API server refuses)
/// counts once, the first time.
pub fn service(
    service: &Service,
    slices: &mut dyn Iterator<Item = &EndpointSlice>,
    node: &NodeContext,
) -> CompiledService {
    let mut compiled = CompiledService { created: service.created, ..CompiledService::default() };
    if service.foreign || service.service_type == ServiceType::ExternalName {
        return compiled;
    }
    for ip in &service.cluster_ips {
        let addr = Addr::from(*ip);
        if !compiled.addresses.contains(&addr) {
            compiled.addresses.push(addr);
        }
    }
    if compiled.addresses.is_empty() {
        return compiled;
    }

    let mut slices: Vec<&EndpointSlice> = slices.collect();
    slices.sort_by(|a, b| a.key.cmp(&b.key));
    let mut taken = HashSet::new();
    for port in &service.ports {
        for family in [Family::V4, Family::V6] {
            let mut frontends = frontends(service, &compiled.addresses, port, family);
            frontends.retain(|f| taken.insert(f.key));
            if !frontends.is_empty() {
                compiled.ports.push(compile_port(service, port, family, frontends, &slices, node));
            }
        }
    }
    compiled
}

/// Where the port is dialled in a family.
fn frontends(service: &Service, cluster_ips: &[Addr], port: &ServicePort, family: Family) -> Vec<CompiledFrontend> {
    let internal = set_for(service.internal_policy);
    cluster_ips
        .iter()
        .filter(|addr| addr.family() == family)
        .map(|addr| CompiledFrontend {
            key: FrontendKey::new(*addr, Be16::new(port.port), protocol_number(port.protocol)),
            internal,
            // A ClusterIP follows the internal policy whoever dials it: the
            // external one is for the addresses that are meant for the outside.
            external: internal,
        })
        .collect()
}

fn compile_port(
    service: &Service,
    port: &ServicePort,
    family: Family,
    frontends: Vec<CompiledFrontend>,
    slices: &[&EndpointSlice],
    node: &NodeContext,
) -> CompiledPort {
    let merged = merge(port, family, slices);
    let plain: Vec<_> = merged.iter().map(|m| m.endpoint).collect();
    let endpoints = merged
        .iter()
        .zip(categorize(&plain, node))
        .filter(|(MergedEndpoint { endpoint, .. }, _)| endpoint.ready || endpoint.serving)
        .map(|(m, membership)| CompiledEndpoint {
            addr: m.addr,
            port: m.port,
            cluster: membership.cluster,
            local: membership.local,
            on_node: is_local(m.endpoint, node),
        })
        .collect();
    CompiledPort {
        family,
        protocol: protocol_number(port.protocol),
        port: port.port,
        frontends,
        endpoints,
        usable: any_usable(&plain),
        affinity_seconds: service.affinity_seconds.unwrap_or(0),
    }
}

fn set_for(policy: TrafficPolicy) -> EndpointSet {
    match policy {
        TrafficPolicy::Cluster => EndpointSet::Cluster,
        TrafficPolicy::Local => EndpointSet::Local,
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    }
}
