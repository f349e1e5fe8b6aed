//! A Service and its EndpointSlices become frontends and endpoints.
//!
//! Invariant: what isn't for this proxy (headless, ExternalName, another proxy's)
//! compiles to nothing. This module must not know other Services: who of two
//! claimants gets an address is decided where the claims meet.

use std::collections::HashSet;

use datapath::abi::{Family, FrontendValue};

use super::{
    CompiledEndpoint, CompiledFrontend, CompiledPort, CompiledService, NodeContext, algorithm,
    endpoints::{any_usable, categorize, is_local},
    frontends::{Addresses, frontends},
    health::health_check,
    merge::{MergedEndpoint, merge},
    source_ranges::source_ranges,
};
use crate::model::objects::{EndpointSlice, Service, ServicePort, ServiceType};

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
    let addresses = Addresses::of(service);
    if addresses.cluster.is_empty() {
        return compiled;
    }
    compiled.addresses = addresses.whole();
    let algorithm = algorithm::of_service(service, node.algorithm, &mut compiled.problems);
    let mut slices: Vec<&EndpointSlice> = slices.collect();
    slices.sort_by(|a, b| a.key.cmp(&b.key));
    compiled.health_check = health_check(service, &compiled.addresses, &slices, node);
    let families = [Family::V4, Family::V6];
    let ranges = families.map(|family| source_ranges(service, family, &addresses.load_balancer, node));
    let mut taken = HashSet::new();
    for port in &service.ports {
        for (family, ranges) in families.into_iter().zip(&ranges) {
            let mut frontends = frontends(service, &addresses, port, family, algorithm, ranges.is_some());
            frontends.retain(|f| taken.insert(f.key));
            if frontends.is_empty() {
                continue;
            }
            let mut port = compile_port(service, port, family, frontends, &slices, node);
            if port.frontends.iter().any(|f| f.flags & FrontendValue::SOURCE_RANGES != 0) {
                port.source_ranges = ranges.clone().unwrap_or_default();
            }
            compiled.ports.push(port);
        }
    }
    compiled
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
        protocol: port.protocol.number(),
        port: port.port,
        frontends,
        endpoints,
        usable: any_usable(&plain),
        affinity_seconds: service.affinity_seconds.unwrap_or(0),
        source_ranges: vec![],
    }
}
