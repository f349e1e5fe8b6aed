//! Which address a pod gets: the next free one of the Node's podCIDRs.
//!
//! Invariant: an address is in use from the moment it is given until it is
//! released, whatever becomes of the podCIDRs. A released address is the last to
//! be given again. This module is pure: it must not know files, sockets or the clock.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The addresses of a node's pods.
#[derive(Clone, Debug, Default)]
pub struct Ipam {
    cidrs: Vec<IpNetwork>,
    used: BTreeSet<IpAddr>,
    last: Last,
}

/// The address that was given last in each family; the search goes on behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// IPv4.
    pub v4: Option<IpAddr>,
    /// IPv6.
    pub v6: Option<IpAddr>,
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The Node has no podCIDR.
    #[error("the Node has no podCIDRs")]
    NoCidrs,
    /// Every address of a family is in use.
    #[error(
        "the address pool {pool} is exhausted: all its {size} addresses are in use; the Node needs a larger podCIDR, or fewer pods"
    )]
    Exhausted {
        /// The podCIDRs of that family.
        pool: String,
        /// How many addresses they have for pods.
        size: u128,
    },
    /// The address is another's.
    #[error("address {0} is in use")]
    InUse(IpAddr),
}

impl Ipam {
    /// Goes on where an earlier run stopped.
    pub fn resume(last: Last) -> Self {
        Self { last, ..Self::default() }
    }

    /// Takes addresses from these networks from now on. Addresses in use stay so.
    pub fn set_cidrs(&mut self, cidrs: &[IpNetwork]) {
        if self.cidrs != cidrs {
            self.cidrs = cidrs.to_vec();
        }
    }

    /// One address of each family that the podCIDRs have, IPv4 first, or none at all.
    pub fn allocate(&mut self) -> Result<Vec<IpAddr>, IpamError> {
        let addresses = self.peek()?;
        for ip in &addresses {
            self.used.insert(*ip);
            *self.last.of(ip.is_ipv6()) = Some(*ip);
        }
        Ok(addresses)
    }

    /// What [`Ipam::allocate`] would give.
    pub fn peek(&self) -> Result<Vec<IpAddr>, IpamError> {
        let mut addresses = Vec::new();
        for ipv6 in [false, true] {
            let ranges: Vec<Range> = self.family(ipv6).filter_map(Range::of).collect();
            if self.family(ipv6).next().is_none() {
                continue;
            }
            addresses.push(self.next_free(ipv6, &ranges).ok_or_else(|| self.exhausted(ipv6, &ranges))?);
        }
        if addresses.is_empty() { Err(IpamError::NoCidrs) } else { Ok(addresses) }
    }

    /// Marks addresses as in use that were given before, all or none.
    pub fn adopt(&mut self, addresses: &[IpAddr]) -> Result<(), IpamError> {
        if let Some(taken) = addresses.iter().find(|ip| self.used.contains(ip)) {
            return Err(IpamError::InUse(*taken));
        }
        self.used.extend(addresses);
        Ok(())
    }

    /// Frees addresses.
    pub fn release(&mut self, addresses: &[IpAddr]) {
        for ip in addresses {
            self.used.remove(ip);
        }
    }

    /// What [`Ipam::resume`] wants.
    pub fn last(&self) -> Last {
        self.last
    }

    fn family(&self, ipv6: bool) -> impl Iterator<Item = &IpNetwork> {
        self.cidrs.iter().filter(move |cidr| cidr.is_ipv6() == ipv6)
    }

    /// The first free address behind the last one given, once around.
    fn next_free(&self, ipv6: bool, ranges: &[Range]) -> Option<IpAddr> {
        let last = if ipv6 { self.last.v6 } else { self.last.v4 }.map(number);
        let at = |n: u128| ranges.iter().position(|r| r.first <= n && n <= r.last);
        let (start, from) = match last.and_then(|n| Some((at(n)?, n))) {
            Some((i, n)) => (i, n + 1),
            None => (0, ranges.first()?.first),
        };
        let behind = Range { first: from, last: ranges[start].last };
        let rest = ranges[start + 1..].iter().chain(&ranges[..start]).copied();
        let before = Range { first: ranges[start].first, last: from.saturating_sub(1) };
        [behind].into_iter().chain(rest).chain([before]).find_map(|range| self.first_free(range, ipv6))
    }

