//! The agent's account of its policies for `fairlead policy`.
//!
//! Invariant: names come from what is in force, counts from the tables, read by another
//! thread. This module must not know how it is sent or shown.

use std::collections::{BTreeMap, HashMap};

use datapath::abi::{DropReason, PolicyDenial};

use super::agent::Agent;
use crate::{
    api::policy::{DirectionEntry, PolicyEntry, PolicyQuery, PolicyReport, RuleEntry},
    kernel::{map::MapError, table_stats::TableStats},
    model::{
        Model,
        cluster_network_policy::{Action, Tier},
        network_policy::PolicyRule,
        objects::{Kind, ObjectKey},
    },
    policy::{DeniedBy, Direction, PolicyEngine},
};

/// All but the counts, and where these belong.
#[derive(Debug)]
pub struct Uncounted {
    report: PolicyReport,
    /// Each counter that something in force has, and what that is.
    counters: HashMap<PolicyDenial, DeniedBy>,
    /// At which place of the report each policy is that is asked for.
    places: BTreeMap<ObjectKey, usize>,
}

/// What the policies in force are.
pub fn report(agent: &Agent, query: &PolicyQuery) -> Uncounted {
    let (model, engine) = (&agent.model, agent.policies.engine());
    let mut pods = selected(engine);
    let mut entries: Vec<(Tier, u16, ObjectKey, PolicyEntry)> = Vec::new();
    for policy in model.cluster_policies() {
        let side = |direction: Direction| {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let entries = rules.iter().map(|rule| entry(rule.action, &rule.rule)).collect();
            (!rules.is_empty()).then_some(DirectionEntry { rules: entries, denied_by_default: None })
        };
        let mut entry = policy_entry(model, Kind::ClusterNetworkPolicy, &policy.key, side);
        entry.tier = policy.tier.to_string();
        entry.priority = Some(policy.priority);
        entries.push((policy.tier, policy.priority, policy.key.clone(), entry));
    }
    for policy in model.policies() {
        let side = |direction: Direction| {
            let rules = match direction {
                Direction::Ingress => policy.ingress.as_ref(),
                Direction::Egress => policy.egress.as_ref(),
            };
            let entries = rules?.iter().map(|rule| entry(Action::Accept, rule)).collect();
            Some(DirectionEntry { rules: entries, denied_by_default: Some(0) })
        };
        let entry = policy_entry(model, Kind::NetworkPolicy, &policy.key, side);
        entries.push((Tier::Network, 0, policy.key.clone(), entry));
    }
    entries.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
    let mut uncounted =
        Uncounted { report: PolicyReport::default(), counters: engine.counters().collect(), places: BTreeMap::new() };
    for (_, _, key, mut entry) in entries {
        entry.pods = pods.remove(&key).unwrap_or_default();
        if is_asked_for(query, &entry) {
            uncounted.places.insert(key, uncounted.report.policies.len());
            uncounted.report.policies.push(entry);
        }
    }
    uncounted
}

/// The local pods that each policy selects.
fn selected(engine: &PolicyEngine) -> BTreeMap<ObjectKey, Vec<String>> {
    let mut pods: BTreeMap<ObjectKey, Vec<String>> = BTreeMap::new();
    for (pod, policies) in engine.selected() {
        for policy in policies {
            pods.entry(policy.clone()).or_default().push(pod.to_string());
        }
    }
    pods
}

fn is_asked_for(query: &PolicyQuery, entry: &PolicyEntry) -> bool {
    let is = |wanted: &Option<String>, found: &String| wanted.as_ref().is_none_or(|wanted| wanted == found);
    is(&query.namespace, &entry.namespace)
        && is(&query.name, &entry.name)
        && query.pod.as_ref().is_none_or(|pod| entry.pods.contains(pod))
}

