//! NetworkPolicies, Namespaces and Pods become the tables of policy.
//!
//! Invariants: after each write every pod is judged by its policies as they were or as
//! they are, for each peer as it was or as it is; nothing that a program run may have
//! begun to follow is taken away before [`PolicyEngine::reclaim`]; and once that has
//! nothing left to do, the tables say what a fresh engine's would. The work for a change
//! is that of what hangs on it.

use std::{collections::BTreeSet, sync::Arc};

use datapath::abi::{Addr, PodPolicy};
use fnv::{FnvHashMap, FnvHashSet};

use super::{
    blocks::{Blocks, Network},
    clause::{Clause, Clauses, Item, named_port},
    ids::Interned,
    op::PolicyOp,
    outcome::{Ports, Step},
    set::{Direction, OwnNames, Rule, RuleName, RulePort, Set, SetKey, Version, blocks_of_ranked},
};
use crate::model::{
    cluster_network_policy::{Action, ClusterNetworkPolicy, ClusterRule, Tier},
    network_policy::{NetworkPolicy, Peer, PeerNamespaces, PolicyPort, PolicyRule, PortMatch},
    objects::{Namespace, ObjectKey, Pod},
};

/// A pod as policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// What its object says.
    pub pod: Arc<Pod>,
    /// Its addresses; those of a local pod are what it was given.
    pub addresses: Vec<Addr>,
    /// It is on this node, and its policies are enforced here.
    pub local: bool,
}

/// A policy of either kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum AnyPolicy {
    Network(Arc<NetworkPolicy>),
    Cluster(Arc<ClusterNetworkPolicy>),
}

#[derive(Debug)]
struct PolicyState {
    policy: AnyPolicy,
    /// Its version, once it has selected a local pod.
    version: Option<u32>,
}

#[derive(Debug)]
pub(super) struct PodState {
    pub facts: PodFacts,
    /// What holds for it.
    pub items: Box<[Item]>,
    /// Its policies; 0: none.
    pub set: u32,
}

#[derive(Debug, Default)]
pub(super) struct AddressState {
    /// Nearly always one.
    pub owners: Vec<ObjectKey>,
    /// 0: none of its own.
    pub class: u32,
}

/// All that is known of policies and whom they concern.
#[derive(Debug)]
pub struct PolicyEngine {
    pub(super) generation: u32,
    policies: FnvHashMap<ObjectKey, PolicyState>,
    policies_of: FnvHashMap<Arc<str>, BTreeSet<ObjectKey>>,
    pub(super) namespaces: FnvHashMap<Arc<str>, Arc<Namespace>>,
    /// Namespaces of pods, as they are if nothing is known of them.
    pub(super) assumed: FnvHashMap<Arc<str>, Namespace>,
    pub(super) pods: FnvHashMap<ObjectKey, PodState>,
    pub(super) pods_of: FnvHashMap<Arc<str>, BTreeSet<ObjectKey>>,
    local: BTreeSet<ObjectKey>,
    pub(super) addresses: FnvHashMap<Addr, AddressState>,
    pub(super) clauses: Clauses,
    pub(super) rules: Interned<RuleName, ()>,
    pub(super) versions: Interned<u64, Version>,
    next_version: u64,
    pub(super) sets: Interned<SetKey, Set>,
    pub(super) classes: Interned<Box<[Item]>, ()>,
    pub(super) lists: Interned<Box<[Ports]>, ()>,
    pub(super) verdicts: FnvHashMap<datapath::abi::PolicyVerdictKey, datapath::abi::PolicyVerdict>,
    pub(super) blocks_of_pods: Blocks,
    pub(super) networks: FnvHashMap<Network, u32>,
    /// Pods for which other clauses may hold.
    pub(super) dirty_pods: BTreeSet<ObjectKey>,
    /// Local pods that other policies may select.
    dirty_local: BTreeSet<ObjectKey>,
    /// Addresses that somebody has lost.
    pub(super) orphans: FnvHashSet<Addr>,
}

