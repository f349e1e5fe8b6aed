//! The same as [`super::service`], told to people: which endpoints of a port are in which
//! set, and why.
//!
//! Invariant: what is told follows from the very functions that compile. This module must
//! not know how it is shown.

use std::sync::Arc;

use datapath::abi::{Addr, Be16, Family};

use super::{
    Algorithm, Because, NodeContext, algorithm as algorithms, because, categorize,
    frontends::Addresses,
    merge::{MergedEndpoint, merge},
};
use crate::model::objects::{EndpointSlice, Service, ServicePort};

/// One port of a Service in a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortAccount {
    /// Why the Cluster set and the Local set are what they are.
    pub because: [Because; 2],
    /// All endpoints, those too that serve nobody; sorted by address and port.
    pub endpoints: Vec<Candidate>,
}

/// An endpoint, and in which sets it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Be16,
    /// It is ready.
    pub ready: bool,
    /// It serves, ready or not.
    pub serving: bool,
    /// It terminates.
    pub terminating: bool,
    /// Its node, or "".
    pub node: Arc<str>,
    /// It is in the Cluster set.
    pub cluster: bool,
    /// It is in the Local set.
    pub local: bool,
}

/// What an address of a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontendKind {
    /// Its ClusterIP.
    ClusterIp,
    /// One of its external IPs.
    ExternalIp,
    /// A load balancer's.
    LoadBalancer,
    /// One of the node's: the port is a NodePort.
    NodePort,
}

/// What an address of the Service is; unspecified: the node's.
pub fn frontend_kind(service: &Service, addr: &Addr) -> FrontendKind {
    let addresses = Addresses::of(service);
    if addr.is_unspecified() {
        FrontendKind::NodePort
    } else if addresses.cluster.contains(addr) {
        FrontendKind::ClusterIp
    } else if addresses.external.contains(addr) {
        FrontendKind::ExternalIp
    } else if addresses.load_balancer.contains(addr) {
        FrontendKind::LoadBalancer
    } else {
        FrontendKind::NodePort
    }
}

/// How the Service's backends are selected.
pub fn algorithm(service: &Service, node: &NodeContext) -> Algorithm {
    algorithms::of_service(service, node.algorithm, &mut vec![])
}

/// What becomes of the endpoints of a Service's port in a family.
pub fn explain<'a>(
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &NodeContext,
) -> PortAccount {
    let mut slices: Vec<&EndpointSlice> = slices.collect();
    slices.sort_by(|a, b| a.key.cmp(&b.key));
    let merged = merge(port, family, &slices);
    let plain: Vec<_> = merged.iter().map(|m| m.endpoint).collect();
    let candidate = |(m, membership): (&MergedEndpoint<'_>, super::Membership)| Candidate {
        addr: m.addr,
        port: m.port,
        ready: m.endpoint.ready,
        serving: m.endpoint.serving,
        terminating: m.endpoint.terminating,
        node: Arc::clone(&m.endpoint.node),
        cluster: membership.cluster,
        local: membership.local,
    };
    PortAccount {
        because: because(&plain, node),
        endpoints: merged.iter().zip(categorize(&plain, node)).map(candidate).collect(),
    }
}
