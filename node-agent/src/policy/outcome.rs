//! What several rules together say, and which of them is named for what.
//!
//! Invariant: of the rules that say something the first is named, so equal rules give
//! equal tables.

use std::collections::{BTreeMap, BTreeSet};

use datapath::abi::{Be16, PolicyPortKey, PolicyVerdict};

use crate::model::{
    cluster_network_policy::{Action, Tier},
    objects::Protocol,
};

/// Ports that a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ports {
    /// Of this protocol,
    pub protocol: Protocol,
    /// from this
    pub first: u16,
    /// to this.
    pub last: u16,
    /// What it says, as tables have it.
    pub rule: u32,
}

/// What rules say, as tables have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    /// What is said of all that isn't in the list.
    pub rule: u32,
    /// Ports by protocol and number, none twice.
    pub ports: Vec<Ports>,
}

/// A rule at its place among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Step {
    /// Its number.
    pub rule: u32,
    /// When its turn is.
    pub tier: Tier,
    /// What it does.
    pub action: Action,
}

/// What one rule is about.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// Everything.
    All,
    /// These: protocol, first and last port.
    Ports(Vec<(Protocol, u16, u16)>),
}

/// Rules in their order, and what is said where none of them does.
struct Steps {
    all: Vec<Step>,
    default: u32,
}

impl Steps {
    /// What those of these places say together.
    fn decide<'a>(&self, orders: impl IntoIterator<Item = &'a usize>) -> u32 {
        let mut passed = None;
        for step in orders.into_iter().map(|order| self.all[*order]) {
            match step.action {
                _ if passed >= Some(step.tier) => {}
                Action::Accept => return step.rule,
                Action::Deny => return PolicyVerdict::DENY | step.rule,
                Action::Pass => passed = Some(step.tier),
            }
        }
        self.default
    }
}

impl Outcome {
    /// What rules say together, which come in their order; `default`: where none does.
    pub fn of(rules: impl IntoIterator<Item = (Step, Scope)>, default: u32) -> Self {
        let mut steps = Steps { all: Vec::new(), default };
        let mut always = BTreeSet::new();
        // Where ranges begin and end: by position, who enters and who leaves.
        let mut events: BTreeMap<(Protocol, u32), Vec<(usize, bool)>> = BTreeMap::new();
        for (order, (step, scope)) in rules.into_iter().enumerate() {
            let is_passed = |other: &Step| other.action == Action::Pass && other.tier == step.tier;
            let is_final = step.action != Action::Pass && !steps.all.iter().any(is_passed);
            steps.all.push(step);
            match scope {
                Scope::All => {
                    always.insert(order);
                    if is_final {
                        // Whatever later rules say, this one has said.
                        break;
                    }
                }
                Scope::Ports(ports) => {
                    let mut merged = ports;
                    merged.sort_unstable();
                    let mut until: Option<(Protocol, u32)> = None;
                    for (protocol, first, last) in merged {
                        let (mut first, end) = (u32::from(first), u32::from(last) + 1);
                        if let Some((_, reached)) = until.filter(|(same, _)| *same == protocol) {
                            first = first.max(reached);
                        }
                        if first < end {
                            events.entry((protocol, first)).or_default().push((order, true));
                            events.entry((protocol, end)).or_default().push((order, false));
                            until = Some((protocol, end));
                        }
                    }
                }
            }
        }
        let rule = steps.decide(&always);
        Self { rule, ports: sweep(&events, &steps, &always, rule) }
    }

    /// Whether it leaves all to what is said elsewhere.
    pub fn is_empty(&self) -> bool {
        self.rule == 0 && self.ports.is_empty()
    }
}

/// What is said of ports, where that is not what is said of `rest`.
fn sweep(
    events: &BTreeMap<(Protocol, u32), Vec<(usize, bool)>>,
    steps: &Steps,
    always: &BTreeSet<usize>,
    rest: u32,
) -> Vec<Ports> {
    let mut ports: Vec<Ports> = Vec::new();
    let mut active = BTreeSet::new();
    let mut began = 0;
    for (&(protocol, at), changes) in events {
        // A range that is active ends at a later event, so the protocol is the same still.
        let said = if active.is_empty() { rest } else { steps.decide(always.union(&active)) };
        if said != rest {
            let (first, last) = (began as u16, (at - 1) as u16);
            match ports.last_mut() {
                Some(before)
                    if before.protocol == protocol && before.rule == said && u32::from(before.last) + 1 == began =>
                {
                    before.last = last;
                }
                _ => ports.push(Ports { protocol, first, last, rule: said }),
            }
        }
        for (order, enters) in changes {
            if *enters {
                active.insert(*order);
            }
        }
        for (order, enters) in changes {
            // One range of a rule may begin where another of its own ends.
            let stays = changes.iter().any(|(same, enters)| same == order && *enters);
            if !enters && !stays {
                active.remove(order);
            }
        }
        began = at;
    }
    ports
}