/// Writes by what must be there first.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Of what nobody follows yet.
    pub new: Vec<PolicyOp>,
    /// Peers change their classes.
    pub peers: Vec<PolicyOp>,
    /// Pods change their sets.
    pub pods: Vec<PolicyOp>,
}

impl Writes {
    /// In order.
    pub fn in_order(mut self) -> Vec<PolicyOp> {
        self.new.append(&mut self.peers);
        self.new.append(&mut self.pods);
        self.new
    }
}

impl PolicyEngine {
    /// One that knows nothing. No other that the tables still know may have had the
    /// generation, which is never 0.
    pub fn new(generation: u8) -> Self {
        Self {
            generation: generation.into(),
            policies: FnvHashMap::default(),
            policies_of: FnvHashMap::default(),
            namespaces: FnvHashMap::default(),
            pods: FnvHashMap::default(),
            pods_of: FnvHashMap::default(),
            local: BTreeSet::new(),
            addresses: FnvHashMap::default(),
            clauses: Clauses::default(),
            rules: Interned::default(),
            versions: Interned::default(),
            next_version: 0,
            sets: Interned::default(),
            classes: Interned::default(),
            lists: Interned::default(),
            verdicts: FnvHashMap::default(),
            blocks_of_pods: Blocks::default(),
            networks: FnvHashMap::default(),
            dirty_pods: BTreeSet::new(),
            dirty_local: BTreeSet::new(),
            orphans: FnvHashSet::default(),
            assumed: FnvHashMap::default(),
        }
    }

    /// The NetworkPolicy of this key is as given, or gone.
    pub fn set_policy(&mut self, key: &ObjectKey, policy: Option<Arc<NetworkPolicy>>) {
        self.set_any_policy(key, policy.map(AnyPolicy::Network));
    }

    /// The ClusterNetworkPolicy of this key, whose namespace is "", is as given, or gone.
    pub fn set_cluster_policy(&mut self, key: &ObjectKey, policy: Option<Arc<ClusterNetworkPolicy>>) {
        self.set_any_policy(key, policy.map(AnyPolicy::Cluster));
    }

    fn set_any_policy(&mut self, key: &ObjectKey, policy: Option<AnyPolicy>) {
        if self.policies.get(key).map(|state| &state.policy) == policy.as_ref() {
            return;
        }
        let before = self.policies.remove(key);
        if let Some(version) = before.and_then(|state| state.version) {
            self.versions.let_go(version);
        }
        let of_namespace = self.policies_of.entry(Arc::clone(&key.namespace)).or_default();
        match policy {
            Some(policy) => {
                of_namespace.insert(key.clone());
                self.policies.insert(key.clone(), PolicyState { policy, version: None });
            }
            None => _ = of_namespace.remove(key),
        }
        if of_namespace.is_empty() {
            self.policies_of.remove(&key.namespace);
        }
        let is_cluster = key.namespace.is_empty();
        let concerned = self.local.iter().filter(|pod| is_cluster || pod.namespace == key.namespace).cloned();
        self.dirty_local.extend(concerned);
    }

    /// The namespace of this name is as given, or gone.
    pub fn set_namespace(&mut self, name: &Arc<str>, namespace: Option<Arc<Namespace>>) {
        if self.namespaces.get(name) == namespace.as_ref() {
            return;
        }
        match namespace {
            Some(namespace) => _ = self.namespaces.insert(Arc::clone(name), namespace),
            None => _ = self.namespaces.remove(name),
        }
        let pods = self.pods_of.get(name).into_iter().flatten();
        self.dirty_pods.extend(pods.clone().cloned());
        if self.policies_of.contains_key("") {
            // They select by namespaces' labels.
            self.dirty_local.extend(pods.filter(|pod| self.local.contains(*pod)).cloned());
        }
    }

