//! Services: what they want, and what of it is in the tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use datapath::{
    abi::{Addr, Backend, BlockRef, Family, FrontendValue},
    tables::Tables,
};

use super::{NameFilter, Names, Snapshot, protocol_name};
use crate::{
    api::{
        protocol::Failure,
        services::{BackendReport, FrontendReport, PortReport, ServiceList, ServiceQuery, ServiceReport, SetReport},
    },
    compile::{
        self, Algorithm, Because, CompiledFrontend, CompiledPort, CompiledService, EndpointSet, FrontendKind,
        PortAccount,
    },
    model::objects::{ObjectKey, Service, ServiceType},
    plan::Owner,
};

/// How the namespaces begin of Services that stand for pods' hostPorts. No namespace
/// of Kubernetes has a slash in its name.
pub const HOST_PORT: &str = "hostport/";

/// The Services that are asked for; `connections`: how many began, by service port.
///
/// # Errors
/// There is none of a name.
pub fn services<T: Tables>(
    snapshot: &Snapshot,
    names: &Names,
    tables: &T,
    connections: &BTreeMap<u32, u64>,
    query: &ServiceQuery,
) -> Result<ServiceList, Failure> {
    let filter = NameFilter::new(query.namespace.as_deref(), &query.names);
    let known = snapshot.services.iter().map(|facts| &facts.service.key);
    let by_pod: Vec<ObjectKey> = snapshot.host_ports.keys().map(pod_of).collect();
    filter.missing("Service", known.chain(&by_pod))?;
    let teller = Teller { snapshot, names, tables, connections, ids: ids(snapshot) };
    let mut list = ServiceList { services: vec![], warnings: snapshot.warnings() };
    for facts in snapshot.services.iter().filter(|facts| filter.admits(&facts.service.key)) {
        let slices = || facts.slices.iter().map(AsRef::as_ref);
        let compiled = compile::service(&facts.service, &mut slices(), &snapshot.node);
        let account = |port: &CompiledPort| {
            let of_service = facts.service.ports.iter();
            let mut is_it = of_service.filter(|p| (p.protocol.number(), p.port) == (port.protocol, port.port));
            let service_port = is_it.next()?;
            let account = compile::explain(service_port, port.family, slices(), &snapshot.node);
            Some((service_port.name.to_string(), account))
        };
        list.services.push(teller.service(&facts.service, &compiled, account));
    }
    for (key, compiled) in &snapshot.host_ports {
        let pod = pod_of(key);
        if filter.admits(&pod) {
            list.services.push(teller.host_ports(key, &pod, compiled));
        }
    }
    if let Some(address) = query.address {
        list.services.retain(|service| has_address(service, address));
    }
    Ok(list)
}

fn has_address(service: &ServiceReport, address: IpAddr) -> bool {
    service.ports.iter().any(|port| {
        port.frontends.iter().any(|frontend| frontend.address == Some(address))
            || port.sets.iter().flat_map(|set| &set.backends).any(|backend| backend.address.ip() == address)
    })
}

/// The Pod of which these are the hostPorts.
fn pod_of(key: &ObjectKey) -> ObjectKey {
    ObjectKey::new(key.namespace.strip_prefix(HOST_PORT).unwrap_or(&key.namespace), key.name.clone())
}

type Ids<'a> = HashMap<(&'a ObjectKey, Family, u8, u16), u32>;

/// The numbers of service ports.
pub(super) fn ids(snapshot: &Snapshot) -> Ids<'_> {
    let identity = |(id, owner): (&u32, &'_ Owner)| (*id, owner.family, owner.protocol, owner.port);
    snapshot
        .owners
        .iter()
        .map(|entry| {
            let (id, family, protocol, port) = identity(entry);
            ((&entry.1.key, family, protocol, port), id)
        })
        .collect()
}

/// A word for why an endpoint set is what it is.
pub(super) const fn because(because: Because) -> &'static str {
    match because {
        Because::Ready => "ready",
        Because::NodeHints => "node-hints",
        Because::ZoneHints => "zone-hints",
        Because::ServingTerminating => "serving-terminating",
        Because::NoEndpoint => "no-endpoint",
    }
}

/// A word for what an address of a Service is.
pub(super) const fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::NodePort => "NodePort",
    }
}

struct Teller<'a, T> {
    snapshot: &'a Snapshot,
    names: &'a Names,
    tables: &'a T,
    connections: &'a BTreeMap<u32, u64>,
    ids: Ids<'a>,
}

