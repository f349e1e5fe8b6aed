//! Services on their way into the tables: compiled, planned, written.
//!
//! Invariant: the work is that of the Services that changed, unless what the node
//! is has changed, which concerns them all. This module must not know where
//! objects come from, nor when is a good time to write.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use datapath::abi::{Addr, capacity};

use crate::{
    compile::{self, Algorithm, CompiledService, HealthCheck, NodeContext},
    kernel::{
        service_tables::{KernelServiceTables, ServiceTableError},
        table_stats::TableFill,
    },
    model::{Model, change::Problem, objects::ObjectKey},
    plan::{Capacities, NoLocalEndpoints, Outcome, Owner, ServicePlan},
    routing::NodeAddresses,
};

/// How often a plan that says that there is more to do is asked again at once.
const ROUNDS: usize = 4;

/// The Services' stages, and what each remembers.
pub struct Services {
    node: NodeContext,
    /// The node has changed since Services were compiled.
    node_changed: bool,
    plan: ServicePlan,
    tables: KernelServiceTables,
    health_checks: BTreeMap<ObjectKey, HealthCheck>,
    /// Services that stand for pods' hostPorts.
    host_ports: BTreeMap<ObjectKey, CompiledService>,
}

impl Services {
    /// Takes over the tables as they stand.
    pub fn adopt(
        mut tables: KernelServiceTables,
        node_name: &str,
        algorithm: Algorithm,
    ) -> Result<Self, ServiceTableError> {
        let mut plan = ServicePlan::new(Capacities::default());
        plan.adopt(tables.snapshot()?);
        let node = NodeContext { name: node_name.into(), algorithm, ..NodeContext::default() };
        Ok(Self {
            node,
            node_changed: false,
            plan,
            tables,
            health_checks: BTreeMap::new(),
            host_ports: BTreeMap::new(),
        })
    }

    /// The node has these primary addresses, and NodePorts at those; whether that is news.
    pub fn set_node(&mut self, primary: NodeAddresses, node_ports: &BTreeSet<IpAddr>) -> bool {
        let moved = (self.node.v4, self.node.v6) != (primary.v4, primary.v6);
        (self.node.v4, self.node.v6) = (primary.v4, primary.v6);
        self.node_changed |= moved;
        self.plan.set_node_addresses(node_ports.iter().map(|ip| Addr::from(*ip)).collect()) || moved
    }

    /// Compiles the Services that changed; all of them if the node did, and says so.
    pub fn compile(&mut self, model: &Model, changed: &BTreeSet<ObjectKey>) -> bool {
        let zone = model.own_node().map(|node| node.zone.clone()).unwrap_or_default();
        if self.node.zone == zone && !std::mem::take(&mut self.node_changed) {
            changed.iter().for_each(|key| self.compile_one(model, key));
            return false;
        }
        self.node.zone = zone;
        self.node_changed = false;
        model.services().for_each(|service| self.compile_one(model, &service.key));
        changed.iter().filter(|key| model.service(key).is_none()).for_each(|key| self.compile_one(model, key));
        true
    }

    fn compile_one(&mut self, model: &Model, key: &ObjectKey) {
        let compile = |service| compile::service(service, &mut model.slices_of(key), &self.node);
        let compiled = model.service(key).map(compile);
        match compiled.as_ref().and_then(|compiled| compiled.health_check) {
            Some(check) => self.health_checks.insert(key.clone(), check),
            None => self.health_checks.remove(key),
        };
        self.plan.set_service(key, compiled);
    }

    /// Pods want these hostPorts from now on.
    pub fn set_host_ports(&mut self, wanted: BTreeMap<ObjectKey, CompiledService>) {
        let before = std::mem::take(&mut self.host_ports);
        for key in before.keys().filter(|key| !wanted.contains_key(key)) {
            self.plan.set_service(key, None);
        }
        for (key, service) in &wanted {
            if before.get(key) != Some(service) {
                self.plan.set_service(key, Some(service.clone()));
            }
        }
        self.host_ports = wanted;
    }

    /// Writes what is to be written.
    pub fn apply(&mut self) -> Outcome<ServiceTableError> {
        let mut outcome = self.plan.apply(&mut self.tables);
        for _ in 1..ROUNDS {
            if !outcome.retry || outcome.failed > 0 {
                break;
            }
            let next = self.plan.apply(&mut self.tables);
            outcome = Outcome { written: outcome.written + next.written, ..next };
        }
        outcome
    }

    /// Frees what was replaced. Blocks for tens of milliseconds, if there is anything.
    pub fn reclaim(&mut self) -> Result<(), ServiceTableError> {
        self.plan.reclaim(&mut self.tables)
    }

    /// See [`KernelServiceTables::has_membarrier`].
    pub fn has_membarrier(&self) -> bool {
        self.tables.has_membarrier()
    }

    /// The node, as Services are compiled for it.
    pub fn node(&self) -> &NodeContext {
        &self.node
    }

    /// Services that stand for pods' hostPorts.
    pub fn host_ports(&self) -> &BTreeMap<ObjectKey, CompiledService> {
        &self.host_ports
    }

    /// Whose each service port in the tables is.
    pub fn owners(&self) -> HashMap<u32, Owner> {
        self.plan.owners()
    }

    /// Whose one of them is.
    pub fn owner(&self, service: u32) -> Option<Owner> {
        self.plan.owner(service)
    }

    /// What can't be as the Services want it.
    pub fn problems(&self) -> Vec<Problem> {
        self.plan.problems()
    }

    /// The health checks that Services want served.
    pub fn health_checks(&self) -> &BTreeMap<ObjectKey, HealthCheck> {
        &self.health_checks
    }

    /// Service ports whose endpoints are all elsewhere, where a policy wants them here.
    pub fn no_local_endpoints(&self) -> NoLocalEndpoints {
        self.plan.no_local_endpoints()
    }

    /// How full the tables are.
    pub fn fill(&self) -> Vec<TableFill> {
        let usage = self.plan.usage();
        let tables = [
            ("FRONTENDS", usage.frontends, capacity::FRONTENDS),
            ("BLOCKS", usage.blocks, capacity::BLOCKS),
            ("BACKENDS", usage.backends, capacity::BACKENDS),
            ("SOURCE_RANGES", usage.source_ranges, capacity::SOURCE_RANGES),
        ];
        let fill = |(name, entries, capacity): (_, u32, u32)| TableFill {
            name,
            entries: entries.into(),
            capacity: capacity.into(),
        };
        tables.map(fill).into()
    }
}
