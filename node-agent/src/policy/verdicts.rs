//! What each set says of each class, and taking back what nobody goes by any more.
//!
//! Invariant: for each set and class that are there, the verdict is, unless it is what
//! the set says of everybody.

use datapath::abi::{PodPolicy, PolicyNetworkKey, PolicyVerdict, PolicyVerdictKey};

use super::{
    blocks::Network,
    clause::Item,
    engine::{PolicyEngine, Writes},
    op::PolicyOp,
    outcome::{Outcome, port_keys},
    set::Direction,
};

impl PolicyEngine {
    /// The number of a list of ports, in the tables.
    pub(super) fn number(&self, id: u32) -> u32 {
        self.generation << PodPolicy::GENERATION_SHIFT | id
    }

    /// The number of a set, in the tables, see [`PodPolicy::set`].
    pub(super) fn set_number(&self, set: u32) -> u32 {
        let isolated = Direction::ALL.into_iter().filter(|direction| self.sets[set].isolates(*direction));
        isolated.fold(self.number(set), |number, direction| number | PodPolicy::isolated(direction as u32))
    }

    pub(super) fn network_key(&self, network: &Network) -> PolicyNetworkKey {
        PolicyNetworkKey {
            prefix_len: PolicyNetworkKey::GENERATION_BITS + network.len(),
            generation: self.generation,
            addr: network.addr(),
        }
    }

    fn verdict_key(&self, set: u32, class: u32, direction: Direction) -> PolicyVerdictKey {
        PolicyVerdictKey { set: self.set_number(set), class, direction: direction as u32 }
    }

    /// The class of these items; nothing at all is class 0.
    pub(super) fn class(&mut self, items: Box<[Item]>, writes: &mut Writes) -> u32 {
        if items.is_empty() {
            return 0;
        }
        if let Some(id) = self.classes.find(&items) {
            return id;
        }
        let id = self.classes.add(items.clone(), ());
        let mut sets: Vec<u32> = Vec::new();
        for item in &items {
            let links = self.clauses.links_mut(item.clause);
            links.classes.insert(id);
            sets.extend(&links.sets);
        }
        sets.sort_unstable();
        sets.dedup();
        for set in sets {
            self.fill(set, id, &items, writes);
        }
        id
    }