impl<T: Tables> Teller<'_, T> {
    fn service(
        &self,
        service: &Service,
        compiled: &CompiledService,
        account: impl Fn(&CompiledPort) -> Option<(String, PortAccount)>,
    ) -> ServiceReport {
        let key = &service.key;
        let service_type = match service.service_type {
            ServiceType::ClusterIp if service.cluster_ips.is_empty() => "Headless",
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::ExternalName => "ExternalName",
        };
        let port = |port: &CompiledPort| {
            let kind = |frontend: &CompiledFrontend| kind(compile::frontend_kind(service, &frontend.key.addr));
            self.port(key, port, account(port), kind)
        };
        let algorithm = compile::algorithm(service, &self.snapshot.node);
        let mut problems: Vec<String> = self.snapshot.problem(&format!("Service {key}")).cloned().into_iter().collect();
        if service.foreign {
            problems.push("not ours: it names another proxy (service.kubernetes.io/service-proxy-name)".into());
        }
        ServiceReport {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            service_type: service_type.into(),
            algorithm: name_of(algorithm).into(),
            affinity_seconds: service.affinity_seconds.unwrap_or(0),
            ports: compiled.ports.iter().map(port).collect(),
            problems,
        }
    }

    fn host_ports(&self, key: &ObjectKey, pod: &ObjectKey, compiled: &CompiledService) -> ServiceReport {
        let port = |port: &CompiledPort| self.port(key, port, None, |_| "HostPort");
        ServiceReport {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            service_type: "HostPort".into(),
            algorithm: name_of(Algorithm::Random).into(),
            affinity_seconds: 0,
            ports: compiled.ports.iter().map(port).collect(),
            problems: vec![],
        }
    }

    fn port(
        &self,
        key: &ObjectKey,
        port: &CompiledPort,
        account: Option<(String, PortAccount)>,
        kind: impl Fn(&CompiledFrontend) -> &'static str,
    ) -> PortReport {
        let id = self.ids.get(&(key, port.family, port.protocol, port.port)).copied();
        let (name, account) = account.map_or((String::new(), None), |(name, account)| (name, Some(account)));
        let live = |frontend: &CompiledFrontend| self.tables.frontend(&frontend.key);
        let held = |frontend: &CompiledFrontend| live(frontend).filter(|value| Some(value.service) == id);
        let frontends = port.frontends.iter().map(|frontend| FrontendReport {
            kind: kind(frontend).into(),
            address: (!frontend.key.addr.is_unspecified()).then(|| frontend.key.addr.into()),
            port: frontend.key.port.get(),
            trouble: match live(frontend) {
                Some(value) if Some(value.service) == id => String::new(),
                Some(value) => self.holder(value),
                None => "not in the tables".into(),
            },
        });
        let sets = [EndpointSet::Cluster, EndpointSet::Local].into_iter().filter_map(|set| {
            let internal = port.frontends.iter().filter(|f| f.internal == set);
            let external =
                port.frontends.iter().filter(|f| f.external == set && f.flags & FrontendValue::EXTERNAL != 0);
            let (is_internal, is_external) = (internal.clone().count() > 0, external.clone().count() > 0);
            if !is_internal && !is_external {
                return None;
            }
            let of_internal = internal.filter_map(held).map(|value| value.internal).next();
            let of_external = external.filter_map(held).map(|value| value.external).next();
            let block = of_internal.or(of_external);
            let backends = block.map_or_else(Vec::new, |block| self.backends(block));
            let wanted = port.endpoints.iter().filter(|endpoint| endpoint.is_in(set)).count();
            let trouble = match block {
                None => "none of its frontends is in force".into(),
                Some(_) if backends.len() != wanted => format!("{wanted} are wanted"),
                Some(_) => String::new(),
            };
            let when_empty = match (backends.is_empty(), port.usable) {
                (false, _) => "",
                (true, true) => "dropped",
                (true, false) => "rejected",
            };
            let why = account.as_ref().map_or(Because::Ready, |account| account.because[set as usize]);
            let serves = [("internal", is_internal), ("external", is_external)];
            Some(SetReport {
                policy: if set == EndpointSet::Cluster { "Cluster" } else { "Local" }.into(),
                serves: serves.into_iter().filter(|(_, it)| *it).map(|(name, _)| name.into()).collect(),
                because: because(why).into(),
                when_empty: when_empty.into(),
                backends,
                trouble,
            })
        });
        let range = |range: &compile::SourceRange| match range.addr.family() {
            Family::V4 => format!("{}/{}", range.addr, range.prefix_len.saturating_sub(96)),
            Family::V6 => format!("{}/{}", range.addr, range.prefix_len),
        };
        PortReport {
            name,
            port: port.port,
            protocol: protocol_name(port.protocol.into()),
            family: if port.family == Family::V4 { "IPv4" } else { "IPv6" }.into(),
            frontends: frontends.collect(),
            sets: sets.collect(),
            source_ranges: port.source_ranges.iter().map(range).collect(),
            connections: id.and_then(|id| self.connections.get(&id)).copied().unwrap_or(0),
        }
    }

    /// Who has a frontend that another wants.
    fn holder(&self, value: &FrontendValue) -> String {
        match self.snapshot.owners.get(&value.service) {
            Some(owner) => format!("held by Service {}", owner.key),
            None => "not in the tables yet".into(),
        }
    }

    /// The backends of a block, each once, as a Maglev table has them many times.
    fn backends(&self, block: BlockRef) -> Vec<BackendReport> {
        block_backends(self.tables, block).map(|(_, backend)| self.names.backend(&backend)).collect()
    }
}

/// The backends that a block names, each once, by address and port.
pub(super) fn block_backends<T: Tables>(tables: &T, block: BlockRef) -> impl Iterator<Item = (u32, Backend)> {
    let ids: BTreeSet<u32> =
        (block.base..block.base.saturating_add(block.len)).filter_map(|index| tables.block_entry(index)).collect();
    let backends = ids.into_iter().filter_map(|id| Some((id, *tables.backend(id)?)));
    let mut backends: Vec<(u32, Backend)> = backends.filter(|(_, backend)| backend.flags != 0).collect();
    backends.sort_by_key(|(_, backend): &(u32, Backend)| -> (Addr, u16) { (backend.addr, backend.port.get()) });
    backends.into_iter()
}

/// An algorithm's name.
fn name_of(algorithm: Algorithm) -> &'static str {
    Algorithm::NAMES.iter().find(|(_, known)| *known == algorithm).map_or("random", |(name, _)| name)
}
