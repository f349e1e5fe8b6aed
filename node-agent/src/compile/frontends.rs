//! Where a Service is dialled: ClusterIPs, external IPs, addresses of load balancers
//! and NodePorts, and what is special about each.
//!
//! Invariant: no address and port stands for two things of one Service; of two the
//! first in kube-proxy's order counts: ClusterIP, external IP, load balancer.

use datapath::abi::{Addr, Be16, Family, FrontendKey, FrontendValue};

use super::{Algorithm, CompiledAddress, CompiledFrontend, EndpointSet};
use crate::model::objects::{Service, ServicePort, ServiceType, TrafficPolicy};

/// A Service's addresses, by what they are. Distinct.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub cluster: Vec<Addr>,
    pub external: Vec<Addr>,
    /// Load balancers' addresses that the node serves itself (ipMode VIP).
    pub load_balancer: Vec<Addr>,
}

impl Addresses {
    /// Those of a Service. Addresses of a family in which it has no ClusterIP count
    /// for nothing, as with kube-proxy.
    pub fn of(service: &Service) -> Self {
        let mut seen = vec![];
        let mut distinct = |addr: Addr| {
            let is_new = !seen.contains(&addr);
            seen.push(addr);
            is_new.then_some(addr)
        };
        let cluster: Vec<Addr> = service.cluster_ips.iter().filter_map(|ip| distinct(Addr::from(*ip))).collect();
        let has_family = |addr: &Addr| cluster.iter().any(|own| own.family() == addr.family());
        let external = service.external_ips.iter().map(|ip| Addr::from(*ip)).filter(has_family);
        let external = external.filter_map(&mut distinct).collect();
        let vips = service.load_balancer.iter().filter(|ingress| {
            // As the API server does when the type changes, which a manifest may not.
            service.service_type == ServiceType::LoadBalancer && !ingress.proxy
        });
        let vips = vips.map(|ingress| Addr::from(ingress.ip)).filter(has_family).filter_map(&mut distinct).collect();
        Self { cluster, external, load_balancer: vips }
    }

    /// All of them, with what becomes of their other ports.
    pub fn whole(&self) -> Vec<CompiledAddress> {
        let cluster = self.cluster.iter().map(|addr| CompiledAddress { addr: *addr, rejects: true });
        let others = self.external.iter().chain(&self.load_balancer);
        cluster.chain(others.map(|addr| CompiledAddress { addr: *addr, rejects: false })).collect()
    }
}

/// The addresses at which a Service is dialled; none if it is not for this proxy.
pub fn addresses(service: &Service) -> Vec<CompiledAddress> {
    if service.foreign || service.service_type == ServiceType::ExternalName {
        return vec![];
    }
    Addresses::of(service).whole()
}

/// Where a port is dialled in a family.
pub(super) fn frontends(
    service: &Service,
    addresses: &Addresses,
    port: &ServicePort,
    family: Family,
    algorithm: Algorithm,
    restricted: bool,
) -> Vec<CompiledFrontend> {
    let of_family = |addrs: &[Addr]| addrs.iter().filter(|addr| addr.family() == family).copied().collect::<Vec<_>>();
    let cluster = of_family(&addresses.cluster);
    if cluster.is_empty() {
        return vec![];
    }
    let (number, protocol) = (Be16::new(port.port), port.protocol.number());
    let at = |addr| FrontendKey::new(addr, number, protocol);
    let internal = internal(service, algorithm);
    let external = external(service, algorithm);
    let load_balancer = match restricted {
        true => CompiledFrontend { flags: external.flags | FrontendValue::SOURCE_RANGES, ..external },
        false => external,
    };
    let is_everywhere = matches!(service.service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
    let node_port = (is_everywhere && port.node_port != 0)
        .then(|| FrontendKey::node_port(family, Be16::new(port.node_port), protocol));
    let cluster = cluster.into_iter().map(|addr| CompiledFrontend { key: at(addr), ..internal });
    let externals =
        of_family(&addresses.external).into_iter().map(|addr| CompiledFrontend { key: at(addr), ..external });
    let vips =
        of_family(&addresses.load_balancer).into_iter().map(|addr| CompiledFrontend { key: at(addr), ..load_balancer });
    let node_ports = node_port.map(|key| CompiledFrontend { key, ..external });
    cluster.chain(externals).chain(vips).chain(node_ports).collect()
}

const NOWHERE: FrontendKey = FrontendKey::whole_address(Addr::UNSPECIFIED);

/// A ClusterIP follows the internal policy whoever dials it: the external one is for
/// the addresses that are meant for the outside.
fn internal(service: &Service, algorithm: Algorithm) -> CompiledFrontend {
    let set = match service.internal_policy {
        TrafficPolicy::Cluster => EndpointSet::Cluster,
        TrafficPolicy::Local => EndpointSet::Local,
    };
    let flags = if algorithm == Algorithm::LeastConnections { FrontendValue::LEAST_CONNECTIONS } else { 0 };
    CompiledFrontend { key: NOWHERE, flags, internal: set, external: set }
}

/// Whoever dials an external address from within the cluster may reach all
/// endpoints, whatever the policies.
fn external(service: &Service, algorithm: Algorithm) -> CompiledFrontend {
    let (set, keep) = match service.external_policy {
        TrafficPolicy::Cluster => (EndpointSet::Cluster, 0),
        TrafficPolicy::Local => (EndpointSet::Local, FrontendValue::KEEP_CLIENT),
    };
    let selection = match algorithm {
        Algorithm::Random => 0,
        Algorithm::Maglev => FrontendValue::MAGLEV,
        Algorithm::LeastConnections => FrontendValue::LEAST_CONNECTIONS,
    };
    let flags = FrontendValue::EXTERNAL | keep | selection;
    CompiledFrontend { key: NOWHERE, flags, internal: EndpointSet::Cluster, external: set }
}
