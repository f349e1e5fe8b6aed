//! Addresses that are nodes' and pods', by whose they are.
//!
//! Invariant: a change of one holder costs that holder's networks, and a question the
//! lengths of prefixes that there are, however many holders. This module must not know
//! what the addresses are reserved from.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use crate::model::objects::ObjectKey;

/// Who holds networks: a Node, or the node itself.
pub type Holder = Option<ObjectKey>;

/// All networks that are held; single addresses are networks, too.
#[derive(Debug, Default)]
pub struct Reserved {
    by_holder: HashMap<Holder, Vec<IpNetwork>>,
    /// How many hold each.
    networks: HashMap<IpNetwork, usize>,
    /// How many networks have each length of prefix, by whether they are IPv6 ones.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Reserved {
    /// Says what a holder has now. Returns the networks that somebody holds now and nobody
    /// did before, or the other way round.
    pub fn set(&mut self, holder: Holder, networks: impl Iterator<Item = IpNetwork>) -> Vec<IpNetwork> {
        let mut networks: Vec<IpNetwork> = networks.filter_map(|n| within(n.ip(), n.prefix())).collect();
        networks.sort();
        networks.dedup();
        let before = match networks.is_empty() {
            true => self.by_holder.remove(&holder),
            false => self.by_holder.insert(holder, networks.clone()),
        };
        let before = before.unwrap_or_default();
        // What was held before and still is changes nothing.
        let come: Vec<_> = networks.iter().filter(|network| before.binary_search(network).is_err()).collect();
        let gone: Vec<_> = before.iter().filter(|network| networks.binary_search(network).is_err()).collect();
        let come = come.into_iter().filter(|network| self.add(**network)).copied().collect::<Vec<_>>();
        let gone = gone.into_iter().filter(|network| self.remove(**network)).copied();
        come.into_iter().chain(gone).collect()
    }

    /// Whether it is the first.
    fn add(&mut self, network: IpNetwork) -> bool {
        let holders = self.networks.entry(network).or_default();
        *holders += 1;
        let is_first = *holders == 1;
        if is_first {
            *self.lengths.entry(length(&network)).or_default() += 1;
        }
        is_first
    }

    /// Whether it was the last.
    fn remove(&mut self, network: IpNetwork) -> bool {
        let Some(holders) = self.networks.get_mut(&network) else { return false };
        *holders -= 1;
        if *holders > 0 {
            return false;
        }
        self.networks.remove(&network);
        let length = length(&network);
        let of_length = self.lengths.entry(length).or_default();
        *of_length = of_length.saturating_sub(1);
        if *of_length == 0 {
            self.lengths.remove(&length);
        }
        true
    }

    /// Whether an address is held, or lies in a network that is.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ipv6 = ip.is_ipv6();
        let lengths = self.lengths.range((ipv6, 0)..=(ipv6, u8::MAX)).map(|((_, length), _)| *length);
        lengths.filter_map(|length| within(ip, length)).any(|network| self.networks.contains_key(&network))
    }
}

/// The network of that prefix length that an address is in.
fn within(ip: IpAddr, length: u8) -> Option<IpNetwork> {
    let network = IpNetwork::new(ip, length).ok()?;
    IpNetwork::new(network.network(), length).ok()
}

fn length(network: &IpNetwork) -> (bool, u8) {
    (network.is_ipv6(), network.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> impl Iterator<Item = IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_network_is_held_as_long_as_anybody_holds_it() {
        let (a, b) = (Some(ObjectKey::new("", "a")), Some(ObjectKey::new("", "b")));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut reserved = Reserved::default();
        let all = |reserved: &Reserved| {
            let ips = ["10.0.1.9", "10.0.2.9", "192.0.2.1", "::ffff:192.0.2.1", "fd00::1"];
            ips.map(|text| reserved.contains(ip(text)))
        };
        assert_eq!(reserved.set(a.clone(), networks(&["10.0.1.7/24", "192.0.2.1/32", "10.0.1.0/24"])).len(), 2);
        assert_eq!(all(&reserved), [true, false, true, false, false]);
        assert_eq!(reserved.set(a.clone(), networks(&["192.0.2.1/32", "10.0.1.0/24"])), []);
        assert_eq!(
            reserved.set(b.clone(), networks(&["10.0.1.0/24", "fd00::/64"])),
            networks(&["fd00::/64"]).collect::<Vec<_>>()
        );
        assert_eq!(reserved.set(a, networks(&["10.0.2.0/24"])).len(), 2, "one came, one went, and one is b's, too");
        assert_eq!(all(&reserved), [true, true, false, false, true]);
        assert_eq!(reserved.set(b, networks(&[])).len(), 2);
        assert_eq!(reserved.set(None, networks(&["0.0.0.0/0"])).len(), 1);
        assert_eq!(all(&reserved), [true, true, true, false, false]);
        assert_eq!(reserved.lengths.len(), 2, "{reserved:?}");
    }
}
