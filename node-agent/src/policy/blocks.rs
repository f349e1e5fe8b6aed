//! Which ipBlocks an address is in.
//!
//! Invariant: the networks that come out are the blocks' and their exceptions', and an
//! address is in exactly those blocks that the longest of them names.

use std::{collections::BTreeMap, sync::Arc};

use datapath::abi::Addr;
use ipnetwork::IpNetwork;

/// A network, IPv4 among IPv6 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Network {
    first: u128,
    len: u32,
}

impl Network {
    /// All IPv4 addresses.
    const V4: Self = Self { first: 0xffff << 32, len: 96 };

    /// Its address.
    pub fn addr(&self) -> Addr {
        std::net::Ipv6Addr::from(self.first).into()
    }

    /// Its significant bits.
    pub fn len(&self) -> u32 {
        self.len
    }

    fn last(&self) -> u128 {
        self.first | u128::MAX.checked_shr(self.len).unwrap_or(0)
    }
}

impl From<&IpNetwork> for Network {
    fn from(network: &IpNetwork) -> Self {
        let family = if network.is_ipv4() { 96 } else { 0 };
        Self { first: number(&network.network().into()), len: family + u32::from(network.prefix()) }
    }
}

fn number(addr: &Addr) -> u128 {
    u128::from_be_bytes(addr.bytes())
}

/// The numbers of the blocks that somebody is in.
type Inside = Arc<[u32]>;

/// All blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    networks: BTreeMap<Network, Inside>,
    /// From which address on which blocks hold, ascending.
    from: Vec<(u128, Inside)>,
}

/// A network that has been begun and not ended.
struct Open {
    network: Network,
    inside: Inside,
    around: Inside,
}

impl Blocks {
    /// Of these numbers, blocks and exceptions.
    pub fn new<'a>(blocks: impl IntoIterator<Item = (u32, &'a IpNetwork, &'a [IpNetwork])>) -> Self {
        // Whose block begins with a network, and whose exception is one.
        let mut marks: BTreeMap<Network, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        for (id, cidr, except) in blocks {
            marks.entry(cidr.into()).or_default().0.push(id);
            for out in except {
                marks.entry(out.into()).or_default().1.push(id);
            }
            // No IPv6 network has IPv4 addresses in it, wherever these stand.
            if cidr.is_ipv6() && Network::from(cidr).last() >= Network::V4.last() && Network::from(cidr) < Network::V4 {
                marks.entry(Network::V4).or_default().1.push(id);
            }
        }
        let mut all = Self::default();
        let nothing: Inside = Arc::default();
        let mut open: Vec<Open> = Vec::new();
        // Networks nest or have nothing in common, and an outer one comes before its inner ones.
        for (network, (ins, outs)) in marks {
            all.close(&mut open, |outer| outer.last() < network.first);
            let around = open.last().map_or_else(|| Arc::clone(&nothing), |outer| Arc::clone(&outer.inside));
            let mut ids: Vec<u32> = around.iter().copied().chain(ins).filter(|id| !outs.contains(id)).collect();
            ids.sort_unstable();
            if *ids == *around {
                continue;
            }
            let inside: Inside = ids.into();
            all.note(network.first, &inside);
            all.networks.insert(network, Arc::clone(&inside));
            open.push(Open { network, inside, around });
        }
        all.close(&mut open, |_| true);
        all
    }

    /// Ends those of the open networks that end before something.
    fn close(&mut self, open: &mut Vec<Open>, ends: impl Fn(&Network) -> bool) {
        while let Some(inner) = open.pop_if(|inner| ends(&inner.network)) {
            if let Some(next) = inner.network.last().checked_add(1) {
                self.note(next, &inner.around);
            }
        }
    }

    fn note(&mut self, from: u128, inside: &Inside) {
        self.from.pop_if(|(same, _)| *same == from);
        self.from.push((from, Arc::clone(inside)));
    }

    /// The blocks that an address is in, ascending.
    pub fn of(&self, addr: &Addr) -> &[u32] {
        let number = number(addr);
        let at = self.from.partition_point(|(from, _)| *from <= number);
        at.checked_sub(1).map_or(&[], |at| &self.from[at].1)
    }

    /// The networks and the blocks that those of their addresses are in which are in no longer one.
    pub fn networks(&self) -> impl Iterator<Item = (&Network, &[u32])> {
        self.networks.iter().map(|(network, inside)| (network, &**inside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_network_says_all() {
        let texts = [
            ("10.0.0.0/8", vec!["10.1.0.0/16", "10.2.0.0/16"]),
            ("10.1.2.0/24", vec![]),
            ("0.0.0.0/0", vec!["10.1.2.3/32", "255.255.255.255/32"]),
            ("::/0", vec!["fd00::/8"]),
            ("fd00::/16", vec![]),
        ];
        let parse = |text: &str| text.parse::<IpNetwork>().unwrap();
        let blocks: Vec<(IpNetwork, Vec<IpNetwork>)> =
            texts.iter().map(|(cidr, out)| (parse(cidr), out.iter().map(|out| parse(out)).collect())).collect();
        let all = Blocks::new(blocks.iter().zip(1..).map(|((cidr, out), id)| (id, cidr, &out[..])));
        for (addr, expected) in [
            ("10.0.0.1", vec![1, 3]),
            ("10.1.0.1", vec![3]),
            ("10.1.2.2", vec![2, 3]),
            ("10.1.2.3", vec![2]),
            ("10.1.3.0", vec![3]),
            ("10.2.255.255", vec![3]),
            ("10.3.0.0", vec![1, 3]),
            ("11.0.0.0", vec![3]),
            ("255.255.255.254", vec![3]),
            ("255.255.255.255", vec![]),
            ("::1", vec![4]),
            ("fd00::1", vec![5]),
            ("fd01::1", vec![]),
            ("ffff::1", vec![4]),
        ] {
            let addr: Addr = addr.parse::<std::net::IpAddr>().unwrap().into();
            assert_eq!(all.of(&addr), expected, "{addr}");
        }
    }
}
