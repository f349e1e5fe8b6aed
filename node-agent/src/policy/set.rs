//! The policies that select a pod, and what they say of a class of peers.
//!
//! Invariant: a set never changes. A policy that changes is another version of itself,
//! and its pods get other sets.

use std::{fmt, sync::Arc};

use fnv::{FnvHashMap, FnvHashSet};

use super::{
    clause::Item,
    outcome::{Allowed, Outcome},
};
use crate::model::{
    network_policy::PortMatch,
    objects::{ObjectKey, Protocol},
};

/// A direction, as the isolated pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Direction {
    /// To the pod.
    Ingress = datapath::abi::direction::INGRESS,
    /// From the pod.
    Egress = datapath::abi::direction::EGRESS,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// By its number in the tables.
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|direction| *direction as u32 == number)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Which rule it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy.
    pub policy: ObjectKey,
    /// In which of its lists.
    pub direction: Direction,
    /// At which place there.
    pub index: usize,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.index)
    }
}

/// What denied a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeniedBy {
    /// A rule that denies.
    Rule(RuleName),
    /// These policies isolate the pod in this direction, and none of their rules allows it.
    Default(Vec<ObjectKey>, Direction),
}

impl fmt::Display for DeniedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(name) => write!(f, "{name}"),
            Self::Default(policies, direction) => {
                write!(f, "default deny of {direction} by ")?;
                for (i, policy) in policies.iter().enumerate() {
                    write!(f, "{}{policy}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// One version of a policy, its peers as clauses.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// Whose it is.
    pub policy: ObjectKey,
    /// The rules of each [`Direction`] that it isolates.
    pub rules: [Option<Vec<Arc<Rule>>>; 2],
}

/// A rule, its peers as clauses.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Its number.
    pub id: u32,
    /// One of these clauses holds for the peer; `None`: it may be anybody.
    pub peers: Option<Box<[u32]>>,
    /// What it allows; `None`: everything.
    pub ports: Option<Box<[RulePort]>>,
}

/// Ports that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RulePort {
    /// Their protocol.
    pub protocol: Protocol,
    /// Which of it.
    pub port: PortMatch,
    /// The clause that says what the name means, where it is the peer who says it.
    pub named_by: Option<u32>,
}

impl Version {
    /// All rules.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().flatten().flatten()
    }

    /// The names of ports to which the isolated pod itself gives numbers.
    pub fn own_names(&self) -> impl Iterator<Item = (&Arc<str>, Protocol)> {
        let ports = self.rules().flat_map(|rule| rule.ports.iter().flatten());
        ports.filter_map(|port| match &port.port {
            PortMatch::Named(name) if port.named_by.is_none() => Some((name, port.protocol)),
            _ => None,
        })
    }
}

impl Rule {
    /// The clauses that it asks for.
    pub fn clauses(&self) -> impl Iterator<Item = u32> {
        let names = self.ports.iter().flatten().filter_map(|port| port.named_by);
        self.peers.iter().flatten().copied().chain(names)
    }

    /// Those of which a peer has one, if the rule is to hold for it: where a rule is for
    /// anybody, what gives numbers to its ports' names.
    fn asks_for(&self) -> impl Iterator<Item = u32> {
        let names = self.ports.iter().flatten().filter(|_| self.peers.is_none()).filter_map(|port| port.named_by);
        self.peers.iter().flatten().copied().chain(names)
    }

    /// What it allows a peer of these items.
    fn allowed(&self, items: &[Item], names: &OwnNames) -> Allowed {
        let Some(ports) = &self.ports else { return Allowed::All };
        let ports = ports.iter().filter_map(|port| {
            let (first, last) = match (&port.port, port.named_by) {
                (PortMatch::All, _) => (1, u16::MAX),
                (PortMatch::Range(first, last), _) => (*first, *last),
                (PortMatch::Named(name), None) => {
                    let at =
                        names.binary_search_by(|(other, protocol, _)| (other, *protocol).cmp(&(name, port.protocol)));
                    let number = names[at.ok()?].2?;
                    (number, number)
                }
                (PortMatch::Named(_), Some(clause)) => {
                    let at = items.binary_search_by_key(&clause, |item| item.clause).ok()?;
                    (items[at].port, items[at].port)
                }
            };
            Some((port.protocol, first, last))
        });
        Allowed::Ports(ports.collect())
    }
}

