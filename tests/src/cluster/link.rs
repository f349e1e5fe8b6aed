//! The links that nodes are on, and the addresses there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A link. The router is on each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Where nodes are if nothing else is said.
    Near,
    /// Behind the router.
    Far,
}

/// The families that nodes have addresses of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Both.
    #[default]
    Dual,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Families {
    fn has(self, address: &IpAddr) -> bool {
        match self {
            Self::Dual => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

impl Link {
    /// The router's interface, a bridge.
    pub(super) fn bridge(self) -> &'static str {
        match self {
            Self::Near => "nodes",
            Self::Far => "far",
        }
    }

    /// The addresses of host number `host` on the link, IPv4 first; the router's is number 1. The
    /// IPv6 one looks like the IPv4 one: its last digits are the same.
    pub fn addresses(self, host: u8) -> [IpAddr; 2] {
        let digits = u16::from_str_radix(&host.to_string(), 16).expect("decimal digits are hexadecimal ones");
        match self {
            Self::Near => {
                [Ipv4Addr::new(192, 0, 2, host).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, digits).into()]
            }
            Self::Far => [
                Ipv4Addr::new(198, 51, 100, host).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0xfa, 0, 0, 0, 0, digits).into(),
            ],
        }
    }

    /// Those of some families.
    pub(super) fn addresses_of(self, host: u8, families: Families) -> Vec<IpAddr> {
        self.addresses(host).into_iter().filter(|address| families.has(address)).collect()
    }

    /// Lines for `ip -batch` that give an interface these addresses.
    pub(super) fn assign(addresses: &[IpAddr], interface: &str) -> String {
        let line = |ip: &IpAddr| format!("address add {ip}/{} dev {interface}\n", if ip.is_ipv4() { 24 } else { 64 });
        addresses.iter().map(line).collect()
    }

    /// Lines for `ip -batch` that make the router's interface.
    pub(super) fn router_setup(self) -> String {
        let bridge = self.bridge();
        let addresses = Self::assign(&self.addresses(1), bridge);
        format!("link add {bridge} type bridge\nlink set {bridge} up\n{addresses}")
    }
}
