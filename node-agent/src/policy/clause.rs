//! What rules say of their peers, each saying once, and which of it holds for a pod.
//!
//! Invariant: a clause is looked at for a pod only if the pod has a label, a label's
//! name or the namespace that the clause asks for, unless it asks for none: so a pod
//! costs what may hold for it, however many clauses there are.

use std::{collections::BTreeSet, sync::Arc};

use fnv::{FnvHashMap, FnvHashSet};
use ipnetwork::IpNetwork;

use super::{blocks::Blocks, ids::Interned};
use crate::model::{
    network_policy::{Labels, Operator, Selector},
    objects::{EndpointPort, Protocol},
};

/// Something that may hold for an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Clause {
    /// It is a pod's in a namespace.
    OfNamespace(Arc<str>, Selector),
    /// It is a pod's in one of the namespaces that are selected first.
    OfNamespaces(Selector, Selector),
    /// It is a pod's that gives a port this name.
    Named(Arc<str>, Protocol),
    /// It is in a network, and in none of some others.
    Block(IpNetwork, Box<[IpNetwork]>),
    /// The same, asked of a pod, whose ports have names.
    BlockOfPods(IpNetwork, Box<[IpNetwork]>),
}

/// A clause that holds, by its number, and the port's number where it names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Item {
    /// The clause.
    pub clause: u32,
    /// Of a [`Clause::Named`]: the port. Else 0.
    pub port: u16,
}

/// Who goes by a clause.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    /// Classes of which it is part.
    pub classes: FnvHashSet<u32>,
    /// Sets that ask for it.
    pub sets: FnvHashSet<u32>,
}

/// What is known of a pod when clauses are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its namespace's labels.
    pub namespace_labels: &'a Labels,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its named ports.
    pub named_ports: &'a [EndpointPort],
}

/// All clauses that some policy in force has.
#[derive(Clone, Debug, Default)]
pub(super) struct Clauses {
    all: Interned<Clause, Links>,
    of_namespace: FnvHashMap<Arc<str>, ByLabel>,
    of_namespaces: ByLabel,
    named: BTreeSet<u32>,
    blocks: BTreeSet<u32>,
    blocks_of_pods: BTreeSet<u32>,
    /// Those that hold for nobody any more, but of which there are classes.
    retired: BTreeSet<u32>,
}

/// Clauses by what a pod must have for them to hold.
#[derive(Clone, Debug, Default)]
struct ByLabel {
    value: FnvHashMap<Arc<str>, FnvHashMap<Arc<str>, Vec<u32>>>,
    name: FnvHashMap<Arc<str>, Vec<u32>>,
    rest: Vec<u32>,
}