/// What the isolated pod's ports are called: name, protocol and number, sorted.
pub(super) type OwnNames = Vec<(Arc<str>, Protocol, Option<u16>)>;

/// What makes two pods' sets one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetKey {
    /// The policies' versions, in the order of their names.
    pub versions: Vec<u32>,
    /// Those of the pod's port names that the policies' ingress rules have.
    pub names: OwnNames,
}

/// The policies that select a pod.
#[derive(Clone, Debug)]
pub(super) struct Set {
    /// The isolated directions.
    sides: [Option<Side>; 2],
    names: OwnNames,
}

/// One direction of a set.
#[derive(Clone, Debug)]
struct Side {
    /// All policies' rules, in order.
    rules: Vec<Arc<Rule>>,
    /// Those that hold for anybody.
    any: Vec<usize>,
    /// Those that ask for a clause.
    by_clause: FnvHashMap<u32, Vec<usize>>,
    /// What anybody is allowed.
    anybody: Outcome,
}

impl Set {
    /// Of these versions, in the order of the policies' names.
    pub fn new<'a>(versions: impl Iterator<Item = &'a Version> + Clone, names: OwnNames) -> Self {
        let side = |direction: Direction| {
            let mut lists =
                versions.clone().filter_map(|version| version.rules[direction as usize].as_ref()).peekable();
            lists.peek()?;
            Some(Side::new(lists.flatten().cloned().collect(), &names))
        };
        Self { sides: [side(Direction::Ingress), side(Direction::Egress)], names }
    }

    /// Whether a direction is isolated.
    pub fn isolates(&self, direction: Direction) -> bool {
        self.sides[direction as usize].is_some()
    }

    /// The clauses that it asks for.
    pub fn clauses(&self) -> FnvHashSet<u32> {
        self.sides.iter().flatten().flat_map(|side| side.by_clause.keys().copied()).collect()
    }

    /// What it allows anybody.
    pub fn anybody(&self, direction: Direction) -> Option<&Outcome> {
        self.sides[direction as usize].as_ref().map(|side| &side.anybody)
    }

    /// What it allows a class of peers, if that is not what it allows anybody.
    pub fn outcome(&self, direction: Direction, items: &[Item]) -> Option<Outcome> {
        let side = self.sides[direction as usize].as_ref()?;
        let mut which: Vec<usize> =
            items.iter().filter_map(|item| side.by_clause.get(&item.clause)).flatten().copied().collect();
        if which.is_empty() {
            return None;
        }
        which.extend(&side.any);
        which.sort_unstable();
        which.dedup();
        let outcome = side.outcome(&which, items, &self.names);
        (outcome != side.anybody).then_some(outcome)
    }
}

impl Side {
    fn new(rules: Vec<Arc<Rule>>, names: &OwnNames) -> Self {
        let mut any = Vec::new();
        let mut by_clause: FnvHashMap<u32, Vec<usize>> = FnvHashMap::default();
        for (order, rule) in rules.iter().enumerate() {
            if rule.peers.is_none() {
                any.push(order);
            }
            for clause in rule.asks_for() {
                by_clause.entry(clause).or_default().push(order);
            }
        }
        let mut side = Self { rules, any, by_clause, anybody: Outcome::default() };
        side.anybody = side.outcome(&side.any, &[], names);
        side
    }

    /// What rules allow, of which each holds for the peer or asks it for the number of a port.
    fn outcome(&self, which: &[usize], items: &[Item], names: &OwnNames) -> Outcome {
        let is_peer = |rule: &Rule| {
            let has = |clause: &u32| items.binary_search_by_key(clause, |item| item.clause).is_ok();
            rule.peers.as_ref().is_none_or(|peers| peers.iter().any(has))
        };
        let rules = which.iter().map(|order| &self.rules[*order]).filter(|rule| is_peer(rule));
        Outcome::of(rules.map(|rule| (rule.id, rule.allowed(items, names))))
    }
}