    /// The pod of this key is as given, or gone. One on its node's own network, or that
    /// has finished, is nobody to policy.
    pub fn set_pod(&mut self, key: &ObjectKey, facts: Option<PodFacts>) {
        let facts = facts.filter(|facts| !facts.pod.host_network && !facts.pod.finished);
        let before = self.pods.get(key).map(|state| &state.facts);
        if before == facts.as_ref() {
            return;
        }
        let before: Vec<Addr> = before.map(|facts| facts.addresses.clone()).unwrap_or_default();
        let after = facts.as_ref().map(|facts| facts.addresses.clone()).unwrap_or_default();
        for addr in before.iter().filter(|addr| !after.contains(addr)) {
            self.disown(addr, key);
        }
        for addr in after.iter().filter(|addr| !before.contains(addr)) {
            self.addresses.entry(*addr).or_default().owners.push(key.clone());
            self.touch_owners(addr);
        }
        if facts.as_ref().is_some_and(|facts| facts.local) {
            self.local.insert(key.clone());
        } else {
            self.local.remove(key);
        }
        self.dirty_pods.insert(key.clone());
        self.dirty_local.insert(key.clone());
        match facts {
            Some(facts) => {
                self.pods_of.entry(Arc::clone(&key.namespace)).or_default().insert(key.clone());
                let assumed = self.assumed.entry(Arc::clone(&key.namespace));
                assumed.or_insert_with(|| Namespace::new(Arc::clone(&key.namespace), Vec::new()));
                let state = self.pods.entry(key.clone());
                let fresh = |facts| PodState { facts, items: Box::default(), set: 0 };
                state.and_modify(|state| state.facts = facts.clone()).or_insert_with(|| fresh(facts));
            }
            None => {
                if let Some(state) = self.pods.remove(key)
                    && state.set != 0
                {
                    self.sets.let_go(state.set);
                }
                if let Some(pods) = self.pods_of.get_mut(&key.namespace) {
                    pods.remove(key);
                    if pods.is_empty() {
                        self.pods_of.remove(&key.namespace);
                        self.assumed.remove(&key.namespace);
                    }
                }
            }
        }
    }

    /// Whoever else has the address is looked at again: what holds for it is what holds for all of them.
    fn touch_owners(&mut self, addr: &Addr) {
        self.dirty_pods.extend(self.addresses.get(addr).into_iter().flat_map(|state| state.owners.clone()));
    }

    fn disown(&mut self, addr: &Addr, key: &ObjectKey) {
        if let Some(state) = self.addresses.get_mut(addr) {
            state.owners.retain(|owner| owner != key);
        }
        self.touch_owners(addr);
        self.orphans.insert(*addr);
    }

    /// A local pod's policies, by its address.
    pub fn policy_of(&self, addr: &Addr) -> PodPolicy {
        let owners = self.addresses.get(addr).into_iter().flat_map(|state| &state.owners);
        let mut local = owners.filter_map(|key| self.pods.get(key)).filter(|state| state.facts.local);
        local.next().map_or(PodPolicy::NONE, |state| self.pod_policy(state.set))
    }

    fn pod_policy(&self, set: u32) -> PodPolicy {
        if self.sets.get(set).is_some() { PodPolicy { set: self.set_number(set) } } else { PodPolicy::NONE }
    }

    /// Puts what changed into writes, which are to be made in order.
    pub fn commit(&mut self) -> Vec<PolicyOp> {
        let mut writes = Writes::default();
        let mut news = Vec::new();
        for key in std::mem::take(&mut self.dirty_local) {
            self.choose_set(&key, &mut news, &mut writes);
        }
        self.find_pods(&news);
        if news.iter().any(|id| self.clauses.clause(*id).is_block()) {
            self.rebuild_blocks(&mut writes);
        }
        self.evaluate_dirty(&mut writes);
        writes.in_order()
    }