fn policy_entry(
    model: &Model,
    kind: Kind,
    key: &ObjectKey,
    side: impl Fn(Direction) -> Option<DirectionEntry>,
) -> PolicyEntry {
    let subject = format!("{kind} {key}");
    // A directory says in which file, too.
    let is_of =
        |about: &str| about.strip_suffix(subject.as_str()).is_some_and(|file| file.is_empty() || file.ends_with(": "));
    let problems = model.problems().iter().filter(|(about, _)| is_of(about)).map(|(_, message)| message.as_str());
    PolicyEntry {
        kind: kind.to_string(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        tier: String::new(),
        priority: None,
        pods: Vec::new(),
        ingress: side(Direction::Ingress),
        egress: side(Direction::Egress),
        problem: problems.collect::<Vec<_>>().join("; "),
    }
}

fn entry(action: Action, rule: &PolicyRule) -> RuleEntry {
    let words = |all: Option<Vec<String>>| match all {
        None => "any".to_owned(),
        Some(all) if all.is_empty() => "none".to_owned(),
        Some(all) => all.join("; "),
    };
    RuleEntry {
        action: action.to_string(),
        peers: words(rule.peers.as_ref().map(|peers| peers.iter().map(ToString::to_string).collect())),
        ports: words(rule.ports.as_ref().map(|ports| ports.iter().map(ToString::to_string).collect())),
        denied: (action == Action::Deny).then_some(0),
    }
}

/// Adds what must be counted.
pub fn with_counts(uncounted: Uncounted, stats: &TableStats) -> Result<PolicyReport, MapError> {
    let drops = stats.drops()?;
    let by_policy =
        |(reason, _): &&(DropReason, u64)| matches!(reason, DropReason::IngressDenied | DropReason::EgressDenied);
    let total = drops.iter().filter(by_policy).map(|(_, count)| count).sum();
    Ok(count(uncounted, stats.denials()?, total))
}

/// `total`: all packets that policies denied.
fn count(uncounted: Uncounted, denials: BTreeMap<PolicyDenial, u64>, total: u64) -> PolicyReport {
    let Uncounted { mut report, counters, places } = uncounted;
    let mut side = |policy: &ObjectKey, direction, add: &mut dyn FnMut(&mut DirectionEntry)| {
        let policy = places.get(policy).map(|place| &mut report.policies[*place]);
        let side = policy.and_then(|policy| match direction {
            Direction::Ingress => policy.ingress.as_mut(),
            Direction::Egress => policy.egress.as_mut(),
        });
        if let Some(side) = side {
            add(side);
        }
    };
    let mut known = 0;
    for (denial, count) in denials {
        let Some(by) = counters.get(&denial) else { continue };
        known += count;
        let more = |to: &mut Option<u64>| *to = Some(to.unwrap_or(0) + count);
        match by {
            DeniedBy::Rule(name) => side(&name.policy, name.direction, &mut |side| {
                if let Some(rule) = side.rules.get_mut(name.index) {
                    more(&mut rule.denied);
                }
            }),
            DeniedBy::Default(policies, direction) => {
                for policy in policies {
                    side(policy, *direction, &mut |side| more(&mut side.denied_by_default));
                }
            }
        }
    }
    // The reasons are counted after the rules.
    report.denied_otherwise = total.saturating_sub(known);
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleName;

    #[test]
    fn counts_go_where_they_belong() {
        let key = ObjectKey::new("x", "p");
        let side = DirectionEntry { rules: vec![RuleEntry::default(); 2], denied_by_default: Some(0) };
        let policy = PolicyEntry {
            kind: "NetworkPolicy".into(),
            namespace: "x".into(),
            name: "p".into(),
            tier: String::new(),
            priority: None,
            pods: Vec::new(),
            ingress: Some(side),
            egress: None,
            problem: String::new(),
        };
        let denial = |rule, direction| PolicyDenial { rule, set: 1 << 24, direction };
        let rule = RuleName { policy: key.clone(), direction: Direction::Ingress, index: 1 };
        let counters = [
            (denial(7, 0), DeniedBy::Rule(rule)),
            (
                denial(0, 0),
                DeniedBy::Default(vec![key.clone(), ObjectKey::new("x", "not asked for")], Direction::Ingress),
            ),
        ];
        let uncounted = Uncounted {
            report: PolicyReport { policies: vec![policy], denied_otherwise: 0 },
            counters: counters.into(),
            places: [(key, 0)].into(),
        };
        let denials = [(denial(7, 0), 5), (denial(0, 0), 3), (denial(9, 0), 1)].into();
        let report = count(uncounted, denials, 10);
        let ingress = report.policies[0].ingress.as_ref().unwrap();
        assert_eq!(ingress.rules.iter().map(|rule| rule.denied).collect::<Vec<_>>(), [None, Some(5)]);
        assert_eq!((ingress.denied_by_default, report.denied_otherwise), (Some(3), 2));
    }
}
