//! The networks that this node is on, and the way from it to another node.
//!
//! Invariant: a way depends on this node's links and the other's addresses alone.
//! This module must not know podCIDRs' owners, nor how a way is set up.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clap::ValueEnum;
use ipnetwork::IpNetwork;

/// How packets get to pods of other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoutingMode {
    /// Natively to nodes on the same link, else by VXLAN.
    Auto,
    /// By the network's own routes.
    Native,
    /// In VXLAN.
    Vxlan,
}

/// The node's primary addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// IPv4, if it has any.
    pub v4: Option<Ipv4Addr>,
    /// IPv6, if it has any.
    pub v6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// The first address of each family.
    pub fn first_of(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let mut first = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => first.v4 = first.v4.or(Some(v4)),
                IpAddr::V6(v6) => first.v6 = first.v6.or(Some(v6)),
            }
        }
        first
    }

    /// That of a family.
    pub fn of_family(&self, ipv6: bool) -> Option<IpAddr> {
        if ipv6 { self.v6.map(IpAddr::V6) } else { self.v4.map(IpAddr::V4) }
    }
}

/// A network of which every address is reached through an interface without a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OnLink {
    /// The network.
    pub network: IpNetwork,
    /// The interface's index.
    pub ifindex: u32,
}

/// What this node has of the network that carries all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// The networks of its uplinks.
    pub on_link: Vec<OnLink>,
    /// All its addresses.
    pub own: BTreeSet<IpAddr>,
    /// Those that its packets to pods bear.
    pub sources: NodeAddresses,
    /// The largest packet that every uplink takes, in bytes.
    pub mtu: u32,
}

/// How packets for a podCIDR leave this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a node on the same link.
    Gateway {
        /// The link's interface.
        ifindex: u32,
        /// The node's address, which may be of the other family.
        gateway: IpAddr,
    },
    /// In VXLAN to the node with this address.
    Tunnel(IpAddr),
    /// By routes that are the network's own affair.
    Network,
}

/// Why no way leads to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// It has no usable address.
    #[error("it has no InternalIP or ExternalIP in status.addresses")]
    NoAddress,
    /// Its addresses are this node's.
    #[error("all its addresses are this node's own")]
    OwnAddress,
    /// It has no address of a family that this node has.
    #[error("it has no address of a family that this node has")]
    NoFamily,
    /// The kernel has no IPv6 routes by way of IPv4.
    #[error("it has no IPv6 address to route an IPv6 podCIDR to, and --routing-mode=native rules VXLAN out")]
    NoIpv6Gateway,
}

impl Underlay {
    /// Bytes that VXLAN puts around a packet on its way to this tunnel end: IP, UDP,
    /// VXLAN and inner Ethernet headers.
    pub fn overhead(end: IpAddr) -> u32 {
        if end.is_ipv4() { 50 } else { 70 }
    }

