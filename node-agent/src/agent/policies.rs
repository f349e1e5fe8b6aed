//! NetworkPolicies in force: what the model says becomes writes to the tables of policy.
//!
//! Invariants: a pod's entry names a set only when all that the set says is in the tables;
//! what an earlier agent left is judged by until ours is there, and removed afterwards.
//! This module must not know how a pod's entry is written.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use datapath::abi::{Addr, PodPolicy};

use crate::{
    cni::service::CniService,
    kernel::{
        map::MapError,
        pod_tables::PodTables,
        policy_tables::PolicyTables,
        table_stats::{TableFill, capacity},
    },
    model::{
        Dirty, Model,
        objects::{ObjectKey, Pod},
    },
    policy::{PodFacts, PolicyEngine, PolicyOp},
};

/// The engine, its tables, and what is still to be written.
#[derive(Debug)]
pub struct Policies {
    engine: PolicyEngine,
    generation: u8,
    tables: PolicyTables,
    /// Entries of POLICY_PORTS, which can't be counted in few calls.
    ports: u64,
    backlog: VecDeque<PolicyOp>,
    /// What each local pod is judged by.
    in_force: HashMap<Addr, PodPolicy>,
    /// Those that are judged by something else now.
    changed: BTreeSet<Addr>,
    /// The addresses of wired pods that have been taken in, and of which attachments they are.
    wired: BTreeMap<ObjectKey, BTreeSet<Addr>>,
    wired_of: Option<u64>,
    has_begun: bool,
    /// There are entries of an earlier agent's.
    has_others: bool,
}

impl Policies {
    /// Goes on with tables in which an earlier agent may have left what pods are judged by.
    pub fn adopt(tables: PolicyTables, pods: &PodTables) -> Result<Self, MapError> {
        let mut taken = tables.generations()?;
        let mut in_force = HashMap::new();
        for (addr, value) in pods.entries()? {
            taken.insert(value.policy_set >> PodPolicy::GENERATION_SHIFT);
            in_force.insert(addr, PodPolicy { set: value.policy_set });
        }
        taken.remove(&0);
        let generation = (1..=u8::MAX).find(|generation| !taken.contains(&u32::from(*generation)));
        let generation = generation.unwrap_or(u8::MAX);
        Ok(Self {
            engine: PolicyEngine::new(generation),
            generation,
            tables,
            ports: 0,
            backlog: VecDeque::new(),
            in_force,
            changed: BTreeSet::new(),
            wired: BTreeMap::new(),
            wired_of: None,
            has_begun: false,
            has_others: !taken.is_empty(),
        })
    }

    /// What knows which policies are in force.
    pub fn engine(&self) -> &PolicyEngine {
        &self.engine
    }

    /// What each local pod is judged by.
    pub fn in_force(&self) -> &HashMap<Addr, PodPolicy> {
        &self.in_force
    }

    /// Whether a wired pod's policies are in the tables.
    pub fn knows(&self, pod: &ObjectKey) -> bool {
        self.has_begun && self.backlog.is_empty() && self.wired.contains_key(pod)
    }

    /// Takes in what has changed: all there is, the first time.
    pub fn take_in(&mut self, model: &Model, dirty: &Dirty, cni: Option<&CniService>) {
        let mut pods: BTreeSet<ObjectKey> = dirty.pods.clone();
        let generation = cni.map(CniService::generation);
        if !self.has_begun || self.wired_of != generation {
            pods.append(&mut self.rewire(cni));
            self.wired_of = generation;
        }
        if self.has_begun {
            for key in &dirty.namespaces {
                self.engine.set_namespace(&key.name, model.namespace(key).cloned());
            }
            for key in &dirty.policies {
                self.engine.set_policy(key, model.policy(key).cloned());
            }
            for key in &dirty.cluster_policies {
                self.engine.set_cluster_policy(key, model.cluster_policy(key).cloned());
            }
        } else {
            model.namespaces().for_each(|it| self.engine.set_namespace(&it.key.name, Some(Arc::clone(it))));
            model.policies().for_each(|it| self.engine.set_policy(&it.key, Some(Arc::clone(it))));
            model.cluster_policies().for_each(|it| self.engine.set_cluster_policy(&it.key, Some(Arc::clone(it))));
            pods.extend(model.pods().map(|pod| pod.key.clone()));
            self.has_begun = true;
        }
        for key in pods {
            let facts = model.shared_pod(&key).map(|pod| self.facts(model, pod));
            self.engine.set_pod(&key, facts);
        }
        self.backlog.extend(self.engine.commit());
    }

