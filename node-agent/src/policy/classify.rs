//! Which class each pod's address has, and each network of an ipBlock.
//!
//! Invariant: a class that an address or a network has is held. This module must not know
//! what sets say of classes.

use std::sync::Arc;

use datapath::abi::{Addr, PolicyPeerKey};
use fnv::{FnvHashMap, FnvHashSet};

use super::{
    blocks::Network,
    clause::{Clause, Item, Traits},
    engine::{PodState, PolicyEngine, Writes},
    op::PolicyOp,
};
use crate::model::{network_policy::Labels, objects::ObjectKey};

/// More new clauses than this are looked for in all pods by their labels, fewer one by one.
const FEW: usize = 8;

impl PolicyEngine {
    /// Marks the pods for which new clauses may hold.
    pub(super) fn find_pods(&mut self, news: &[u32]) {
        let of_pods: Vec<u32> = news.iter().copied().filter(|id| !self.clauses.clause(*id).is_block()).collect();
        if of_pods.len() > FEW {
            self.dirty_pods.extend(self.pods.keys().cloned());
            return;
        }
        let mut found = Vec::new();
        for id in of_pods {
            let mut look = |key: &ObjectKey, state: &PodState| {
                if self.clauses.holds(id, &self.traits(key, state)).is_some() {
                    found.push(key.clone());
                }
            };
            match self.clauses.clause(id) {
                Clause::OfNamespace(namespace, _) => {
                    let keys = self.pods_of.get(namespace).into_iter().flatten();
                    keys.filter_map(|key| Some((key, self.pods.get(key)?))).for_each(|(key, state)| look(key, state));
                }
                _ => self.pods.iter().for_each(|(key, state)| look(key, state)),
            }
        }
        self.dirty_pods.extend(found);
    }

    fn traits<'a>(&'a self, key: &'a ObjectKey, state: &'a PodState) -> Traits<'a> {
        Traits {
            namespace: &key.namespace,
            namespace_labels: self.labels_of(&key.namespace),
            labels: &state.facts.pod.labels,
            named_ports: &state.facts.pod.named_ports,
        }
    }

    pub(super) fn labels_of(&self, namespace: &str) -> &Labels {
        let known = self.namespaces.get(namespace).map(Arc::as_ref);
        known.or_else(|| self.assumed.get(namespace)).map_or(&[], |namespace| &namespace.labels)
    }

    /// Looks again what holds for the pods that changed.
    pub(super) fn evaluate_dirty(&mut self, writes: &mut Writes) {
        let mut touched: FnvHashSet<Addr> = std::mem::take(&mut self.orphans);
        for key in std::mem::take(&mut self.dirty_pods) {
            let Some(state) = self.pods.get(&key) else { continue };
            let items = self.clauses.of_pod(&self.traits(&key, state));
            touched.extend(state.facts.addresses.iter().copied());
            if *items != *state.items
                && let Some(state) = self.pods.get_mut(&key)
            {
                state.items = items.into();
            }
        }
        for addr in touched {
            self.classify(&addr, writes);
        }
    }

    /// Gives an address its class.
    fn classify(&mut self, addr: &Addr, writes: &mut Writes) {
        let Some(state) = self.addresses.get(addr) else { return };
        let mut items: Option<Vec<Item>> = None;
        for owner in state.owners.iter().filter_map(|key| self.pods.get(key)) {
            match &mut items {
                None => items = Some(owner.items.to_vec()),
                // One of them is gone, or about to be, and nobody knows which: what holds for all of them is safe.
                Some(items) => items.retain(|item| owner.items.binary_search(item).is_ok()),
            }
        }
        let (old, is_orphan) = (state.class, state.owners.is_empty());
        let class = match items {
            Some(mut items) if !items.is_empty() => {
                items.extend(self.blocks_of_pods.of(addr).iter().map(|id| Item { clause: *id, port: 0 }));
                items.sort_unstable();
                self.class(items.into(), writes)
            }
            _ => 0,
        };
        if class != old {
            let key = PolicyPeerKey { addr: *addr, generation: self.generation };
            self.change_class(old, class);
            writes.peers.push(PolicyOp::Peer(key, (class != 0).then_some(class)));
        }
        if is_orphan {
            self.addresses.remove(addr);
        } else if let Some(state) = self.addresses.get_mut(addr) {
            state.class = class;
        }
    }

    /// Notes who holds classes.
    pub(super) fn change_class(&mut self, old: u32, new: u32) {
        if new != 0 {
            self.classes.hold(new);
        }
        if old != 0 {
            self.classes.let_go(old);
        }
    }

    /// Looks again which networks there are, and which of them pods are in.
    pub(super) fn rebuild_blocks(&mut self, writes: &mut Writes) {
        self.blocks_of_pods = self.clauses.blocks_of_pods();
        let blocks = self.clauses.blocks();
        let networks: Vec<(Network, Box<[Item]>)> = blocks
            .networks()
            .map(|(network, ids)| (*network, ids.iter().map(|id| Item { clause: *id, port: 0 }).collect()))
            .collect();
        let mut after = FnvHashMap::default();
        for (network, items) in networks {
            after.insert(network, self.class(items, writes));
        }
        let before = std::mem::take(&mut self.networks);
        for (network, class) in &after {
            let old = before.get(network).copied();
            // A network that is excepted from all blocks around it has an entry, with class 0.
            if old != Some(*class) {
                self.change_class(old.unwrap_or(0), *class);
                writes.peers.push(PolicyOp::Network(self.network_key(network), Some(*class)));
            }
        }
        for (network, class) in before.iter().filter(|(network, _)| !after.contains_key(network)) {
            self.change_class(*class, 0);
            writes.peers.push(PolicyOp::Network(self.network_key(network), None));
        }
        self.networks = after;
        let with_class = self.addresses.iter().filter(|(_, state)| state.class != 0);
        let addresses: Vec<Addr> = with_class.map(|(addr, _)| *addr).collect();
        for addr in addresses {
            self.classify(&addr, writes);
        }
    }

    /// Pods for which a clause holds, that does so no longer, are looked at again.
    pub(super) fn look_again_at(&mut self, clause: u32) {
        let has = |state: &PodState| state.items.binary_search_by_key(&clause, |item| item.clause).is_ok();
        let pods = self.pods.iter().filter(|(_, state)| has(state)).map(|(key, _)| key.clone());
        self.dirty_pods.extend(pods);
    }
}