    fn first_free(&self, range: Range, ipv6: bool) -> Option<IpAddr> {
        if range.first > range.last {
            return None;
        }
        let mut candidate = range.first;
        for used in self.used.range(address(range.first, ipv6)..=address(range.last, ipv6)) {
            if number(*used) != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= range.last).then(|| address(candidate, ipv6))
    }

    fn exhausted(&self, ipv6: bool, ranges: &[Range]) -> IpamError {
        let names: Vec<String> = self.family(ipv6).map(ToString::to_string).collect();
        IpamError::Exhausted { pool: names.join(", "), size: ranges.iter().map(Range::size).sum() }
    }
}

impl Last {
    fn of(&mut self, ipv6: bool) -> &mut Option<IpAddr> {
        if ipv6 { &mut self.v6 } else { &mut self.v4 }
    }
}

/// The addresses of a network that pods may have.
#[derive(Clone, Copy)]
struct Range {
    first: u128,
    last: u128,
}

impl Range {
    /// Without the network's address, the one behind it, which bridges and people
    /// take for a gateway's, and IPv4's broadcast address. Networks of one or two
    /// addresses have no such.
    fn of(cidr: &IpNetwork) -> Option<Self> {
        let bits = if cidr.is_ipv6() { 128 } else { 32 };
        let host_bits = bits - u32::from(cidr.prefix());
        let first = number(cidr.network());
        let last = first + 1u128.checked_shl(host_bits).map_or(u128::MAX - first, |size| size - 1);
        // Never up to the last number, so that counting on can't overflow.
        let last = last.min(u128::MAX - 1);
        let range = match (host_bits, cidr.is_ipv6()) {
            (0 | 1, _) => Self { first, last },
            (_, false) => Self { first: first + 2, last: last - 1 },
            (_, true) => Self { first: first + 2, last },
        };
        (range.first <= range.last).then_some(range)
    }

