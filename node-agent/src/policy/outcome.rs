//! What several rules together allow, and which of them is named for what.
//!
//! Invariant: of the rules that allow something the first is named, so equal rules give
//! equal tables.

use std::collections::{BTreeMap, BTreeSet};

use datapath::abi::{Be16, PolicyPortKey};

use crate::model::objects::Protocol;

/// Ports that a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ports {
    /// Of this protocol,
    pub protocol: Protocol,
    /// from this
    pub first: u16,
    /// to this.
    pub last: u16,
    /// The rule's number.
    pub rule: u32,
}

/// What rules allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    /// The rule that allows all that isn't in the list; 0: none.
    pub rule: u32,
    /// Ports by protocol and number, none twice.
    pub ports: Vec<Ports>,
}

/// What one rule allows, the earlier rule first.
#[derive(Clone, Debug)]
pub(super) enum Allowed {
    /// Everything.
    All,
    /// These: protocol, first and last port.
    Ports(Vec<(Protocol, u16, u16)>),
}

impl Outcome {
    /// What rules allow together; they come in their order, each with its number.
    pub fn of(rules: impl IntoIterator<Item = (u32, Allowed)>) -> Self {
        let mut all = 0;
        let mut ids = Vec::new();
        // Where ranges begin and end: by position, who enters and who leaves.
        let mut events: BTreeMap<(Protocol, u32), Vec<(usize, bool)>> = BTreeMap::new();
        for (order, (rule, allowed)) in rules.into_iter().enumerate() {
            ids.push(rule);
            match allowed {
                Allowed::All => {
                    all = rule;
                    // Whatever later rules allow, this one does.
                    break;
                }
                Allowed::Ports(ports) => {
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
        Self { rule: all, ports: sweep(&events, &ids) }
    }

    /// Whether it allows nothing.
    pub fn is_empty(&self) -> bool {
        self.rule == 0 && self.ports.is_empty()
    }
}

fn sweep(events: &BTreeMap<(Protocol, u32), Vec<(usize, bool)>>, ids: &[u32]) -> Vec<Ports> {
    let mut ports: Vec<Ports> = Vec::new();
    let mut active = BTreeSet::new();
    let mut began = 0;
    for (&(protocol, at), changes) in events {
        // A range that is active ends at a later event, so the protocol is the same still.
        if let Some(&order) = active.first() {
            let rule = ids[order];
            let (first, last) = (began as u16, (at - 1) as u16);
            match ports.last_mut() {
                Some(before)
                    if before.protocol == protocol && before.rule == rule && u32::from(before.last) + 1 == began =>
                {
                    before.last = last;
                }
                _ => ports.push(Ports { protocol, first, last, rule }),
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

    #[test]
    fn the_first_rule_is_named_and_a_rule_for_all_ends_the_list() {
        let ports = |ranges: &[(u16, u16)]| Allowed::Ports(ranges.iter().map(|(a, b)| (TCP, *a, *b)).collect());
        let rules = [
            (7, ports(&[(80, 90), (85, 100), (200, 200)])),
            (5, ports(&[(70, 95), (101, 102)])),
            (9, ports(&[(1, 65535)])),
        ];
        let named = |first, last, rule| Ports { protocol: TCP, first, last, rule };
        let listed = vec![
            named(1, 69, 9),
            named(70, 79, 5),
            named(80, 100, 7),
            named(101, 102, 5),
            named(103, 199, 9),
            named(200, 200, 7),
            named(201, 65535, 9),
        ];
        assert_eq!(Outcome::of(rules.clone()), Outcome { rule: 0, ports: listed });
        let [first, second, _] = rules;
        let with_all = Outcome::of([first.clone(), (3, Allowed::All), second]);
        assert_eq!(with_all, Outcome { rule: 3, ports: vec![named(80, 100, 7), named(200, 200, 7)] });
        assert_eq!(Outcome::of([(3, Allowed::All), first]), Outcome { rule: 3, ports: vec![] });
        assert!(Outcome::of([(4, Allowed::Ports(vec![]))]).is_empty());
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
