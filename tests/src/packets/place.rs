//! Who is where: the addresses of the node, its pods, Services and everybody else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use datapath::abi::{Addr, Family};

/// Both families, for cases that exist in each.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Somebody with an address in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A pod on this node, by number.
    Pod(u8),
    /// A pod on another node, by the node's routes.
    RemotePod,
    /// A pod on another node, by the overlay.
    TunnelPod,
    /// The node that [`Self::TunnelPod`] is on.
    Peer,
    /// This node.
    Node,
    /// A router between the nodes.
    Router,
    /// Somebody outside the cluster.
    Outside,
    /// A Service's ClusterIP, by number.
    ClusterIp(u8),
    /// An address in the Services' range that no Service has.
    UnknownClusterIp,
    /// An external IP or a load balancer's, by number.
    ExternalIp(u8),
    /// The loopback address.
    Loopback,
    /// A group: all nodes on the link.
    Group,
}

impl Place {
    /// Its address.
    pub fn ip(self, family: Family) -> IpAddr {
        let (v4, v6) = match self {
            Self::Pod(n) => ([10, 244, 1, n], [0xfd00, 0x244, 1, u16::from(n)]),
            Self::RemotePod => ([10, 244, 2, 20], [0xfd00, 0x244, 2, 20]),
            Self::TunnelPod => ([10, 244, 3, 20], [0xfd00, 0x244, 3, 20]),
            Self::Peer => ([192, 168, 9, 3], [0xfd00, 0x192, 9, 3]),
            Self::Node => ([192, 168, 7, 1], [0xfd00, 0x192, 7, 1]),
            Self::Router => ([192, 168, 7, 254], [0xfd00, 0x192, 7, 254]),
            Self::Outside => ([203, 0, 113, 9], [0x2001, 0xdb8, 113, 9]),
            Self::ClusterIp(n) => ([10, 96, 0, n], [0xfd00, 0x96, 0, u16::from(n)]),
            Self::UnknownClusterIp => ([10, 96, 9, 9], [0xfd00, 0x96, 9, 9]),
            Self::ExternalIp(n) => ([198, 51, 100, n], [0x2001, 0xdb8, 100, u16::from(n)]),
            Self::Loopback => ([127, 0, 0, 1], [0, 0, 0, 1]),
            Self::Group => ([224, 0, 0, 1], [0xff02, 0, 0, 1]),
        };
        match family {
            Family::V4 => Ipv4Addr::from(v4).into(),
            Family::V6 => Ipv6Addr::from([v6[0], v6[1], v6[2], 0, 0, 0, 0, v6[3]]).into(),
        }
    }

    /// Its address as tables hold it.
    pub fn addr(self, family: Family) -> Addr {
        self.ip(family).into()
    }

    /// One of its ports.
    pub fn at(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}
