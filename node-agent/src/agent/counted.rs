//! What the programs count of Services and policies, as metrics: by name, not by number.
//!
//! Invariants: a series stands for one thing at a time, and doesn't go down while that is there.
//! How many there are is bounded by the tables of counters, whatever the cluster has: Services are
//! counted from their first connection on, and those for which there is no room together.
//! This module must not know the tables.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
};

use datapath::abi::{Family, PolicyDenial, protocol};
use prometheus_client::encoding::EncodeLabelSet;
use tokio::sync::oneshot;

use super::agent::Agent;
use crate::{
    inspect::HOST_PORT,
    model::objects::{Kind, ObjectKey},
    plan::Owner,
    policy::{DeniedBy, Direction},
};

/// Counters of which somebody wants to know whose they are, and where that is told.
#[derive(Debug)]
pub struct Question {
    /// Numbers of service ports.
    pub services: Vec<u32>,
    /// What policies denied by.
    pub denials: Vec<PolicyDenial>,
    /// Whoever asked may have gone.
    pub reply: oneshot::Sender<Owners>,
}

/// Whose counters are. Of what is gone there is nothing.
#[derive(Debug, Default)]
pub struct Owners {
    /// By number.
    pub services: HashMap<u32, ServiceLabels>,
    /// By what denied.
    pub denials: HashMap<PolicyDenial, DenialLabels>,
}

/// Says whose they are.
pub fn answer(agent: &Agent, question: Question) {
    let Question { services, denials, reply } = question;
    let engine = agent.policies.engine();
    let service = |number| Some((number, ServiceLabels::of(&agent.services.owner(number)?)));
    let denial = |denial| Some((denial, DenialLabels::of(&engine.denied_by(&denial)?)));
    let owners = Owners {
        services: services.into_iter().filter_map(service).collect(),
        denials: denials.into_iter().filter_map(denial).collect(),
    };
    // Whoever asked may have gone.
    let _ = reply.send(owners);
}

/// A service port. (Prometheus itself gives its targets a label `namespace`.)
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServiceLabels {
    /// `Service`, or `HostPort`: the hostPorts of the Pod that is named.
    kind: &'static str,
    service_namespace: String,
    service_name: String,
    port: u16,
    protocol: &'static str,
    ip_family: &'static str,
}

impl ServiceLabels {
    fn of(owner: &Owner) -> Self {
        let namespace = &owner.key.namespace;
        let (kind, namespace) = match namespace.strip_prefix(HOST_PORT) {
            Some(namespace) => ("HostPort", namespace),
            None => ("Service", &**namespace),
        };
        Self {
            kind,
            service_namespace: namespace.to_owned(),
            service_name: owner.key.name.to_string(),
            port: owner.port,
            protocol: match owner.protocol {
                protocol::UDP => "UDP",
                protocol::SCTP => "SCTP",
                _ => "TCP",
            },
            ip_family: if owner.family == Family::V4 { "IPv4" } else { "IPv6" },
        }
    }
}

/// A rule that denies, or the default of policies that isolate a pod together, whose names are
/// joined by commas then.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DenialLabels {
    policy_kind: &'static str,
    policy_namespace: String,
    policy_name: String,
    direction: &'static str,
    /// At which place among the policy's rules of that direction, or `default`.
    rule: String,
}

impl DenialLabels {
    fn of(by: &DeniedBy) -> Self {
        let (policies, direction, rule) = match by {
            DeniedBy::Rule(name) => (std::slice::from_ref(&name.policy), name.direction, name.index.to_string()),
            DeniedBy::Default(policies, direction) => (&**policies, *direction, "default".to_owned()),
        };
        // What isolates one pod is of its namespace, and what denies by a rule of none.
        let namespace = policies.first().map_or("", |policy| &*policy.namespace);
        let kind = if namespace.is_empty() { Kind::ClusterNetworkPolicy } else { Kind::NetworkPolicy };
        let names: Vec<&str> = policies.iter().map(|policy: &ObjectKey| &*policy.name).collect();
        Self {
            policy_kind: kind.as_str(),
            policy_namespace: namespace.to_owned(),
            policy_name: names.join(","),
            direction: match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            rule,
        }
    }
}

/// Sums by what counters stand for, where several may stand for the same, and each is taken away
/// and begun anew as what it counts for changes.
///
/// Invariant: a sum never goes down while it is kept.
#[derive(Debug)]
pub struct Totals<K, L> {
    /// What each counter had counted when it was last seen.
    seen: BTreeMap<K, u64>,
    totals: HashMap<L, u64>,
    most: usize,
}

