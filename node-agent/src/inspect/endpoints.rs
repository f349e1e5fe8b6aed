//! Endpoints: each once, whoever it serves, and what this node has to do with it.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use datapath::{
    abi::{Addr, Backend, Family},
    tables::Tables,
};

use super::{NameFilter, Names, Snapshot, protocol_name, services::ids};
use crate::{
    api::{
        protocol::Failure,
        services::{EndpointList, EndpointQuery, EndpointReport, EndpointUse},
    },
    compile::{self, Candidate},
};

/// The endpoints that are asked for. `backends` are those of the tables with their ids, `flows`
/// the numbers of tracked flows by backend.
///
/// # Errors
/// There is no Service of a name.
pub fn endpoints<T: Tables>(
    snapshot: &Snapshot,
    names: &Names,
    tables: &T,
    backends: &[(u32, Backend)],
    flows: &HashMap<u32, u64>,
    query: &EndpointQuery,
) -> Result<EndpointList, Failure> {
    let filter = NameFilter::new(query.namespace.as_deref(), &query.services);
    filter.missing("Service", snapshot.services.iter().map(|facts| &facts.service.key))?;
    let service_ids = ids(snapshot);
    let by_place: HashMap<(u32, Addr, u16), u32> =
        backends.iter().map(|(id, b)| ((b.service, b.addr, b.port.get()), *id)).collect();
    let mut found: BTreeMap<(Addr, u16, u8), EndpointReport> = BTreeMap::new();
    for facts in snapshot.services.iter().filter(|facts| filter.admits(&facts.service.key)) {
        let key = &facts.service.key;
        let families = [Family::V4, Family::V6];
        for (port, family) in facts.service.ports.iter().flat_map(|port| families.map(|family| (port, family))) {
            let slices = facts.slices.iter().map(AsRef::as_ref);
            let account = compile::explain(port, family, slices, &snapshot.node);
            let protocol = port.protocol.number();
            let service_id = service_ids.get(&(key, family, protocol, port.port)).copied();
            for endpoint in account.endpoints {
                let is_there = query.node.as_deref().is_none_or(|node| *endpoint.node == *node)
                    && query.address.is_none_or(|address| Addr::from(address) == endpoint.addr);
                if !is_there {
                    continue;
                }
                let number = endpoint.port.get();
                let backend = service_id.and_then(|id| by_place.get(&(id, endpoint.addr, number))).copied();
                let report = found.entry((endpoint.addr, number, protocol)).or_insert_with(|| EndpointReport {
                    address: SocketAddr::new(endpoint.addr.into(), number),
                    protocol: protocol_name(protocol.into()),
                    name: names.get(&endpoint.addr).cloned(),
                    node: endpoint.node.to_string(),
                    state: state(&endpoint).into(),
                    services: vec![],
                    flows: 0,
                    connections: 0,
                });
                if let Some(id) = backend {
                    report.flows += flows.get(&id).copied().unwrap_or(0);
                    report.connections += u64::from(tables.connections(id));
                }
                report.services.push(EndpointUse {
                    service: key.to_string(),
                    port: port.port,
                    cluster: endpoint.cluster,
                    local: endpoint.local,
                    backend,
                });
            }
        }
    }
    Ok(EndpointList { endpoints: found.into_values().collect(), warnings: snapshot.warnings() })
}

fn state(endpoint: &Candidate) -> &'static str {
    match (endpoint.ready, endpoint.serving, endpoint.terminating) {
        (true, ..) => "ready",
        (false, true, true) => "serving-terminating",
        (false, false, true) => "terminating",
        (false, _, false) => "not-ready",
    }
}