    /// The MTU that leaves room for VXLAN to most nodes: all those with an IPv4
    /// address, if this one has any.
    pub fn overlay_mtu(&self) -> u32 {
        let v4 = self.sources.v4.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4);
        self.mtu.saturating_sub(Self::overhead(v4))
    }

    /// The MTU of pods' interfaces. It depends on the mode and the uplinks alone: if it
    /// followed the nodes that come and go, pods would not know theirs.
    pub fn pod_mtu(&self, mode: RoutingMode) -> u32 {
        if mode == RoutingMode::Native { self.mtu } else { self.overlay_mtu() }
    }

    /// The way to the pods, of one family, of a node with these addresses.
    pub fn way(&self, mode: RoutingMode, addresses: &[IpAddr], ipv6: bool) -> Result<Way, NoWay> {
        if addresses.is_empty() {
            return Err(NoWay::NoAddress);
        }
        if addresses.iter().all(|address| self.own.contains(address)) {
            return Err(NoWay::OwnAddress);
        }
        let gateway = || self.gateway(addresses, ipv6);
        match mode {
            RoutingMode::Vxlan => self.tunnel(addresses),
            RoutingMode::Auto => gateway().map_or_else(|| self.tunnel(addresses), Ok),
            RoutingMode::Native => match gateway() {
                Some(way) => Ok(way),
                None if ipv6 && addresses.iter().all(IpAddr::is_ipv4) => Err(NoWay::NoIpv6Gateway),
                None => Ok(Way::Network),
            },
        }
    }

    /// An address on a link of ours: of the podCIDR's family if there is one, else an
    /// IPv6 one for an IPv4 podCIDR; the other way round the kernel can't.
    fn gateway(&self, addresses: &[IpAddr], ipv6: bool) -> Option<Way> {
        let of_family = |wanted: bool| {
            let addresses = addresses.iter().filter(move |address| address.is_ipv6() == wanted);
            addresses.filter(|address| !self.own.contains(address)).find_map(|address| self.on_link(*address))
        };
        of_family(ipv6).or_else(|| if ipv6 { None } else { of_family(true) })
    }

    fn on_link(&self, gateway: IpAddr) -> Option<Way> {
        let mut links: Vec<_> = self.on_link.iter().filter(|link| link.network.contains(gateway)).collect();
        links.sort_by_key(|link| (Reverse(link.network.prefix()), link.ifindex));
        links.first().map(|link| Way::Gateway { ifindex: link.ifindex, gateway })
    }

    /// IPv4 if both nodes have it, as its headers are smaller.
    fn tunnel(&self, addresses: &[IpAddr]) -> Result<Way, NoWay> {
        let of_family = |ipv6: bool| {
            self.sources.of_family(ipv6)?;
            addresses.iter().find(|address| address.is_ipv6() == ipv6 && !self.own.contains(address))
        };
        of_family(false).or_else(|| of_family(true)).map(|end| Way::Tunnel(*end)).ok_or(NoWay::NoFamily)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn underlay(networks: &[(&str, u32)], own: &[&str]) -> Underlay {
        let own: Vec<IpAddr> = own.iter().map(|text| ip(text)).collect();
        let on_link =
            networks.iter().map(|(text, ifindex)| OnLink { network: text.parse().unwrap(), ifindex: *ifindex });
        Underlay {
            on_link: on_link.collect(),
            sources: NodeAddresses::first_of(own.iter().copied()),
            own: own.into_iter().collect(),
            mtu: 1500,
        }
    }

    /// The ways to IPv4 and IPv6 pods in each mode, in words.
    fn ways(underlay: &Underlay, addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        let way = |mode, ipv6| match underlay.way(mode, &addresses, ipv6) {
            Ok(Way::Gateway { ifindex, gateway }) => format!("{gateway}%{ifindex}"),
            Ok(Way::Tunnel(end)) => format!("in {end}"),
            Ok(Way::Network) => "network".to_owned(),
            Err(error) => format!("{error:?}"),
        };
        let modes = [RoutingMode::Auto, RoutingMode::Native, RoutingMode::Vxlan];
        modes.iter().flat_map(|mode| [way(*mode, false), way(*mode, true)]).collect()
    }

    #[test]
    fn the_way_follows_links_families_and_mode() {
        let dual = underlay(
            &[("192.0.2.0/24", 2), ("2001:db8::/64", 2), ("198.51.100.0/24", 3), ("192.0.2.0/25", 4)],
            &["192.0.2.1", "2001:db8::1"],
        );
        let v4 = underlay(&[("192.0.2.0/24", 2)], &["192.0.2.1"]);
        let v6 = underlay(&[("2001:db8::/64", 2)], &["2001:db8::1"]);
        let (a4, a6, far4, far6) = ("192.0.2.200", "2001:db8::2", "203.0.113.9", "2001:db8:9::9");
        let cases: [(&Underlay, &[&str], [&str; 6]); 13] = [
            (
                &dual,
                &[a4, a6],
                [
                    "192.0.2.200%2",
                    "2001:db8::2%2",
                    "192.0.2.200%2",
                    "2001:db8::2%2",
                    "in 192.0.2.200",
                    "in 192.0.2.200",
                ],
            ),
            (
                &dual,
                &["192.0.2.3"],
                ["192.0.2.3%4", "in 192.0.2.3", "192.0.2.3%4", "NoIpv6Gateway", "in 192.0.2.3", "in 192.0.2.3"],
            ),
            (
                &dual,
                &[a6],
                [
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "in 2001:db8::2",
                    "in 2001:db8::2",
                ],
            ),
            (
                &dual,
                &[far4, far6],
                ["in 203.0.113.9", "in 203.0.113.9", "network", "network", "in 203.0.113.9", "in 203.0.113.9"],
            ),
            (
                &dual,
                &[far4, "198.51.100.7"],
                [
                    "198.51.100.7%3",
                    "in 203.0.113.9",
                    "198.51.100.7%3",
                    "NoIpv6Gateway",
                    "in 203.0.113.9",
                    "in 203.0.113.9",
                ],
            ),
            (
                &dual,
                &[far4, a6],
                [
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "in 203.0.113.9",
                    "in 203.0.113.9",
                ],
            ),
            (&dual, &[], ["NoAddress"; 6]),
            (&dual, &["192.0.2.1"], ["OwnAddress"; 6]),
            (
                &dual,
                &["192.0.2.1", far4],
                ["in 203.0.113.9", "in 203.0.113.9", "network", "NoIpv6Gateway", "in 203.0.113.9", "in 203.0.113.9"],
            ),
            (&v4, &[far6], ["NoFamily", "NoFamily", "network", "network", "NoFamily", "NoFamily"]),
            (
                &v4,
                &[a4, a6],
                ["192.0.2.200%2", "in 192.0.2.200", "192.0.2.200%2", "network", "in 192.0.2.200", "in 192.0.2.200"],
            ),
            (
                &v6,
                &[a4, a6],
                [
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "2001:db8::2%2",
                    "in 2001:db8::2",
                    "in 2001:db8::2",
                ],
            ),
            (&v6, &[a4], ["NoFamily", "NoFamily", "network", "NoIpv6Gateway", "NoFamily", "NoFamily"]),
        ];
        for (underlay, addresses, expected) in cases {
            assert_eq!(ways(underlay, addresses), expected, "{addresses:?} from {:?}", underlay.own);
        }
    }

    #[test]
    fn the_mtu_leaves_room_for_the_tunnel() {
        let cases = [(&["192.0.2.1", "2001:db8::1"][..], 1450), (&["2001:db8::1"], 1430)];
        for (own, expected) in cases {
            let underlay = underlay(&[], own);
            let mtus = [RoutingMode::Auto, RoutingMode::Native, RoutingMode::Vxlan].map(|mode| underlay.pod_mtu(mode));
            assert_eq!(mtus, [expected, 1500, expected]);
        }
    }
}