    /// Says what a new set says of all classes.
    pub(super) fn fill_set(&mut self, set: u32, writes: &mut Writes) {
        for direction in Direction::ALL {
            if let Some(outcome) = self.sets[set].anybody(direction).cloned() {
                self.write_verdict(self.verdict_key(set, 0, direction), outcome, writes);
            }
        }
        let mut classes: Vec<u32> = Vec::new();
        for clause in self.sets[set].clauses() {
            let links = self.clauses.links_mut(clause);
            links.sets.insert(set);
            classes.extend(&links.classes);
        }
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            let items = self.classes.key(class).clone();
            self.fill(set, class, &items, writes);
        }
    }

    fn fill(&mut self, set: u32, class: u32, items: &[Item], writes: &mut Writes) {
        for direction in Direction::ALL {
            if let Some(outcome) = self.sets[set].outcome(direction, items) {
                self.write_verdict(self.verdict_key(set, class, direction), outcome, writes);
            }
        }
    }

    fn write_verdict(&mut self, key: PolicyVerdictKey, outcome: Outcome, writes: &mut Writes) {
        if outcome.is_empty() {
            return;
        }
        let mut verdict = PolicyVerdict { rule: outcome.rule, ports: 0 };
        if !outcome.ports.is_empty() {
            let list = outcome.ports.into_boxed_slice();
            let id = self.lists.find(&list).unwrap_or_else(|| {
                let id = self.lists.add(list.clone(), ());
                let keys = port_keys(self.number(id), &list).into_iter();
                writes.new.extend(keys.map(|(key, rule)| PolicyOp::Port(key, Some(rule))));
                id
            });
            self.lists.hold(id);
            verdict.ports = self.number(id);
        }
        self.verdicts.insert(key, verdict);
        writes.new.push(PolicyOp::Verdict(key, Some(verdict)));
    }

    fn remove_verdict(&mut self, key: PolicyVerdictKey, writes: &mut Vec<PolicyOp>) {
        if let Some(verdict) = self.verdicts.remove(&key) {
            writes.push(PolicyOp::Verdict(key, None));
            if verdict.ports != 0 {
                self.lists.let_go(verdict.ports & !(u32::MAX << PodPolicy::GENERATION_SHIFT));
            }
        }
    }

    /// Takes back what nobody has gone by since the last call, and moves peers to classes
    /// without what no policy says any more. To be called when each write of
    /// [`PolicyEngine::commit`] and of this function has been made for long enough that
    /// no program run began before. Nothing is left to do when it says nothing.
    pub fn reclaim(&mut self) -> Vec<PolicyOp> {
        let mut removed = Vec::new();
        for set in self.sets.idle() {
            self.remove_set(set, &mut removed);
        }
        for class in self.classes.idle() {
            self.remove_class(class, &mut removed);
        }
        for list in self.lists.idle() {
            let (ports, ()) = self.lists.remove(list);
            let keys = port_keys(self.number(list), &ports).into_iter();
            removed.extend(keys.map(|(key, _)| PolicyOp::Port(key, None)));
        }
        self.forget_unused_versions();
        for version in self.versions.idle() {
            let (_, version) = self.versions.remove(version);
            for rule in version.rules() {
                self.rules.let_go(rule.step.rule);
                rule.clauses().for_each(|clause| self.clauses.let_go(clause));
            }
        }
        for rule in self.rules.idle() {
            removed.push(self.uncount_rule(rule));
            self.rules.remove(rule);
        }
        removed.extend(self.remove_clauses().in_order());
        removed
    }

    fn remove_set(&mut self, set: u32, removed: &mut Vec<PolicyOp>) {
        for clause in self.sets[set].clauses() {
            let links = self.clauses.links_mut(clause);
            links.sets.remove(&set);
            let classes: Vec<u32> = links.classes.iter().copied().collect();
            for class in classes {
                for direction in Direction::ALL {
                    self.remove_verdict(self.verdict_key(set, class, direction), removed);
                }
            }
        }
        for direction in Direction::ALL {
            self.remove_verdict(self.verdict_key(set, 0, direction), removed);
        }
        removed.extend(self.uncount_set(set));
        let (key, set) = self.sets.remove(set);
        set.own_clauses.iter().for_each(|clause| self.clauses.let_go(*clause));
        key.versions.into_iter().for_each(|version| self.versions.let_go(version));
    }

    fn remove_class(&mut self, class: u32, removed: &mut Vec<PolicyOp>) {
        let (items, ()) = self.classes.remove(class);
        for item in items {
            let links = self.clauses.links_mut(item.clause);
            links.classes.remove(&class);
            let sets: Vec<u32> = links.sets.iter().copied().collect();
            for set in sets {
                for direction in Direction::ALL {
                    self.remove_verdict(self.verdict_key(set, class, direction), removed);
                }
            }
        }
    }

    /// Takes back clauses that no rule has; those of which classes are made are left by
    /// peers now, and taken back by a later call.
    fn remove_clauses(&mut self) -> Writes {
        let mut writes = Writes::default();
        let mut blocks = false;
        for id in self.clauses.idle() {
            if self.clauses.links(id).classes.is_empty() {
                self.clauses.remove(id);
            } else if self.clauses.retire(id) {
                if self.clauses.clause(id).is_block() {
                    blocks = true;
                } else {
                    self.look_again_at(id);
                }
            }
        }
        if blocks {
            self.rebuild_blocks(&mut writes);
        }
        self.evaluate_dirty(&mut writes);
        writes
    }
}
