//! What denied a packet, by the numbers that the tables have for it.
//!
//! Invariant: a counter is removed before its numbers become another's.

use datapath::abi::{PodPolicy, PolicyDenial};

use super::{
    engine::PolicyEngine,
    op::PolicyOp,
    set::{DeniedBy, Direction},
};
use crate::model::objects::ObjectKey;

impl PolicyEngine {
    /// What denied a packet; `None`: it is there no more.
    pub fn denied_by(&self, denial: &PolicyDenial) -> Option<DeniedBy> {
        if denial.set >> PodPolicy::GENERATION_SHIFT != self.generation {
            return None;
        }
        if denial.rule != 0 {
            return self.rule_name(denial.rule).cloned().map(DeniedBy::Rule);
        }
        let direction = Direction::of(denial.direction)?;
        let set = denial.set & !(u32::MAX << PodPolicy::GENERATION_SHIFT | PodPolicy::BOTH);
        self.sets.get(set)?;
        let versions = self.sets.key(set).versions.iter().map(|version| &self.versions[*version]);
        let isolating = versions.filter(|version| version.isolates(direction));
        Some(DeniedBy::Default(isolating.map(|version| version.policy.clone()).collect(), direction))
    }

    /// Every counter that something in force has.
    pub fn counters(&self) -> impl Iterator<Item = (PolicyDenial, DeniedBy)> {
        let sets = self.sets.iter().map(|(set, _)| self.set_number(set));
        let defaults = sets
            .flat_map(|set| Direction::ALL.map(|direction| PolicyDenial { rule: 0, set, direction: direction as u32 }));
        let rules = self.rules.iter().map(|(rule, name)| PolicyDenial {
            rule,
            set: self.number(0),
            direction: name.direction as u32,
        });
        defaults.chain(rules).filter_map(|denial| Some((denial, self.denied_by(&denial)?)))
    }

    /// The local pods that some policy selects, each with its policies.
    pub fn selected(&self) -> impl Iterator<Item = (&ObjectKey, impl Iterator<Item = &ObjectKey>)> {
        let pods =
            self.pods.iter().filter_map(|(key, state)| Some((key, self.sets.get(state.set).map(|_| state.set)?)));
        let mut pods: Vec<_> = pods.collect();
        pods.sort_unstable();
        pods.into_iter().map(|(pod, set)| {
            let versions = self.sets.key(set).versions.iter();
            (pod, versions.map(|version| &self.versions[*version].policy))
        })
    }

    /// Removes what was counted of a set's default.
    pub(super) fn uncount_set(&self, set: u32) -> impl Iterator<Item = PolicyOp> + use<> {
        let set = self.set_number(set);
        Direction::ALL
            .into_iter()
            .map(move |direction| PolicyOp::Uncount(PolicyDenial { rule: 0, set, direction: direction as u32 }))
    }

    /// Removes what was counted of a rule.
    pub(super) fn uncount_rule(&self, rule: u32) -> PolicyOp {
        let direction = self.rules.key(rule).direction as u32;
        PolicyOp::Uncount(PolicyDenial { rule, set: self.number(0), direction })
    }
}