    /// Chooses a local pod's set anew.
    fn choose_set(&mut self, key: &ObjectKey, news: &mut Vec<u32>, writes: &mut Writes) {
        let Some(state) = self.pods.get(key) else { return };
        let (pod, local, old) = (Arc::clone(&state.facts.pod), state.facts.local, state.set);
        let addresses = state.facts.addresses.clone();
        let mut versions = Vec::new();
        if local {
            let of_both = ["", &*key.namespace].map(|namespace| self.policies_of.get(namespace));
            let policies: Vec<ObjectKey> = of_both.into_iter().flatten().flatten().cloned().collect();
            for policy in policies {
                let selects = |state: &PolicyState| match &state.policy {
                    AnyPolicy::Network(policy) => policy.pods.matches(&pod.labels),
                    AnyPolicy::Cluster(policy) => policy.selects(self.labels_of(&key.namespace), &pod.labels),
                };
                if self.policies.get(&policy).is_some_and(selects) {
                    versions.extend(self.version(&policy, news));
                }
            }
            versions.sort_by(|a, b| self.versions[*a].turn().cmp(&self.versions[*b].turn()));
        }
        let set = if versions.is_empty() { 0 } else { self.set(versions, &pod, news, writes) };
        if set != 0 {
            self.sets.hold(set);
        }
        if old != 0 {
            self.sets.let_go(old);
        }
        if let Some(state) = self.pods.get_mut(key) {
            state.set = set;
        }
        // One that is on another node now has no entry here any more.
        if local {
            let policy = self.pod_policy(set);
            writes.pods.extend(addresses.into_iter().map(|addr| PolicyOp::Pod(addr, policy)));
        }
    }

    /// The set of these versions for a pod.
    fn set(&mut self, versions: Vec<u32>, pod: &Pod, news: &mut Vec<u32>, writes: &mut Writes) -> u32 {
        let names = versions.iter().flat_map(|version| self.versions[*version].own_names());
        let number = |(name, protocol): (&Arc<str>, _)| {
            (Arc::clone(name), protocol, named_port(&pod.named_ports, name, protocol))
        };
        let mut names: OwnNames = names.map(number).collect();
        names.sort_unstable();
        names.dedup();
        let key = SetKey { versions, names };
        if let Some(id) = self.sets.find(&key) {
            return id;
        }
        let of_key = || key.versions.iter().map(|version| &self.versions[*version]);
        let blocks = blocks_of_ranked(of_key(), |id| matches!(self.clauses.clause(id), Clause::Block(..)));
        let of_pods = blocks.into_iter().filter_map(|id| match self.clauses.clause(id).clone() {
            Clause::Block(cidr, except) => Some((id, self.clause(Clause::BlockOfPods(cidr, except), news))),
            _ => None,
        });
        let blocks = of_pods.collect();
        let of_key = key.versions.iter().map(|version| &self.versions[*version]);
        let set = Set::new(of_key, key.names.clone(), &blocks);
        for version in &key.versions {
            self.versions.hold(*version);
        }
        let id = self.sets.add(key, set);
        self.fill_set(id, writes);
        id
    }

    /// The policy's version as it is now.
    fn version(&mut self, key: &ObjectKey, news: &mut Vec<u32>) -> Option<u32> {
        let state = self.policies.get(key)?;
        if let Some(version) = state.version {
            return Some(version);
        }
        let policy = state.policy.clone();
        let mut compile = |direction, tier, rules: &[(Action, &PolicyRule)]| {
            let rule = |(index, (action, rule)): (usize, &(Action, &PolicyRule))| {
                let name = RuleName { policy: key.clone(), direction, index };
                Arc::new(self.rule(name, tier, *action, rule, news))
            };
            rules.iter().enumerate().map(rule).collect::<Vec<_>>()
        };
        let (tier, priority, rules) = match &policy {
            AnyPolicy::Network(policy) => {
                let mut compile = |direction, rules: &Option<Vec<PolicyRule>>| {
                    let rules: Vec<_> = rules.as_ref()?.iter().map(|rule| (Action::Accept, rule)).collect();
                    Some(compile(direction, Tier::Network, &rules))
                };
                let rules = [compile(Direction::Ingress, &policy.ingress), compile(Direction::Egress, &policy.egress)];
                (Tier::Network, 0, rules)
            }
            AnyPolicy::Cluster(policy) => {
                let mut compile = |direction, rules: &[ClusterRule]| {
                    let rules: Vec<_> = rules.iter().map(|rule| (rule.action, &rule.rule)).collect();
                    (!rules.is_empty()).then(|| compile(direction, policy.tier, &rules))
                };
                let rules = [compile(Direction::Ingress, &policy.ingress), compile(Direction::Egress, &policy.egress)];
                (policy.tier, policy.priority, rules)
            }
        };
        self.next_version += 1;
        let version = Version { policy: key.clone(), tier, priority, rules };
        let version = self.versions.add(self.next_version, version);
        self.versions.hold(version);
        self.policies.get_mut(key)?.version = Some(version);
        Some(version)
    }

