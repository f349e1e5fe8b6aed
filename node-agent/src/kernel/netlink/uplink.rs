//! The node's uplinks: the interfaces through which it reaches the world.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::{
    Link, Netlink, NetlinkError,
    route::{destination, has_router, is_ours},
};

/// An interface to the world outside the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface.
    pub link: Link,
    /// Its global addresses, primary ones first, each with its network's prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Networks of which every address is reached through it without a router.
    pub on_link: Vec<IpNetwork>,
}

/// Which interfaces are uplinks.
#[derive(Clone, Copy, Debug)]
pub enum UplinkChoice<'a> {
    /// Those that carry a default route or one of these addresses.
    Carrying(&'a [IpAddr]),
    /// Those with these indexes.
    These(&'a [u32]),
}

impl Netlink {
    /// The node's uplinks, in the order of their indexes.
    pub async fn uplinks(&self, choice: UplinkChoice<'_>) -> Result<Vec<Uplink>, NetlinkError> {
        let routes = self.main_routes().await?;
        let with_default_route: BTreeSet<u32> = routes.iter().flat_map(default_route_interfaces).collect();
        let addresses = self.addresses().await?;
        let mut uplinks = Vec::new();
        for link in self.links().await?.into_iter().filter(|link| !link.loopback) {
            let own = || addresses.iter().filter(|a| a.ifindex == link.index);
            let is_uplink = match choice {
                UplinkChoice::Carrying(node_addresses) => {
                    with_default_route.contains(&link.index) || own().any(|a| node_addresses.contains(&a.ip))
                }
                UplinkChoice::These(indexes) => indexes.contains(&link.index),
            };
            if !is_uplink {
                continue;
            }
            let mut global: Vec<_> = own().filter(|a| a.global).collect();
            global.sort_by_key(|a| !a.primary);
            let addresses = global.into_iter().map(|a| (a.ip, a.prefix_len)).collect();
            let on_link = routes.iter().filter_map(|route| on_link_network(route, link.index)).collect();
            uplinks.push(Uplink { link, addresses, on_link });
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

/// The network of a route that says that all of it is on the interface's link. A
/// default route without a router says nothing about who is there.
fn on_link_network(message: &RouteMessage, ifindex: u32) -> Option<IpNetwork> {
    let through_it = message.attributes.contains(&RouteAttribute::Oif(ifindex));
    let is_plain = message.header.kind == RouteType::Unicast && !is_ours(message);
    let network = destination(message)?;
    let is_link_local = match network.ip() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    };
    (is_plain && through_it && !has_router(message) && network.prefix() > 0 && !is_link_local).then_some(network)
}
