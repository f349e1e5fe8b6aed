//! Routes. Those of Fairlead carry its protocol number, and no others are ever
//! replaced or deleted.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::{TryStreamExt, future::join_all};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
            RouteScope, RouteType, RouteVia,
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
    /// not be in a network of the interface, and may be an IPv6 one for an IPv4 destination.
    pub gateway: Option<IpAddr>,
    /// The source address for packets that have none yet.
    pub source: Option<IpAddr>,
    /// The largest packet that it takes, in bytes, if not the interface's.
    pub mtu: Option<u32>,
}

/// The routes of the main table, as far as they concern Fairlead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingRoutes {
    /// Those that Fairlead made, in this run or an earlier one.
    pub ours: Vec<Route>,
    /// Destinations of others' routes that come before one of ours to the same destination would.
    pub foreign: BTreeSet<IpNetwork>,
}

/// So many requests are under way at a time: their answers must fit into the socket's buffer.
const AT_A_TIME: usize = 64;

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
        Self { destination, ifindex, gateway: None, source: None, mtu: None }
    }

    /// A default route of the gateway's family.
    pub fn default_via(gateway: IpAddr, ifindex: u32) -> Self {
        let destination = if gateway.is_ipv4() { ANY_V4.into() } else { ANY_V6.into() };
        Self { destination, ifindex, gateway: Some(gateway), source: None, mtu: None }
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
            message.attributes.push(match gateway {
                IpAddr::V6(v6) if destination.is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(v6)),
                _ => RouteAttribute::Gateway(gateway.into()),
            });
            message.header.flags |= RouteFlags::Onlink;
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        message
    }

    fn from_message(message: &RouteMessage) -> Option<Self> {
        let destination = destination(message)?;
        let (mut ifindex, mut gateway, mut source, mut mtu) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Self { destination, ifindex: ifindex?, gateway, source, mtu })
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

    /// The routes that Fairlead made, in this run or an earlier one, but for unreachable ones.
    pub async fn our_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let ours = |m: &&RouteMessage| is_ours(m) && m.header.kind == RouteType::Unicast;
        Ok(self.main_routes().await?.iter().filter(ours).filter_map(Route::from_message).collect())
    }

    /// Our routes, and where others' stand in their way.
    pub async fn standing_routes(&self) -> Result<StandingRoutes, NetlinkError> {
        let mut standing = StandingRoutes::default();
        for message in self.main_routes().await? {
            if is_ours(&message) {
                let is_unicast = message.header.kind == RouteType::Unicast;
                standing.ours.extend(is_unicast.then(|| Route::from_message(&message)).flatten());
            } else if comes_first(&message) {
                standing.foreign.extend(destination(&message));
            }
        }
        Ok(standing)
    }

    /// Every route of the main table through an interface that others made.
    pub async fn others_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let others = |m: &&RouteMessage| !is_ours(m) && m.header.kind == RouteType::Unicast;
        Ok(self.main_routes().await?.iter().filter(others).filter_map(Route::from_message).collect())
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
        self.set_routes(std::slice::from_ref(route)).await.pop().unwrap_or(Ok(()))
    }

    /// Makes routes as [`Netlink::set_route`] does. The outcomes are in the routes' order.
    pub async fn set_routes(&self, routes: &[Route]) -> Vec<Result<(), NetlinkError>> {
        let mut outcomes = Vec::with_capacity(routes.len());
        for some in routes.chunks(AT_A_TIME) {
            let add = some.iter().map(|route| self.handle.route().add(route.message()).execute());
            outcomes.extend(join_all(add).await);
        }
        let exists = |outcome: &Result<(), rtnetlink::Error>| {
            outcome.as_ref().is_err_and(|error| errno(error) == Some(libc::EEXIST))
        };
        let standing = if outcomes.iter().any(exists) { Some(self.standing_routes().await) } else { None };
        let mut settled = Vec::with_capacity(routes.len());
        for (route, outcome) in routes.iter().zip(outcomes) {
            let refused = || NetlinkError::refused(format!("add the route to {route}"));
            settled.push(match (&standing, outcome) {
                (Some(Ok(standing)), outcome) if exists(&outcome) => {
                    match standing.foreign.contains(&route.destination) {
                        true => Err(NetlinkError::Foreign { what: format!("a route to {}", route.destination) }),
                        false => {
                            let replace = self.handle.route().add(route.message()).replace();
                            replace.execute().await.map_err(refused())
                        }
                    }
                }
                (_, outcome) => outcome.map_err(refused()),
            });
        }
        settled
    }

    /// Deletes a route of ours; `false` if there is none such.
    pub async fn delete_route(&self, route: &Route) -> Result<bool, NetlinkError> {
        // The kernel compares the protocol too, so another's route is safe.
        let result = self.handle.route().del(route.message()).execute().await;
        absent_is_fine(result, format!("delete the route to {route}"))
    }
}

pub(super) fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

/// Whether a route comes before ours to the same destination: its metric is at most
/// the kernel's default, 0 for IPv4 and 1024 for IPv6 (`IP6_RT_PRIO_USER`).
fn comes_first(message: &RouteMessage) -> bool {
    let default = if message.header.address_family == AddressFamily::Inet6 { 1024 } else { 0 };
    !message.attributes.iter().any(|a| matches!(a, RouteAttribute::Priority(metric) if *metric > default))
}

/// Whether a route leads to a router, rather than straight to its destination.
pub(super) fn has_router(message: &RouteMessage) -> bool {
    let is_router = |attribute: &RouteAttribute| {
        matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_))
    };
    message.attributes.iter().any(is_router)
}

/// Where a route leads, whatever its kind.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNetwork> {
    let any = match message.header.address_family {
        AddressFamily::Inet => ANY_V4.ip().into(),
        AddressFamily::Inet6 => ANY_V6.ip().into(),
        _ => return None,
    };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(ip(address)),
        _ => None,
    });
    IpNetwork::new(address.unwrap_or(Some(any))?, message.header.destination_prefix_length).ok()
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