/// The keys, and their rules, under which a list of ports is found.
pub(super) fn port_keys(list: u32, ports: &[Ports]) -> Vec<(PolicyPortKey, u32)> {
    let mut keys = Vec::new();
    for Ports { protocol, first, last, rule } in ports {
        let protocol = protocol.number();
        let (mut first, last) = (u32::from(*first), u32::from(*last));
        let key = |port: u32, wild| PolicyPortKey {
            prefix_len: PolicyPortKey::PROTOCOL_BITS + 16 - wild,
            ports: list,
            protocol,
            pad: 0,
            port: Be16::new(port as u16),
        };
        // Port 0 is no port: where all others are allowed, one key does for all.
        if (first, last) == (1, 0xffff) {
            first = 0;
        }
        while first <= last {
            let aligned = if first == 0 { 16 } else { first.trailing_zeros().min(16) };
            let fits = (last - first + 1).ilog2();
            let wild = aligned.min(fits);
            keys.push((key(first, wild), *rule));
            first += 1 << wild;
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Protocol = Protocol::Tcp;

    fn ports(ranges: &[(u16, u16)]) -> Scope {
        Scope::Ports(ranges.iter().map(|(a, b)| (TCP, *a, *b)).collect())
    }

    fn named(first: u16, last: u16, rule: u32) -> Ports {
        Ports { protocol: TCP, first, last, rule }
    }

    #[test]
    fn the_first_rule_is_named_and_a_rule_for_all_ends_the_list() {
        let of = |rules: &[(u32, Scope)]| {
            let step = |rule| Step { rule, tier: Tier::Network, action: Action::Accept };
            Outcome::of(rules.iter().map(|(rule, scope)| (step(*rule), scope.clone())), 0)
        };
        let rules = [
            (7, ports(&[(80, 90), (85, 100), (200, 200)])),
            (5, ports(&[(70, 95), (101, 102)])),
            (9, ports(&[(1, 65535)])),
        ];
        let listed = vec![
            named(1, 69, 9),
            named(70, 79, 5),
            named(80, 100, 7),
            named(101, 102, 5),
            named(103, 199, 9),
            named(200, 200, 7),
            named(201, 65535, 9),
        ];
        assert_eq!(of(&rules), Outcome { rule: 0, ports: listed });
        let [first, second, _] = rules;
        let with_all = of(&[first.clone(), (3, Scope::All), second]);
        assert_eq!(with_all, Outcome { rule: 3, ports: vec![named(80, 100, 7), named(200, 200, 7)] });
        assert_eq!(of(&[(3, Scope::All), first]), Outcome { rule: 3, ports: vec![] });
        assert!(of(&[(4, Scope::Ports(vec![]))]).is_empty());
    }

    #[test]
    fn who_passes_leaves_it_to_the_next_tier() {
        use Action::{Accept, Deny, Pass};
        use Tier::{Admin, Baseline, Network};
        const DENY: u32 = PolicyVerdict::DENY;
        let check = |rules: &[(Tier, Action, Scope)], default, rule, listed: &[Ports]| {
            let steps = rules
                .iter()
                .zip(1..)
                .map(|((tier, action, scope), rule)| (Step { rule, tier: *tier, action: *action }, scope.clone()));
            assert_eq!(Outcome::of(steps, default), Outcome { rule, ports: listed.to_vec() }, "{rules:?}");
        };
        let all = || Scope::All;
        let allow = PolicyVerdict::DEFAULT_ALLOW;
        check(&[], allow, allow, &[]);
        check(&[(Admin, Pass, all()), (Admin, Deny, all())], allow, allow, &[]);
        check(&[(Admin, Pass, all()), (Admin, Deny, all()), (Network, Accept, all())], DENY, 3, &[]);
        check(&[(Admin, Pass, all()), (Baseline, Deny, all())], allow, DENY | 2, &[]);
        check(&[(Baseline, Pass, all()), (Baseline, Deny, all())], allow, allow, &[]);
        check(
            &[
                (Admin, Pass, ports(&[(80, 81)])),
                (Admin, Deny, ports(&[(80, 90)])),
                (Network, Accept, ports(&[(80, 80)])),
            ],
            DENY,
            DENY,
            &[named(80, 80, 3), named(82, 90, DENY | 2)],
        );
        check(
            &[(Admin, Pass, ports(&[(80, 80)])), (Admin, Deny, all()), (Network, Accept, all())],
            DENY,
            DENY | 2,
            &[named(80, 80, 3)],
        );
        check(&[(Admin, Deny, ports(&[(80, 80)])), (Admin, Accept, all())], allow, 2, &[named(80, 80, DENY | 1)]);
    }

    #[test]
    fn keys_cover_exactly_the_range() {
        for (first, last) in [(1, 65535), (80, 80), (1, 1), (65535, 65535), (1000, 2001), (32768, 65535), (3, 65534)] {
            let keys = port_keys(1, &[Ports { protocol: TCP, first, last, rule: 1 }]);
            assert!(keys.len() <= 30, "{first}-{last}: {}", keys.len());
            for port in 1..=u16::MAX {
                let is_in = |key: &PolicyPortKey| {
                    let wild = PolicyPortKey::PROTOCOL_BITS + 16 - key.prefix_len;
                    u32::from(port) >> wild == u32::from(key.port.get()) >> wild
                };
                let found = keys.iter().filter(|(key, _)| is_in(key)).count();
                assert_eq!(found, usize::from((first..=last).contains(&port)), "{first}-{last}: {port}");
            }
        }
    }
}
