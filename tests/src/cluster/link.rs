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
    /// The router's interface.
    fn interface(self) -> &'static str {
        match self {
            Self::Near => "nodes",
            Self::Far => "far",
        }
    }

    /// The bridge of which nodes' uplinks are ports; `joined`: there are nodes on other links.
    pub(super) fn bridge(self, joined: bool) -> String {
        let interface = self.interface();
        if joined { format!("{interface}-link") } else { interface.to_owned() }
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

    /// Lines for `ip -batch` that make the router's interface. Packets that are routed into a
    /// bridge are cut into segments in software if they are in a tunnel: the kernel's bridges
    /// have no `hw_enc_features`, which cost VXLAN three quarters of its throughput. So where
    /// there is something to route, the router is at a port of the bridge, by a veth pair.
    pub(super) fn router_setup(self, joined: bool) -> String {
        let (interface, bridge) = (self.interface(), self.bridge(joined));
        let addresses = Self::assign(&self.addresses(1), interface);
        let made = format!("link add {bridge} type bridge\nlink set {bridge} up\n");
        let port = format!(
            "link add {interface} type veth peer name {interface}-port\n\
             link set {interface}-port master {bridge} up\nlink set {interface} up\n"
        );
        format!("{made}{}{addresses}", if joined { &port } else { "" })
    }
}
