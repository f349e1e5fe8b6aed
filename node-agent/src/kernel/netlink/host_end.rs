//! The node's end of a veth pair whose other end is in another namespace: its
//! settings, and the routes and neighbours behind it.

use std::net::IpAddr;

use super::{Neighbour, Netlink, NetlinkError, Route};
use crate::kernel::sysctl;

/// The node's end of a veth pair, and what is behind it.
#[derive(Clone, Copy, Debug)]
pub struct HostEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// The MAC address of the other end.
    pub peer_mac: [u8; 6],
    /// The addresses that the other end has.
    pub addresses: &'a [IpAddr],
}

impl Netlink {
    /// Sets the end up and makes its addresses reachable: a permanent neighbour
    /// and a route of ours for each. Idempotent; returns the end's index.
    ///
    /// Whatever must be attached before traffic may pass has to be by now.
    pub async fn connect_host_end(&self, end: &HostEnd<'_>) -> Result<u32, NetlinkError> {
        let link = self.link(end.name).await?.ok_or_else(|| NetlinkError::NoLink(end.name.to_owned()))?;
        sysctl::prepare_own_device(end.name)?;
        self.set_up(link.index).await?;
        for ip in end.addresses {
            self.set_neighbour(&Neighbour { ifindex: link.index, ip: *ip, mac: end.peer_mac }).await?;
            self.set_route(&Route::to_host(*ip, link.index)).await?;
        }
        Ok(link.index)
    }

    /// The first thing of [`Netlink::connect_host_end`] that no longer stands, in words.
    pub async fn missing_of_host_end(&self, end: &HostEnd<'_>) -> Result<Option<String>, NetlinkError> {
        let Some(link) = self.link(end.name).await? else {
            return Ok(Some(format!("interface {} is gone", end.name)));
        };
        if !link.up {
            return Ok(Some(format!("interface {} is down", end.name)));
        }
        let routes = self.our_routes().await?;
        let neighbours = self.permanent_neighbours().await?;
        for ip in end.addresses {
            if !routes.contains(&Route::to_host(*ip, link.index)) {
                return Ok(Some(format!("the route to {ip} through {} is gone", end.name)));
            }
            if !neighbours.contains(&Neighbour { ifindex: link.index, ip: *ip, mac: end.peer_mac }) {
                return Ok(Some(format!("the neighbour entry of {ip} on {} is gone", end.name)));
            }
        }
        Ok(None)
    }
}