    fn facts(&self, model: &Model, pod: &Arc<Pod>) -> PodFacts {
        let local = pod.node == *model.node_name();
        let wired = if local { self.wired.get(&pod.key) } else { None };
        let addresses = match wired {
            Some(addresses) => addresses.iter().copied().collect(),
            None => pod.ips.iter().map(|ip| Addr::from(*ip)).collect(),
        };
        PodFacts { pod: Arc::clone(pod), addresses, local }
    }

    /// The pods that have other addresses than before, by their attachments.
    fn rewire(&mut self, cni: Option<&CniService>) -> BTreeSet<ObjectKey> {
        let mut wired: BTreeMap<ObjectKey, BTreeSet<Addr>> = BTreeMap::new();
        for attachment in cni.into_iter().flat_map(CniService::attachments) {
            if let Some(pod) = &attachment.pod {
                let addresses = attachment.addresses.iter().map(|ip| Addr::from(*ip));
                wired.entry(pod.key()).or_default().extend(addresses);
            }
        }
        let before = std::mem::replace(&mut self.wired, wired);
        let keys: BTreeSet<&ObjectKey> = before.keys().chain(self.wired.keys()).collect();
        keys.into_iter().filter(|key| before.get(*key) != self.wired.get(*key)).cloned().collect()
    }

    /// Makes the writes that are due. A table that is full refuses what it has no room for,
    /// which is denied then, and takes the rest.
    pub fn write(&mut self) -> Result<bool, MapError> {
        let wrote = !self.backlog.is_empty();
        let mut refused = VecDeque::new();
        let mut result = Ok(());
        while let Some(op) = self.backlog.pop_front() {
            if let PolicyOp::Pod(addr, policy) = op {
                if self.in_force.insert(addr, policy).unwrap_or_default() != policy {
                    self.changed.insert(addr);
                }
                continue;
            }
            match (self.tables.write(&op), &op) {
                (Ok(()), PolicyOp::Port(_, Some(_))) => self.ports += 1,
                (Ok(()), PolicyOp::Port(_, None)) => self.ports = self.ports.saturating_sub(1),
                (Ok(()), _) => {}
                (Err(error), _) => {
                    let is_full = error.is_full();
                    refused.push_back(op);
                    result = Err(error);
                    if !is_full {
                        break;
                    }
                }
            }
        }
        refused.append(&mut self.backlog);
        self.backlog = refused;
        result.map(|()| wrote)
    }

    /// How full the tables are whose entries only we know.
    pub fn fill(&self) -> [TableFill; 2] {
        let fill = |name, entries| TableFill { name, entries, capacity: capacity(name) };
        [fill("POLICY_NETWORKS", self.engine.networks_len() as u64), fill("POLICY_PORTS", self.ports)]
    }

    /// The local pods that are judged by something else now, until [`Policies::told`].
    pub fn changed(&self) -> &BTreeSet<Addr> {
        &self.changed
    }

    /// Their entries say so; established flows are judged again.
    pub fn told(&mut self) -> Result<(), MapError> {
        self.changed.clear();
        self.tables.next_epoch()
    }

    /// Takes back what no program run can follow any more; true: there is more to do later.
    pub fn reclaim(&mut self) -> Result<bool, MapError> {
        if !self.has_begun || !self.backlog.is_empty() || !self.changed.is_empty() {
            return Ok(false);
        }
        if self.has_others {
            self.tables.keep(self.generation.into())?;
            self.has_others = false;
        }
        self.backlog.extend(self.engine.reclaim());
        let more = !self.backlog.is_empty();
        self.write()?;
        Ok(more)
    }
}
