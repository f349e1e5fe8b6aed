//! Permanent neighbours: whose MAC address is known without asking.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};

use super::{Netlink, NetlinkError, absent_is_fine};

/// A neighbour on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface behind which it is.
    pub ifindex: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

impl Neighbour {
    fn from_message(message: NeighbourMessage) -> Option<Self> {
        if message.header.state != NeighbourState::Permanent {
            return None;
        }
        let mut ip = None;
        let mut mac = None;
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(v6)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
                _ => {}
            }
        }
        Some(Self { ifindex: message.header.ifindex, ip: ip?, mac: mac? })
    }
}

impl Netlink {
    /// All permanent neighbours of the namespace.
    pub async fn permanent_neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        self.handle
            .neighbours()
            .get()
            .execute()
            .try_filter_map(async |message| Ok(Neighbour::from_message(message)))
            .try_collect()
            .await
            .map_err(NetlinkError::refused("list the neighbours"))
    }

    /// Makes a neighbour permanent, replacing what was known of it.
    pub async fn set_neighbour(&self, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let Neighbour { ifindex, ip, mac } = *neighbour;
        let request = self.handle.neighbours().add(ifindex, ip).link_layer_address(&mac).replace();
        let action = || format!("set the MAC address of neighbour {ip} on the interface with index {ifindex}");
        request.execute().await.map_err(|e| NetlinkError::refused(action())(e))
    }

    /// Forgets a neighbour; `false` if it wasn't known or its link is gone.
    pub async fn delete_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<bool, NetlinkError> {
        let mut request = self.handle.neighbours().add(ifindex, ip);
        let message = request.message_mut().clone();
        let result = self.handle.neighbours().del(message).execute().await;
        absent_is_fine(result, format!("delete neighbour {ip} of the interface with index {ifindex}"))
    }
}
