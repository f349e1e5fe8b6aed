//! Networks of ours to which nothing leads but routes to single addresses in them.
//!
//! A restarted agent recognises these routes by protocol number and type. Their metric is
//! worse than anybody else's, so whoever has a route to the same network keeps it.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{
    Netlink, NetlinkError, ROUTE_PROTOCOL, absent_is_fine, errno,
    route::{destination, is_ours},
};

/// Above every metric that routing daemons and network managers give.
const METRIC: u32 = 1 << 30;

fn message(network: &IpNetwork) -> RouteMessage {
    let mut message = RouteMessage::default();
    let ip = network.network();
    message.header.address_family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unreachable;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.destination_prefix_length = network.prefix();
    message.attributes = vec![RouteAttribute::Destination(ip.into()), RouteAttribute::Priority(METRIC)];
    message
}

impl Netlink {
    /// The networks that are unreachable by routes of ours.
    pub async fn unreachable(&self) -> Result<BTreeSet<IpNetwork>, NetlinkError> {
        let ours = |message: &&RouteMessage| is_ours(message) && message.header.kind == RouteType::Unreachable;
        Ok(self.main_routes().await?.iter().filter(ours).filter_map(destination).collect())
    }

    /// Makes a network unreachable, as far as no longer prefix or better route leads there.
    /// Whoever sends to it is told by ICMP.
    pub async fn set_unreachable(&self, network: &IpNetwork) -> Result<(), NetlinkError> {
        match self.handle.route().add(message(network)).execute().await {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            result => result.map_err(NetlinkError::refused(format!("make {network} unreachable"))),
        }
    }

    /// Removes that route of ours; `false` if there is none.
    pub async fn delete_unreachable(&self, network: &IpNetwork) -> Result<bool, NetlinkError> {
        let result = self.handle.route().del(message(network)).execute().await;
        absent_is_fine(result, format!("delete the unreachable route to {network}"))
    }
}
