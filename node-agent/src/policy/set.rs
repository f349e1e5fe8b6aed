//! The policies that select a pod, and what they say of a class of peers.
//!
//! Invariant: a set never changes. A policy that changes is another version of itself,
//! and its pods get other sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use datapath::{abi::PolicyVerdict, policy::DEFAULT_DENY};
use fnv::{FnvHashMap, FnvHashSet};

use super::{
    clause::Item,
    outcome::{Outcome, Scope, Step},
};
use crate::model::{
    cluster_network_policy::Tier,
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
    /// When its turn is
    pub tier: Tier,
    /// among others of the tier.
    pub priority: u16,
    /// The rules of each [`Direction`] that it isolates, or that it has rules for.
    pub rules: [Option<Vec<Arc<Rule>>>; 2],
}

/// A rule, its peers as clauses.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Its number, its turn, and what it does.
    pub step: Step,
    /// One of these clauses holds for the peer; `None`: it may be anybody.
    pub peers: Option<Box<[u32]>>,
    /// Of which ports; `None`: of everything.
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
    /// The same, its blocks asked of pods, too.
    fn asking_pods(self: &Arc<Self>, blocks: &BTreeMap<u32, u32>) -> Arc<Self> {
        let mut more = self.peers.iter().flatten().filter_map(|id| blocks.get(id)).peekable();
        if more.peek().is_none() {
            return Arc::clone(self);
        }
        let peers = self.peers.iter().flatten().chain(more).copied().collect();
        Arc::new(Self { peers: Some(peers), ..Self::clone(self) })
    }

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

    /// What it is about with a peer of these items.
    fn scope(&self, items: &[Item], names: &OwnNames) -> Scope {
        let Some(ports) = &self.ports else { return Scope::All };
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
        Scope::Ports(ports.collect())
    }
}

/// What the isolated pod's ports are called: name, protocol and number, sorted.
pub(super) type OwnNames = Vec<(Arc<str>, Protocol, Option<u16>)>;

/// What makes two pods' sets one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetKey {
    /// The policies' versions, in the order of their turns and names.
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
    /// Clauses that only it holds: see [`blocks_of_ranked`].
    pub own_clauses: Vec<u32>,
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
    /// What is said of anybody.
    anybody: Outcome,
    /// What is said where no rule says anything.
    default: u32,
}

impl Version {
    /// What orders it among others.
    pub fn turn(&self) -> (Tier, u16, &ObjectKey) {
        (self.tier, self.priority, &self.policy)
    }

    /// Whether it takes pods for isolated.
    pub fn isolates(&self, direction: Direction) -> bool {
        self.tier == Tier::Network && self.rules[direction as usize].is_some()
    }
}

/// Where a rule may deny, what holds for a pod's address is part of what is said of the pod, and
/// can't be added to it afterwards. So there the rules' blocks, other than those which
/// ask for names already, are asked of pods, too: these are they.
pub(super) fn blocks_of_ranked<'a>(
    versions: impl Iterator<Item = &'a Version> + Clone,
    is_block: impl Fn(u32) -> bool,
) -> BTreeSet<u32> {
    let mut blocks = BTreeSet::new();
    for direction in Direction::ALL {
        let of_side = versions.clone().filter(|version| version.rules[direction as usize].is_some());
        if of_side.clone().any(|version| version.tier != Tier::Network) {
            let rules = of_side.flat_map(|version| version.rules[direction as usize].iter().flatten());
            blocks.extend(rules.flat_map(|rule| rule.peers.iter().flatten()).copied().filter(|id| is_block(*id)));
        }
    }
    blocks
}

impl Set {
    /// Of these versions, in the order of their turns; `blocks`: [`blocks_of_ranked`], and the
    /// clauses by which they are asked of pods.
    pub fn new<'a>(
        versions: impl Iterator<Item = &'a Version> + Clone,
        names: OwnNames,
        blocks: &BTreeMap<u32, u32>,
    ) -> Self {
        let side = |direction: Direction| {
            let of_side = versions.clone().filter(|version| version.rules[direction as usize].is_some());
            of_side.clone().next()?;
            let isolates = of_side.clone().any(|version| version.isolates(direction));
            let is_ranked = of_side.clone().any(|version| version.tier != Tier::Network);
            let default = match (is_ranked, isolates) {
                (false, _) => DEFAULT_DENY,
                (true, true) => PolicyVerdict::DENY,
                (true, false) => PolicyVerdict::DEFAULT_ALLOW,
            };
            // Of a pod that is isolated NetworkPolicies say the last word.
            let asked = of_side.filter(|version| !isolates || version.tier != Tier::Baseline);
            let rules = asked.flat_map(|version| version.rules[direction as usize].iter().flatten());
            let rules = rules.map(|rule| if is_ranked { rule.asking_pods(blocks) } else { Arc::clone(rule) });
            Some(Side::new(rules.collect(), &names, default))
        };
        let sides = [side(Direction::Ingress), side(Direction::Egress)];
        Self { sides, names, own_clauses: blocks.values().copied().collect() }
    }

    /// Whether anything is said of a direction.
    pub fn isolates(&self, direction: Direction) -> bool {
        self.sides[direction as usize].is_some()
    }

    /// The clauses that it asks for.
    pub fn clauses(&self) -> FnvHashSet<u32> {
        self.sides.iter().flatten().flat_map(|side| side.by_clause.keys().copied()).collect()
    }

    /// What it says of anybody.
    pub fn anybody(&self, direction: Direction) -> Option<&Outcome> {
        self.sides[direction as usize].as_ref().map(|side| &side.anybody)
    }

    /// What it says of a class of peers, if that is not what it says of anybody.
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
    fn new(rules: Vec<Arc<Rule>>, names: &OwnNames, default: u32) -> Self {
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
        let mut side = Self { rules, any, by_clause, anybody: Outcome::default(), default };
        side.anybody = side.outcome(&side.any, &[], names);
        side
    }

    /// What rules say, of which each holds for the peer or asks it for the number of a port.
    fn outcome(&self, which: &[usize], items: &[Item], names: &OwnNames) -> Outcome {
        let is_peer = |rule: &Rule| {
            let has = |clause: &u32| items.binary_search_by_key(clause, |item| item.clause).is_ok();
            rule.peers.as_ref().is_none_or(|peers| peers.iter().any(has))
        };
        let rules = which.iter().map(|order| &self.rules[*order]).filter(|rule| is_peer(rule));
        Outcome::of(rules.map(|rule| (rule.step, rule.scope(items, names))), self.default)
    }
}
