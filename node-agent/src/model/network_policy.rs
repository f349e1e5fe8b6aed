//! NetworkPolicies and what they select by.
//!
//! Invariant: two selectors that say the same in another order are equal. What a
//! policy said that is impossible allows nothing here: a list that lost an entry is
//! never the missing list, which would allow all.

use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::objects::{ObjectKey, Protocol};

/// Labels, sorted by name.
pub type Labels = [(Arc<str>, Arc<str>)];

/// A `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.podSelector`: whom it isolates, in its namespace.
    pub pods: Selector,
    /// `spec.ingress` if `spec.policyTypes` has Ingress.
    pub ingress: Option<Vec<PolicyRule>>,
    /// `spec.egress` if `spec.policyTypes` has Egress.
    pub egress: Option<Vec<PolicyRule>>,
}

/// What one entry of `ingress` or `egress` allows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyRule {
    /// `from` or `to`; `None`: everybody.
    pub peers: Option<Vec<Peer>>,
    /// `ports`; `None`: all of every protocol.
    pub ports: Option<Vec<PolicyPort>>,
}

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Pods that are not on their node's own network.
    Pods {
        /// Of which namespaces.
        namespaces: PeerNamespaces,
        /// Which of theirs.
        pods: Selector,
    },
    /// Addresses, whoever has them.
    Block {
        /// These,
        cidr: IpNetwork,
        /// but not these: sorted, each within `cidr`.
        except: Vec<IpNetwork>,
    },
}

/// Of which namespaces peers are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerNamespaces {
    /// The policy's own.
    Own,
    /// Those with such labels.
    Selected(Selector),
}

/// Some ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub port: PortMatch,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortMatch {
    /// All.
    All,
    /// From the first to the last.
    Range(u16, u16),
    /// The one that the destination pod gives this name.
    Named(Arc<str>),
}

/// Which labels an object must have: all of these requirements, and so anything if
/// there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(Box<[Requirement]>);

/// What is required of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's name.
    pub label: Arc<str>,
    /// What is required.
    pub operator: Operator,
}

/// What is required of a label's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// It is one of these, sorted.
    In(Box<[Arc<str>]>),
    /// It is none of these, sorted, or the label isn't there.
    NotIn(Box<[Arc<str>]>),
    /// It is there.
    Exists,
    /// It isn't there.
    DoesNotExist,
}

impl Operator {
    /// One of some values.
    pub fn is_in(values: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self::In(sorted(values))
    }

    /// None of some values.
    pub fn not_in(values: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self::NotIn(sorted(values))
    }
}

impl Selector {
    /// All of these requirements.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self(sorted(requirements))
    }

    /// Its requirements, in an order that depends on nothing but themselves.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// The same, to share the memory of its strings.
    pub fn requirements_mut(&mut self) -> &mut [Requirement] {
        &mut self.0
    }

    /// Whether labels meet all requirements.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.is_met(labels))
    }
}

impl Requirement {
    fn is_met(&self, labels: &Labels) -> bool {
        let value = value_of(labels, &self.label);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.binary_search(value).is_ok()),
            Operator::NotIn(values) => value.is_none_or(|value| values.binary_search(value).is_err()),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

fn value_of<'a>(labels: &'a Labels, name: &str) -> Option<&'a Arc<str>> {
    labels.binary_search_by(|(label, _)| (**label).cmp(name)).ok().map(|at| &labels[at].1)
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Box<[T]> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items.into()
}
