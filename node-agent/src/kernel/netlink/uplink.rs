//! The node's uplinks: the interfaces through which it reaches the world.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::{Link, Netlink, NetlinkError};

/// An interface to the world outside the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface.
    pub link: Link,
    /// Its global addresses, primary ones first, each with its network's prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether a default route goes through it.
    pub default_route: bool,
}

impl Netlink {
    /// The interfaces that carry a default route or one of `node_addresses`, in
    /// the order of their indexes.
    pub async fn uplinks(&self, node_addresses: &[IpAddr]) -> Result<Vec<Uplink>, NetlinkError> {
        let with_default_route: BTreeSet<u32> =
            self.main_routes().await?.iter().flat_map(default_route_interfaces).collect();
        let addresses = self.addresses().await?;
        let mut uplinks = Vec::new();
        for link in self.links().await?.into_iter().filter(|link| !link.loopback) {
            let default_route = with_default_route.contains(&link.index);
            let own = || addresses.iter().filter(|a| a.ifindex == link.index);
            if !default_route && !own().any(|a| node_addresses.contains(&a.ip)) {
                continue;
            }
            let mut global: Vec<_> = own().filter(|a| a.global).collect();
            global.sort_by_key(|a| !a.primary);
            let addresses = global.into_iter().map(|a| (a.ip, a.prefix_len)).collect();
            uplinks.push(Uplink { link, addresses, default_route });
        }
        Ok(uplinks)
    }
}

/// The interfaces of a default route, several for multipath; none for any other route.
fn default_route_interfaces(message: &RouteMessage) -> Vec<u32> {
    if message.header.destination_prefix_length != 0 || message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let interfaces = message.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    interfaces.collect()
}
