//! Which Node has which podCIDR, where several claim overlapping ones.
//!
//! This node's own come first, then those of the older Node, then by name; a
//! podCIDR that overlaps one that comes before it is left out as a whole.
//! Invariants: the outcome depends on the claims alone, not on the order in which
//! they came; a change costs the claims that overlap it. This module must not know
//! what a podCIDR is reached by.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use crate::model::objects::ObjectKey;

/// Which of two Nodes comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    /// Another Node than this agent's own.
    pub foreign: bool,
    /// When it was created, in Unix seconds.
    pub created: i64,
}

/// Addresses from the first to the last, IPv4 ones as `::ffff:a.b.c.d`. Two of
/// them are disjoint, or one includes the other, which is the lesser one then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    first: u128,
    last: Reverse<u128>,
}

impl Range {
    fn of(network: &IpNetwork) -> Self {
        let (first, host_bits) = match network.network() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 32 - u32::from(network.prefix())),
            IpAddr::V6(v6) => (v6.to_bits(), 128 - u32::from(network.prefix())),
        };
        let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        Self { first, last: Reverse(first | hosts) }
    }

    fn includes(&self, other: &Self) -> bool {
        self.first <= other.first && other.last.0 <= self.last.0
    }
}

/// Whether two networks have addresses in common.
pub fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    let (a, b) = (Range::of(a), Range::of(b));
    a.includes(&b) || b.includes(&a)
}

/// A podCIDR and the Node that has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The podCIDR.
    pub network: IpNetwork,
    /// The Node.
    pub node: ObjectKey,
}

/// All claims.
#[derive(Debug, Default)]
pub struct Claims {
    claims: BTreeMap<(Range, ObjectKey), (IpNetwork, Seniority)>,
    by_node: BTreeMap<ObjectKey, (Seniority, Vec<IpNetwork>)>,
    /// The ranges that no other includes: first to last address.
    widest: BTreeMap<u128, u128>,
    /// Claims that are left out, and in whose favour.
    lost: BTreeMap<(Range, ObjectKey), Holder>,
}

impl Claims {
    /// A Node claims these networks now, none of them twice, nor an IPv4 one in IPv6's form. Returns the Nodes for which that may have
    /// changed something, this one among them.
    pub fn set(&mut self, node: &ObjectKey, seniority: Seniority, networks: &[IpNetwork]) -> BTreeSet<ObjectKey> {
        let mut affected = BTreeSet::from([node.clone()]);
        if self.by_node.get(node).is_some_and(|(since, had)| (*since, had.as_slice()) == (seniority, networks)) {
            return affected;
        }
        let (_, had) = self.by_node.remove(node).unwrap_or((seniority, Vec::new()));
        for network in &had {
            self.withdraw(Range::of(network), node, &mut affected);
        }
        for network in networks {
            let range = Range::of(network);
            self.claims.insert((range, node.clone()), (*network, seniority));
            self.widen(range);
            self.judge(range, &mut affected);
        }
        if !networks.is_empty() {
            self.by_node.insert(node.clone(), (seniority, networks.to_vec()));
        }
        affected
    }

    /// Who has the network instead of that Node, which claims it.
    pub fn lost_to(&self, node: &ObjectKey, network: &IpNetwork) -> Option<&Holder> {
        self.lost.get(&(Range::of(network), node.clone()))
    }

    fn withdraw(&mut self, range: Range, node: &ObjectKey, affected: &mut BTreeSet<ObjectKey>) {
        let claim = (range, node.clone());
        self.lost.remove(&claim);
        if self.claims.remove(&claim).is_none() {
            return;
        }
        if self.widest.get(&range.first) == Some(&range.last.0) && self.within(range).next() != Some(range) {
            self.widest.remove(&range.first);
            let inner: Vec<Range> = self.within(range).collect();
            inner.into_iter().for_each(|range| self.widen(range));
            let freed: Vec<_> = self.widest.range(range.first..=range.last.0).map(|(f, l)| (*f, *l)).collect();
            freed.into_iter().for_each(|(first, last)| self.judge(Range { first, last: Reverse(last) }, affected));
        } else {
            self.judge(range, affected);
        }
    }

    /// The ranges of claims within one, wider ones first.
    fn within(&self, range: Range) -> impl Iterator<Item = Range> {
        let from = (range, ObjectKey::new("", ""));
        self.claims.range(from..).map(|((inner, _), _)| *inner).take_while(move |inner| inner.first <= range.last.0)
    }

    /// The widest range that includes this one.
    fn around(&self, range: Range) -> Option<Range> {
        let (first, last) = self.widest.range(..=range.first).next_back()?;
        let widest = Range { first: *first, last: Reverse(*last) };
        widest.includes(&range).then_some(widest)
    }

    fn widen(&mut self, range: Range) {
        if self.around(range).is_some() {
            return;
        }
        let inner: Vec<u128> = self.widest.range(range.first..=range.last.0).map(|(first, _)| *first).collect();
        for first in inner {
            self.widest.remove(&first);
        }
        self.widest.insert(range.first, range.last.0);
    }

