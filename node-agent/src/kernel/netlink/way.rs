//! Which way the node's stack sends a packet.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteMessage, RouteVia},
};

use super::{Netlink, NetlinkError, errno, route::ip};

/// A way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// By which interface.
    pub ifindex: u32,
    /// To which router on its link; none: straight to the destination.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// The way that the node's routes and rules have for packets of its own to an address; `None`: there is none.
    pub async fn way_to(&self, destination: IpAddr) -> Result<Option<Way>, NetlinkError> {
        let mut request = RouteMessage::default();
        (request.header.address_family, request.header.destination_prefix_length) = match destination {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        request.attributes.push(RouteAttribute::Destination(destination.into()));
        let mut answers = std::pin::pin!(self.handle.route().get(request).execute());
        match answers.try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(read)),
            Err(error) if matches!(errno(&error), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL)) => {
                Ok(None)
            }
            Err(error) => Err(NetlinkError::refused(format!("look for a route to {destination}"))(error)),
        }
    }
}

fn read(message: &RouteMessage) -> Option<Way> {
    let (mut ifindex, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    Some(Way { ifindex: ifindex?, gateway })
}