    fn size(&self) -> u128 {
        self.last - self.first + 1
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, ipv6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(v4) if !ipv6 => IpAddr::from(v4.to_be_bytes()),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn ipam(cidrs: &[&str]) -> Ipam {
        let mut ipam = Ipam::default();
        ipam.set_cidrs(&cidrs.iter().map(|c| c.parse().unwrap()).collect::<Vec<_>>());
        ipam
    }

    fn all(ipam: &mut Ipam) -> Vec<String> {
        let mut given = Vec::new();
        while let Ok(ips) = ipam.allocate() {
            given.push(ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert!(given.len() <= 64, "{given:?}");
        }
        given
    }

    #[test]
    fn gives_what_networks_have() {
        for (cidrs, expected) in [
            (&["10.0.0.0/29"][..], &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"][..]),
            (&["10.0.0.4/29"], &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]),
            (&["10.0.0.0/30"], &["10.0.0.2"]),
            (&["10.0.0.0/31"], &["10.0.0.0", "10.0.0.1"]),
            (&["10.0.0.9/32"], &["10.0.0.9"]),
            (
                &["255.255.255.248/29"],
                &["255.255.255.250", "255.255.255.251", "255.255.255.252", "255.255.255.253", "255.255.255.254"],
            ),
            (&["fd00::/126"], &["fd00::2", "fd00::3"]),
            (&["fd00::/127"], &["fd00::", "fd00::1"]),
            (&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"], &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"]),
            (&["fd00::/64", "10.0.0.0/30"], &["10.0.0.2 fd00::2"]),
            (&["10.0.0.0/30", "10.0.1.0/30"], &["10.0.0.2", "10.0.1.2"]),
            (&[], &[]),
        ] {
            assert_eq!(all(&mut ipam(cidrs)), expected, "{cidrs:?}");
        }
        assert_eq!(ipam(&["::/0"]).allocate().unwrap(), ["::2".parse::<IpAddr>().unwrap()]);
        assert_eq!(ipam(&["0.0.0.0/0"]).allocate().unwrap(), ["0.0.0.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn says_what_is_missing() {
        assert_eq!(ipam(&[]).allocate(), Err(IpamError::NoCidrs));
        let mut small = ipam(&["10.0.0.0/30", "fd00::/64"]);
        small.allocate().unwrap();
        let before = small.last();
        let message = small.allocate().unwrap_err().to_string();
        assert!(message.contains("10.0.0.0/30 is exhausted: all its 1 addresses"), "{message}");
        assert_eq!(small.last(), before, "a failed allocation takes nothing of the other family");
    }

    #[test]
    fn a_released_address_is_the_last_to_be_given_again() {
        let mut ipam = ipam(&["10.0.0.0/29"]);
        let first = ipam.allocate().unwrap();
        ipam.release(&first);
        let mut resumed = Ipam::resume(ipam.last());
        resumed.set_cidrs(&["10.0.0.0/29".parse().unwrap()]);
        let given = all(&mut resumed);
        assert_eq!(given.len(), 5);
        assert_eq!(given.last().unwrap(), "10.0.0.2");
    }

    #[test]
    fn a_changed_network_leaves_addresses_alone() {
        let mut ipam = ipam(&["10.0.0.0/30"]);
        let old = ipam.allocate().unwrap();
        ipam.set_cidrs(&["10.9.0.0/30".parse().unwrap()]);
        assert_eq!(all(&mut ipam), ["10.9.0.2"]);
        assert_eq!(ipam.adopt(&old), Err(IpamError::InUse(old[0])));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate,
        Release(usize),
        Cidrs(usize),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => Just(Step::Allocate),
            3 => (0usize..64).prop_map(Step::Release),
            1 => (0usize..CIDRS.len()).prop_map(Step::Cidrs),
            1 => Just(Step::Restart),
        ]
    }

    const CIDRS: [&[&str]; 5] = [
        &["10.0.0.0/28"],
        &["10.0.0.0/29", "fd00::/125"],
        &["fd00::/124"],
        &["10.0.0.8/29", "10.0.1.0/30", "10.0.0.0/31"],
        &["10.0.0.16/28", "fd00::8/125"],
    ];

    /// Every address of the networks that a pod may have, by the definition.
    fn oracle(cidrs: &[IpNetwork], ipv6: bool) -> BTreeSet<IpAddr> {
        let family = cidrs.iter().filter(|c| c.is_ipv6() == ipv6);
        let usable = family.flat_map(|cidr| {
            let mut ips: Vec<IpAddr> = cidr.iter().collect();
            if ips.len() > 2 {
                ips.drain(..2);
                if !ipv6 {
                    ips.pop();
                }
            }
            ips
        });
        usable.collect()
    }

    proptest! {
        #[test]
        fn never_gives_one_address_twice(steps in prop::collection::vec(step(), 1..200)) {
            let parse = |i: usize| CIDRS[i].iter().map(|c| c.parse().unwrap()).collect::<Vec<IpNetwork>>();
            let mut cidrs = parse(0);
            let mut ipam = Ipam::default();
            ipam.set_cidrs(&cidrs);
            let mut held: HashMap<usize, Vec<IpAddr>> = HashMap::new();
            let in_use = |held: &HashMap<usize, Vec<IpAddr>>| held.values().flatten().copied().collect::<BTreeSet<_>>();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Allocate => {
                        let used = in_use(&held);
                        let families = [false, true].into_iter().filter(|v6| cidrs.iter().any(|c| c.is_ipv6() == *v6));
                        let free: Vec<BTreeSet<IpAddr>> = families.map(|v6| &oracle(&cidrs, v6) - &used).collect();
                        match ipam.allocate() {
                            Ok(given) => {
                                prop_assert_eq!(given.len(), free.len());
                                for (ip, free) in given.iter().zip(&free) {
                                    prop_assert!(free.contains(ip), "{} is not free", ip);
                                }
                                held.insert(n, given);
                            }
                            Err(_) => prop_assert!(free.iter().any(BTreeSet::is_empty)),
                        }
                    }
                    Step::Release(i) => {
                        let mut keys: Vec<_> = held.keys().copied().collect();
                        keys.sort_unstable();
                        if let Some(ips) = keys.get(i).and_then(|k| held.remove(k)) {
                            ipam.release(&ips);
                        }
                    }
                    Step::Cidrs(i) => {
                        cidrs = parse(i);
                        ipam.set_cidrs(&cidrs);
                    }
                    Step::Restart => {
                        ipam = Ipam::resume(ipam.last());
                        ipam.set_cidrs(&cidrs);
                        for ips in held.values() {
                            ipam.adopt(ips).unwrap();
                        }
                    }
                }
            }
        }
    }
}