impl ByLabel {
    /// The lists in which a clause stands that asks for this.
    fn change(&mut self, pods: &Selector, mut change: impl FnMut(&mut Vec<u32>)) {
        let mut name = None;
        for requirement in pods.requirements() {
            match &requirement.operator {
                Operator::In(values) => {
                    let by_value = self.value.entry(Arc::clone(&requirement.label)).or_default();
                    for value in values {
                        let list = by_value.entry(Arc::clone(value)).or_default();
                        change(list);
                        if list.is_empty() {
                            by_value.remove(value);
                        }
                    }
                    if by_value.is_empty() {
                        self.value.remove(&requirement.label);
                    }
                    return;
                }
                Operator::Exists => name = Some(&requirement.label),
                _ => {}
            }
        }
        match name {
            None => change(&mut self.rest),
            Some(name) => {
                let list = self.name.entry(Arc::clone(name)).or_default();
                change(list);
                if list.is_empty() {
                    self.name.remove(name);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.name.is_empty() && self.value.is_empty()
    }

    fn candidates<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = u32> {
        let by_label = labels.iter().flat_map(|(name, value)| {
            let by_value = self.value.get(name).and_then(|values| values.get(value));
            by_value.into_iter().chain(self.name.get(name)).flatten()
        });
        by_label.chain(&self.rest).copied()
    }
}

impl Clause {
    /// Whether it asks for an address only.
    pub fn is_block(&self) -> bool {
        matches!(self, Self::Block(..) | Self::BlockOfPods(..))
    }
}

impl Clauses {
    /// The clause's number; true: nobody has been looked at yet for whom it may hold.
    pub fn intern(&mut self, clause: Clause) -> (u32, bool) {
        if let Some(id) = self.all.find(&clause) {
            let is_back = self.retired.remove(&id);
            if is_back {
                self.list(id, &clause, true);
            }
            return (id, is_back);
        }
        let id = self.all.add(clause.clone(), Links::default());
        self.list(id, &clause, true);
        (id, true)
    }

    /// Puts a clause where it is looked for, or takes it from there.
    fn list(&mut self, id: u32, clause: &Clause, listed: bool) {
        let change = |list: &mut Vec<u32>| {
            if listed {
                list.push(id);
            } else {
                list.retain(|other| *other != id);
            }
        };
        match clause {
            Clause::OfNamespace(namespace, pods) => {
                let by_label = self.of_namespace.entry(Arc::clone(namespace)).or_default();
                by_label.change(pods, change);
                if by_label.is_empty() {
                    self.of_namespace.remove(namespace);
                }
            }
            Clause::OfNamespaces(_, pods) => self.of_namespaces.change(pods, change),
            Clause::Named(..) if listed => _ = self.named.insert(id),
            Clause::Named(..) => _ = self.named.remove(&id),
            Clause::Block(..) if listed => _ = self.blocks.insert(id),
            Clause::Block(..) => _ = self.blocks.remove(&id),
            Clause::BlockOfPods(..) if listed => _ = self.blocks_of_pods.insert(id),
            Clause::BlockOfPods(..) => _ = self.blocks_of_pods.remove(&id),
        }
    }

    /// Notes one rule more that has it.
    pub fn hold(&mut self, id: u32) {
        self.all.hold(id);
    }

    /// Notes one rule less.
    pub fn let_go(&mut self, id: u32) {
        self.all.let_go(id);
    }

    /// Those that no rule has.
    pub fn idle(&self) -> Vec<u32> {
        self.all.idle()
    }

    /// From now on the clause holds for nobody; false: so it was.
    pub fn retire(&mut self, id: u32) -> bool {
        let is_news = self.retired.insert(id);
        if is_news {
            let clause = self.all.key(id).clone();
            self.list(id, &clause, false);
        }
        is_news
    }

    /// Takes out a clause that no rule has and of which no class is made.
    pub fn remove(&mut self, id: u32) {
        self.retire(id);
        self.retired.remove(&id);
        self.all.remove(id);
    }

    /// What a number stands for.
    pub fn clause(&self, id: u32) -> &Clause {
        self.all.key(id)
    }

    /// Who goes by a clause.
    pub fn links(&self, id: u32) -> &Links {
        &self.all[id]
    }

    /// The same, to change it.
    pub fn links_mut(&mut self, id: u32) -> &mut Links {
        self.all.get_mut(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The blocks.
    pub fn blocks(&self) -> Blocks {
        self.blocks_among(&self.blocks)
    }

    /// Those that are asked of pods.
    pub fn blocks_of_pods(&self) -> Blocks {
        self.blocks_among(&self.blocks_of_pods)
    }

    fn blocks_among(&self, ids: &BTreeSet<u32>) -> Blocks {
        Blocks::new(ids.iter().filter_map(|id| match self.all.key(*id) {
            Clause::Block(cidr, except) | Clause::BlockOfPods(cidr, except) => Some((*id, cidr, &**except)),
            _ => None,
        }))
    }

    /// What holds for a pod, blocks aside, in order.
    pub fn of_pod(&self, pod: &Traits<'_>) -> Vec<Item> {
        let own = self.of_namespace.get(pod.namespace).into_iter().flat_map(|by_label| by_label.candidates(pod.labels));
        let candidates = own.chain(self.of_namespaces.candidates(pod.labels)).chain(self.named.iter().copied());
        let mut items: Vec<Item> = candidates.filter_map(|id| self.holds(id, pod)).collect();
        items.sort_unstable();
        items.dedup();
        items
    }

    /// Whether a clause that is no block holds for a pod.
    pub fn holds(&self, id: u32, pod: &Traits<'_>) -> Option<Item> {
        let (holds, port) = match self.all.key(id) {
            Clause::OfNamespace(namespace, pods) => (**namespace == *pod.namespace && pods.matches(pod.labels), 0),
            Clause::OfNamespaces(namespaces, pods) => {
                (namespaces.matches(pod.namespace_labels) && pods.matches(pod.labels), 0)
            }
            Clause::Named(name, protocol) => {
                let port = named_port(pod.named_ports, name, *protocol);
                (port.is_some(), port.unwrap_or(0))
            }
            Clause::Block(..) | Clause::BlockOfPods(..) => (false, 0),
        };
        holds.then_some(Item { clause: id, port })
    }
}

/// The port to which a pod gives a name; of several the first.
pub(super) fn named_port(ports: &[EndpointPort], name: &str, protocol: Protocol) -> Option<u16> {
    ports.iter().find(|port| port.protocol == protocol && *port.name == *name).map(|port| port.port)
}
