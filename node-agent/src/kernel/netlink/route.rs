//! Routes. Those of Fairlead carry its protocol number, and no others are ever
//! replaced or deleted.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
        },
    },
};

use super::{Netlink, NetlinkError, absent_is_fine, errno};

/// The protocol number of Fairlead's routes (`ip route show proto 197`), by which
/// a restarted agent recognises them. Not in iproute2's list of known routing daemons.
pub const ROUTE_PROTOCOL: u8 = 197;

const ANY_V4: Ipv4Network = Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
const ANY_V6: Ipv6Network = Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0).expect("0 is a prefix length");

/// A route in the main table through one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: IpNetwork,
    /// Through which interface.
    pub ifindex: u32,
    /// By which router on the link, if not straight to the destination. It need
    /// not be in a network of the interface.
    pub gateway: Option<IpAddr>,
    /// The source address for packets that have none yet.
    pub source: Option<IpAddr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " through the interface with index {}", self.ifindex)
    }
}

impl Route {
    /// A route straight to one address.
    pub fn to_host(ip: IpAddr, ifindex: u32) -> Self {
        Self::to_network(IpNetwork::from(ip), ifindex)
    }

    /// A route straight to a network.
    pub fn to_network(destination: IpNetwork, ifindex: u32) -> Self {
        Self { destination, ifindex, gateway: None, source: None }
    }

    /// A default route of the gateway's family.
    pub fn default_via(gateway: IpAddr, ifindex: u32) -> Self {
        let destination = if gateway.is_ipv4() { ANY_V4.into() } else { ANY_V6.into() };
        Self { destination, ifindex, gateway: Some(gateway), source: None }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessageBuilder::<IpAddr>::new().output_interface(self.ifindex).build();
        let destination = self.destination.network();
        message.header.address_family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        message.header.scope =
            if self.gateway.is_none() && destination.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        message.header.destination_prefix_length = self.destination.prefix();
        if self.destination.prefix() > 0 {
            message.attributes.push(RouteAttribute::Destination(destination.into()));
        }
        if let Some(gateway) = self.gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
            message.header.flags |= RouteFlags::Onlink;
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }

    fn from_message(message: &RouteMessage) -> Option<Self> {
        let mut destination = match message.header.address_family {
            AddressFamily::Inet => ANY_V4.ip().into(),
            AddressFamily::Inet6 => ANY_V6.ip().into(),
            _ => return None,
        };
        let (mut ifindex, mut gateway, mut source) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::PrefSource(address) => source = ip(address),
                _ => {}
            }
        }
        let destination = IpNetwork::new(destination, message.header.destination_prefix_length).ok()?;
        Some(Self { destination, ifindex: ifindex?, gateway, source })
    }
}

impl Netlink {
    /// Every route of the main table, as the kernel describes it.
    pub(super) async fn main_routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let mut stream = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = stream.try_next().await.map_err(NetlinkError::refused("list the routes"))? {
                if message.header.table == RouteHeader::RT_TABLE_MAIN {
                    routes.push(message);
                }
            }
        }
        Ok(routes)
    }

    /// The routes that Fairlead made, in this run or an earlier one.
    pub async fn our_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        Ok(self.main_routes().await?.iter().filter(|m| is_ours(m)).filter_map(Route::from_message).collect())
    }

    /// Every route of the main table that goes through one interface, whoever made it.
    pub async fn routes_through(&self, ifindex: u32) -> Result<Vec<Route>, NetlinkError> {
        let routes = self.main_routes().await?;
        Ok(routes.iter().filter_map(Route::from_message).filter(|r| r.ifindex == ifindex).collect())
    }

    /// Makes a route, replacing one of ours to the same destination.
    ///
    /// A route to it that isn't ours is an error and stays.
    pub async fn set_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let Err(refused) = self.handle.route().add(route.message()).execute().await else { return Ok(()) };
        let action = format!("add the route to {route}");
        if errno(&refused) != Some(libc::EEXIST) {
            return Err(NetlinkError::refused(action)(refused));
        }
        let standing = self.main_routes().await?;
        let same_destination = |m: &&RouteMessage| {
            Route::from_message(m).is_some_and(|r| r.destination == route.destination) && has_default_priority(m)
        };
        if standing.iter().filter(same_destination).any(|m| !is_ours(m)) {
            return Err(NetlinkError::Foreign { what: format!("a route to {}", route.destination) });
        }
        self.handle.route().add(route.message()).replace().execute().await.map_err(NetlinkError::refused(action))
    }

    /// Deletes a route of ours; `false` if there is none such.
    pub async fn delete_route(&self, route: &Route) -> Result<bool, NetlinkError> {
        // The kernel compares the protocol too, so another's route is safe.
        let result = self.handle.route().del(route.message()).execute().await;
        absent_is_fine(result, format!("delete the route to {route}"))
    }
}

fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

/// The kernel's default metrics: 0 for IPv4, 1024 for IPv6 (`IP6_RT_PRIO_USER`).
fn has_default_priority(message: &RouteMessage) -> bool {
    !message.attributes.iter().any(|a| matches!(a, RouteAttribute::Priority(p) if *p != 0 && *p != 1024))
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