    /// Decides anew about all claims that overlap the range, directly or by way of others.
    fn judge(&mut self, range: Range, affected: &mut BTreeSet<ObjectKey>) {
        let Some(widest) = self.around(range) else { return };
        let from = (widest, ObjectKey::new("", ""));
        let mut claims: Vec<_> = self
            .claims
            .range(from..)
            .take_while(|((range, _), _)| range.first <= widest.last.0)
            .map(|((range, node), (network, seniority))| (*seniority, node.clone(), *range, *network))
            .collect();
        // Nearly always nobody else claims any of it.
        if let [(_, node, range, _)] = &claims[..] {
            if self.lost.remove(&(*range, node.clone())).is_some() {
                affected.insert(node.clone());
            }
            return;
        }
        claims.sort();
        // Disjoint, so only the neighbours can overlap.
        let mut held: BTreeMap<u128, (u128, Holder)> = BTreeMap::new();
        for (_, node, range, network) in claims {
            let before = held.range(..=range.first).next_back().filter(|(_, (last, _))| *last >= range.first);
            let overlapping = before.or_else(|| held.range(range.first..=range.last.0).next());
            let holder = overlapping.map(|(_, (_, holder))| holder.clone());
            let claim = (range, node.clone());
            let changed = match &holder {
                Some(holder) => self.lost.insert(claim, holder.clone()).as_ref() != Some(holder),
                None => {
                    held.insert(range.first, (range.last.0, Holder { network, node: node.clone() }));
                    self.lost.remove(&claim).is_some()
                }
            };
            if changed {
                affected.insert(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::subsequence};

    use super::*;

    const NETWORKS: [&str; 7] =
        ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.1.0/24", "10.2.0.0/24", "fd00::/16", "fd00:1::/64"];

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("", name)
    }

    fn age(created: i64) -> Seniority {
        Seniority { foreign: created != 0, created }
    }

    /// What each claim came to, decided in the plainest way.
    fn plainly(nodes: &BTreeMap<String, (Seniority, Vec<IpNetwork>)>) -> BTreeMap<(ObjectKey, IpNetwork), bool> {
        let mut claims: Vec<_> = nodes
            .iter()
            .flat_map(|(name, (age, networks))| networks.iter().map(|n| (*age, key(name), Range::of(n), *n)))
            .collect();
        claims.sort();
        let mut held: Vec<Range> = Vec::new();
        let mut outcome = BTreeMap::new();
        for (_, node, range, network) in claims {
            let lost = held.iter().any(|other| other.includes(&range) || range.includes(other));
            if !lost {
                held.push(range);
            }
            outcome.insert((node, network), lost);
        }
        outcome
    }

    #[test]
    fn the_older_node_keeps_its_network_until_it_goes() {
        let mut claims = Claims::default();
        let (a, b, c) = (key("a"), key("b"), key("c"));
        claims.set(&b, age(1), &[network("10.1.0.0/16")]);
        assert_eq!(claims.set(&c, age(3), &[network("10.9.0.0/24")]), BTreeSet::from([c.clone()]));
        let affected = claims.set(&a, age(2), &[network("10.1.2.0/24"), network("fd00::/64")]);
        assert_eq!(affected, BTreeSet::from([a.clone()]));
        let holder = Holder { network: network("10.1.0.0/16"), node: b.clone() };
        assert_eq!(claims.lost_to(&a, &network("10.1.2.0/24")), Some(&holder));
        assert_eq!(claims.lost_to(&a, &network("fd00::/64")), None);
        assert_eq!(claims.set(&b, age(1), &[]), BTreeSet::from([a.clone(), b]));
        assert_eq!(claims.lost_to(&a, &network("10.1.2.0/24")), None);
    }

    proptest! {
        #[test]
        fn what_came_before_does_not_matter(
            steps in prop::collection::vec(
                (0..5u8, 0..3i64, subsequence(NETWORKS.to_vec(), 0..4).prop_shuffle()), 1..30),
        ) {
            let mut claims = Claims::default();
            let mut nodes: BTreeMap<String, (Seniority, Vec<IpNetwork>)> = BTreeMap::new();
            for (node, created, networks) in steps {
                let name = node.to_string();
                let networks: Vec<IpNetwork> = networks.into_iter().map(network).collect();
                let before = plainly(&nodes);
                nodes.insert(name.clone(), (age(created), networks.clone()));
                let affected = claims.set(&key(&name), age(created), &networks);
                let after = plainly(&nodes);
                for ((node, network), lost) in &after {
                    prop_assert_eq!(claims.lost_to(node, network).is_some(), *lost, "{} of {}", network, node);
                    if before.get(&(node.clone(), *network)) != Some(lost) {
                        prop_assert!(affected.contains(node), "{} was not told of {}", node, network);
                    }
                }
            }
            for name in nodes.keys() {
                claims.set(&key(name), age(1), &[]);
            }
            prop_assert!(claims.claims.is_empty() && claims.widest.is_empty() && claims.lost.is_empty());
        }
    }
}