impl<K: Copy + Ord, L: Clone + Eq + Hash> Totals<K, L> {
    /// None yet. When there are more than `most`, those go for which there is no counter.
    pub fn new(most: usize) -> Self {
        Self { seen: BTreeMap::new(), totals: HashMap::new(), most }
    }

    /// Takes in what all counters say now.
    pub fn update(&mut self, counted: BTreeMap<K, u64>, label: impl Fn(&K) -> Option<L>) {
        let mut present = HashSet::new();
        let before = std::mem::take(&mut self.seen);
        for (key, count) in counted {
            let seen = before.get(&key).copied().unwrap_or(0);
            // What nobody has a name for now may have one the next time.
            let Some(label) = label(&key) else {
                self.seen.insert(key, seen);
                continue;
            };
            // What counted more before is another one of the same key.
            *self.totals.entry(label.clone()).or_default() += count.checked_sub(seen).unwrap_or(count);
            self.seen.insert(key, count);
            present.insert(label);
        }
        if self.totals.len() > self.most {
            self.totals.retain(|label, _| present.contains(label));
        }
    }

    /// Each sum.
    pub fn iter(&self) -> impl Iterator<Item = (&L, u64)> {
        self.totals.iter().map(|(label, total)| (label, *total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleName;

    #[test]
    fn a_service_port_by_its_names() {
        let owner = |namespace: &str, name: &str| Owner {
            key: ObjectKey::new(namespace, name),
            family: Family::V6,
            protocol: protocol::UDP,
            port: 53,
        };
        let labels = |kind, name: &str| ServiceLabels {
            kind,
            service_namespace: "a".into(),
            service_name: name.into(),
            port: 53,
            protocol: "UDP",
            ip_family: "IPv6",
        };
        assert_eq!(ServiceLabels::of(&owner("a", "dns")), labels("Service", "dns"));
        assert_eq!(ServiceLabels::of(&owner("hostport/a", "pod/1")), labels("HostPort", "pod/1"));
    }

    #[test]
    fn what_denied_by_its_names() {
        let rule = |namespace: &str| RuleName {
            policy: ObjectKey::new(namespace, "p"),
            direction: Direction::Egress,
            index: 2,
        };
        let both = ["p", "q"].map(|name| ObjectKey::new("a", name)).into();
        for (by, expected) in [
            (DeniedBy::Rule(rule("")), ["ClusterNetworkPolicy", "", "p", "egress", "2"]),
            (DeniedBy::Default(both, Direction::Ingress), ["NetworkPolicy", "a", "p,q", "ingress", "default"]),
        ] {
            let DenialLabels { policy_kind, policy_namespace, policy_name, direction, rule } = DenialLabels::of(&by);
            assert_eq!([policy_kind, &policy_namespace, &policy_name, direction, &rule], expected);
        }
    }

    #[test]
    fn a_total_does_not_go_down_while_counters_come_and_go() {
        let mut totals = Totals::new(2);
        let label = |key: &u32| (*key != 9).then_some(if *key < 3 { "a" } else { "b" });
        let mut check = |counted: &[(u32, u64)], expected: &[(&str, u64)]| {
            totals.update(counted.iter().copied().collect(), label);
            let mut found: Vec<_> = totals.iter().map(|(label, total)| (*label, total)).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{counted:?}");
        };
        check(&[(1, 5), (2, 2), (9, 7)], &[("a", 7)]);
        check(&[(1, 6), (2, 2)], &[("a", 8)]);
        // One of two goes; the other begins anew.
        check(&[(2, 3)], &[("a", 9)]);
        check(&[(2, 1), (3, 4)], &[("a", 10), ("b", 4)]);
        check(&[], &[("a", 10), ("b", 4)]);
        check(&[(1, 1)], &[("a", 11), ("b", 4)]);
    }

    #[test]
    fn what_had_no_name_counts_when_it_gets_one() {
        let mut totals = Totals::new(9);
        for (count, label, expected) in [(3, Some("a"), 3), (5, None, 3), (6, Some("a"), 6)] {
            totals.update([(1, count)].into(), |_| label);
            assert_eq!(totals.iter().map(|(_, total)| total).sum::<u64>(), expected);
        }
    }

    #[test]
    fn more_totals_than_there_is_room_for_are_those_in_use() {
        let mut totals = Totals::new(2);
        for key in 0..9_u32 {
            totals.update([(key, 1)].into(), |key| Some(*key));
            assert!(totals.iter().count() <= 2);
        }
        totals.update((0..5).map(|key| (key, 1)).collect(), |key| Some(*key));
        assert_eq!(totals.iter().count(), 5, "all are in use");
    }
}
