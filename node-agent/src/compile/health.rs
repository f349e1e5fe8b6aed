//! The health check that a load balancer asks before it sends to this node.

use std::collections::BTreeSet;

use datapath::abi::Family;

use super::{CompiledAddress, HealthCheck, NodeContext, endpoints::is_local, merge::merge};
use crate::model::objects::{EndpointSlice, Service, ServiceType, TrafficPolicy};

/// As kube-proxy: of Services of type LoadBalancer with externalTrafficPolicy Local.
/// An endpoint counts once, whatever ports it has, as long as it is ready.
pub(super) fn health_check(
    service: &Service,
    cluster_ips: &[CompiledAddress],
    slices: &[&EndpointSlice],
    node: &NodeContext,
) -> Option<HealthCheck> {
    let port = service.health_check_node_port;
    let is_local_only = service.external_policy == TrafficPolicy::Local;
    if port == 0 || service.service_type != ServiceType::LoadBalancer || !is_local_only {
        return None;
    }
    let count = |family| {
        cluster_ips.iter().any(|address| address.addr.family() == family).then(|| {
            let of_ports = service.ports.iter().flat_map(|port| merge(port, family, slices));
            let ready = of_ports.filter(|merged| merged.endpoint.ready && is_local(merged.endpoint, node));
            ready.map(|merged| merged.addr).collect::<BTreeSet<_>>().len()
        })
    };
    Some(HealthCheck { port, v4: count(Family::V4), v6: count(Family::V6) })
}
