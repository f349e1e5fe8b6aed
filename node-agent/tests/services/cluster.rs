//! Objects for tests, as short as the tests need them.

use std::{net::IpAddr, sync::Arc};

use node_agent::{
    compile::{CompiledService, NodeContext, service as compile},
    model::objects::{
        Endpoint, EndpointPort, EndpointSlice, ObjectKey, Protocol, Service, ServicePort, ServiceType, TrafficPolicy,
    },
};

/// The node that tests compile for.
pub fn node() -> NodeContext {
    NodeContext { name: "here".into(), zone: "zone-a".into(), ..NodeContext::default() }
}

/// A ClusterIP Service `default/name` with TCP ports, each named after its number.
pub fn service(name: &str, cluster_ips: &[&str], ports: &[u16]) -> Service {
    let ports = ports.iter().map(|port| ServicePort {
        name: port.to_string().into(),
        protocol: Protocol::Tcp,
        port: *port,
        node_port: 0,
    });
    Service {
        key: ObjectKey::new("default", name),
        created: 0,
        service_type: ServiceType::ClusterIp,
        foreign: false,
        cluster_ips: cluster_ips.iter().map(|ip| addr(ip)).collect(),
        external_ips: vec![],
        load_balancer: vec![],
        source_ranges: vec![],
        unread_source_ranges: false,
        ports: ports.collect(),
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
        annotations: vec![],
    }
}

/// A slice of the Service `default/service`: port numbers by the names of the
/// Service's ports.
pub fn slice(name: &str, service: &str, ports: &[(&str, u16)], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let ports =
        ports.iter().map(|(name, port)| EndpointPort { name: (*name).into(), protocol: Protocol::Tcp, port: *port });
    EndpointSlice {
        key: ObjectKey::new("default", name),
        service: service.into(),
        ipv6: endpoints.iter().any(|e| e.address.is_ipv6()),
        ports: ports.collect(),
        endpoints,
        triggered: 0,
    }
}

/// A ready endpoint on another node.
pub fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: addr(address),
        ready: true,
        serving: true,
        terminating: false,
        node: "there".into(),
        zone_hints: Box::new([]),
        node_hints: Box::new([]),
    }
}

/// `endpoint`, terminating.
pub fn leaving(address: &str, serving: bool) -> Endpoint {
    Endpoint { ready: false, serving, terminating: true, ..endpoint(address) }
}

/// Hints from names.
pub fn names(names: &[&str]) -> Box<[Arc<str>]> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// What the Service and its slices compile to on [`node`].
pub fn compiled(service: &Service, slices: &[EndpointSlice]) -> CompiledService {
    compile(service, &mut slices.iter(), &node())
}

/// An address from its text.
pub fn addr(ip: &str) -> IpAddr {
    ip.parse().expect("an address")
}
