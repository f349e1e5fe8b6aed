//! Questions about what is in force, answered beside the main loop.
//!
//! The loop only gathers what it knows, shared where that is large; reading tables and
//! putting names to what is in them happens on another thread. This module must not know
//! what an answer says.

use std::{collections::HashMap, net::IpAddr, path::Path};

use datapath::tables::Tables;
use nix::net::if_::if_indextoname;
use tokio::runtime::Handle;

use super::{agent::Agent, report, waiters::Reply};
use crate::{
    api::{
        flows::{FlowPage, FlowQuery, MAX_PAGE},
        protocol::{Failure, FailureReason, Inspection, Response},
        services::EndpointQuery,
    },
    cni::service::CniService,
    inspect::{
        self, FlowFilter, Names, ServiceFacts, Snapshot,
        why::{Way, Ways},
    },
    kernel::{
        live_tables::LiveTables,
        map::MapError,
        netlink::{Netlink, NetlinkError},
    },
};

/// Answers, soon.
pub(super) fn answer(agent: &Agent, inspection: Inspection, reply: Reply) {
    let snapshot = snapshot(agent, matches!(inspection, Inspection::Why(_)));
    let maps = agent.dataplane.maps();
    tokio::task::spawn_blocking(move || {
        // Whoever asked may have gone.
        let _ = reply.send(respond(&snapshot, &maps, &inspection).unwrap_or_else(Response::Failed));
    });
}

/// What the agent knows; the rules of policies only if they are wanted.
fn snapshot(agent: &Agent, with_rules: bool) -> Snapshot {
    let (model, engine) = (&agent.model, agent.policies.engine());
    let facts = |(service, slices): (&_, &[_])| ServiceFacts {
        service: std::sync::Arc::clone(service),
        slices: slices.to_vec(),
    };
    Snapshot {
        node: agent.services.node().clone(),
        addresses: agent.node.present_addresses().iter().copied().collect(),
        services: model.shared_services().map(facts).collect(),
        host_ports: agent.services.host_ports().clone(),
        pods: model.shared_pods().cloned().collect(),
        wired: agent.cni.iter().flat_map(CniService::connected).cloned().collect(),
        nodes: model.shared_nodes().cloned().collect(),
        owners: agent.services.owners(),
        rules: if with_rules {
            engine.rule_names().map(|(id, name)| (id, name.clone())).collect()
        } else {
            HashMap::new()
        },
        denials: if with_rules { engine.counters().collect() } else { HashMap::new() },
        socket_lb: agent.flags.socket_lb,
        waiting_for: agent.waiting_for(),
        problems: report::problems(agent).into_iter().map(|problem| (problem.subject, problem.message)).collect(),
    }
}

fn respond(snapshot: &Snapshot, maps: &Path, inspection: &Inspection) -> Result<Response, Failure> {
    let mut tables = LiveTables::open(maps).map_err(unreadable)?;
    let names = Names::of(snapshot);
    let response = match inspection {
        Inspection::Services(query) => {
            let connections = tables.service_connections().map_err(unreadable)?;
            Response::Services(inspect::services(snapshot, &names, &tables, &connections, query)?)
        }
        Inspection::Endpoints(query) => endpoints(snapshot, &names, &tables, query)?,
        Inspection::Flows(query) => Response::Flows(flows(snapshot, &names, &tables, query)?),
        Inspection::Why(query) => {
            Response::Why(Box::new(inspect::why::explain(snapshot, &names, &mut tables, &NodeWays, query)?))
        }
    };
    match tables.trouble() {
        Some(error) => Err(unreadable(error)),
        None => Ok(response),
    }
}

/// The ways that the node's stack knows, for a thread that may block.
struct NodeWays;

impl Ways for NodeWays {
    fn way_to(&self, addr: IpAddr) -> Result<Option<Way>, String> {
        let ask = async { Netlink::open()?.way_to(addr).await };
        let found: Result<_, NetlinkError> = Handle::current().block_on(ask);
        let way = found.map_err(|error| error.to_string())?;
        let name = |ifindex| self.interface(ifindex).unwrap_or_else(|| format!("interface {ifindex}"));
        Ok(way.map(|way| Way { interface: name(way.ifindex), gateway: way.gateway }))
    }

    fn interface(&self, ifindex: u32) -> Option<String> {
        if_indextoname(ifindex).ok().map(|name| name.to_string_lossy().into_owned())
    }
}

fn unreadable(error: MapError) -> Failure {
    Failure::new(FailureReason::Kernel, error)
}

fn endpoints(
    snapshot: &Snapshot,
    names: &Names,
    tables: &LiveTables,
    query: &EndpointQuery,
) -> Result<Response, Failure> {
    let mut backends = Vec::new();
    tables.each_backend(|id, backend| backends.push((id, backend))).map_err(unreadable)?;
    let mut flows: HashMap<u32, u64> = HashMap::new();
    let count = |_, flow: datapath::abi::FlowValue| {
        if flow.service != 0 && flow.flags & datapath::abi::FlowValue::REVERSE == 0 {
            *flows.entry(flow.backend).or_default() += 1;
        }
    };
    tables.some_flows(None, count, || true).map_err(unreadable)?;
    inspect::endpoints(snapshot, names, tables, &backends, &flows, query).map(Response::Endpoints)
}

/// A page of flows. So much is read for it at most that it doesn't take long.
fn flows(snapshot: &Snapshot, names: &Names, tables: &LiveTables, query: &FlowQuery) -> Result<FlowPage, Failure> {
    const MOST_READ: u32 = 1 << 16;
    let filter = FlowFilter::new(snapshot, query)?;
    let limit = query.limit.clamp(1, MAX_PAGE) as usize;
    let now = (tables.now() / 1_000_000_000) as u32;
    let (mut flows, read) = (Vec::new(), std::cell::Cell::new(0_u32));
    let found = std::cell::Cell::new(0_usize);
    let visit = |key, value| {
        read.set(read.get() + 1);
        if filter.admits(&key, &value) {
            flows.push(inspect::flow(snapshot, names, &key, &value, now));
            found.set(flows.len());
        }
    };
    let more = || found.get() < limit && read.get() < MOST_READ;
    let next = tables.some_flows(query.after, visit, more).map_err(unreadable)?;
    Ok(FlowPage { flows, next })
}