    fn rule(&mut self, name: RuleName, tier: Tier, action: Action, rule: &PolicyRule, news: &mut Vec<u32>) -> Rule {
        let namespace = Arc::clone(&name.policy.namespace);
        let direction = name.direction;
        let is_named = |port: &PolicyPort| matches!(port.port, PortMatch::Named(_));
        let asks_names = direction == Direction::Egress && rule.ports.iter().flatten().any(is_named);
        let peers = rule.peers.as_ref().map(|peers| {
            let clauses = peers.iter().flat_map(|peer| clauses_of(peer, &namespace, asks_names));
            clauses.map(|clause| self.clause(clause, news)).collect()
        });
        let ports = rule.ports.as_ref().map(|ports| {
            let ports = ports.iter().map(|port| {
                let named_by = match &port.port {
                    PortMatch::Named(name) if direction == Direction::Egress => {
                        Some(self.clause(Clause::Named(Arc::clone(name), port.protocol), news))
                    }
                    _ => None,
                };
                RulePort { protocol: port.protocol, port: port.port.clone(), named_by }
            });
            ports.collect()
        });
        let id = self.rules.find(&name).unwrap_or_else(|| self.rules.add(name, ()));
        self.rules.hold(id);
        Rule { step: Step { rule: id, tier, action }, peers, ports }
    }

    fn clause(&mut self, clause: Clause, news: &mut Vec<u32>) -> u32 {
        let (id, is_new) = self.clauses.intern(clause);
        if is_new {
            news.push(id);
        }
        self.clauses.hold(id);
        id
    }

    /// Lets go of what policies are compiled to that select no local pod any more.
    pub(super) fn forget_unused_versions(&mut self) {
        for state in self.policies.values_mut() {
            if let Some(version) = state.version.take_if(|version| self.versions.holders(*version) == 1) {
                self.versions.let_go(version);
            }
        }
    }

    /// Every rule's number and name.
    pub fn rule_names(&self) -> impl Iterator<Item = (u32, &RuleName)> {
        self.rules.iter()
    }

    /// The name of a rule by its number; `None`: no policy's, the default.
    pub fn rule_name(&self, id: u32) -> Option<&RuleName> {
        self.rules.get(id).map(|()| self.rules.key(id))
    }
}

/// Of which clauses a peer has one; `asks_names`: it is asked what its ports are called.
fn clauses_of(peer: &Peer, namespace: &Arc<str>, asks_names: bool) -> Vec<Clause> {
    match peer {
        Peer::Pods { namespaces: PeerNamespaces::Own, pods } => {
            vec![Clause::OfNamespace(Arc::clone(namespace), pods.clone())]
        }
        Peer::Pods { namespaces: PeerNamespaces::Selected(namespaces), pods } => {
            vec![Clause::OfNamespaces(namespaces.clone(), pods.clone())]
        }
        Peer::Block { cidr, except } => {
            let mut clauses = vec![Clause::Block(*cidr, except.clone().into())];
            if asks_names {
                clauses.push(Clause::BlockOfPods(*cidr, except.clone().into()));
            }
            clauses
        }
    }
}
