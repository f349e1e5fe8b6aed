//! Services on their way into the tables: compiled, planned, written.
//!
//! Invariant: the work is that of the Services that changed, unless what the node
//! is has changed, which concerns them all. This module must not know where
//! objects come from, nor when is a good time to write.

use std::collections::BTreeSet;

use datapath::abi::capacity;

use crate::{
    compile::{self, NodeContext},
    kernel::{
        service_tables::{KernelServiceTables, ServiceTableError},
        table_stats::TableFill,
    },
    model::{Model, change::Problem, objects::ObjectKey},
    plan::{Capacities, Outcome, ServicePlan},
};

/// How often a plan that says that there is more to do is asked again at once.
const ROUNDS: usize = 4;

/// The Services' stages, and what each remembers.
pub struct Services {
    node: NodeContext,
    plan: ServicePlan,
    tables: KernelServiceTables,
}

impl Services {
    /// Takes over the tables as they stand.
    pub fn adopt(mut tables: KernelServiceTables, node_name: &str) -> Result<Self, ServiceTableError> {
        let mut plan = ServicePlan::new(Capacities::default());
        plan.adopt(tables.snapshot()?);
        Ok(Self { node: NodeContext { name: node_name.into(), ..NodeContext::default() }, plan, tables })
    }

    /// Compiles the Services that changed; all of them if the node did.
    pub fn compile(&mut self, model: &Model, changed: &BTreeSet<ObjectKey>) {
        let zone = model.own_node().map(|node| node.zone.clone()).unwrap_or_default();
        if self.node.zone == zone {
            changed.iter().for_each(|key| self.compile_one(model, key));
            return;
        }
        self.node.zone = zone;
        model.services().for_each(|service| self.compile_one(model, &service.key));
        changed.iter().filter(|key| model.service(key).is_none()).for_each(|key| self.compile_one(model, key));
    }

    fn compile_one(&mut self, model: &Model, key: &ObjectKey) {
        let compile = |service| compile::service(service, &mut model.slices_of(key), &self.node);
        let compiled = model.service(key).map(compile);
        self.plan.set_service(key, compiled);
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

    /// What can't be as the Services want it.
    pub fn problems(&self) -> Vec<Problem> {
        self.plan.problems()
    }

    /// How full the tables are.
    pub fn fill(&self) -> Vec<TableFill> {
        let usage = self.plan.usage();
        let tables = [
            ("FRONTENDS", usage.frontends, capacity::FRONTENDS),
            ("BLOCKS", usage.blocks, capacity::BLOCKS),
            ("BACKENDS", usage.backends, capacity::BACKENDS),
        ];
        let fill = |(name, entries, capacity): (_, u32, u32)| TableFill {
            name,
            entries: entries.into(),
            capacity: capacity.into(),
        };
        tables.map(fill).into()
    }
}
