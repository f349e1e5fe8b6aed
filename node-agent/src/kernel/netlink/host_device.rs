//! The pair of devices through which the node's own traffic to Services is led:
//! what is routed into [`HOST_DEVICE`] comes out of [`HOST_DEVICE_PEER`], where a
//! program balances it.
//!
//! A restarted agent recognises the pair by names, kind and being each other's peer.

use datapath::abi::GATEWAY_MAC;

use super::{Link, Netlink, NetlinkError, VethEnd};
use crate::kernel::sysctl;

/// The end into which the node's traffic to Services is routed.
pub const HOST_DEVICE: &str = "fairlead0";
/// The end at which it comes out.
pub const HOST_DEVICE_PEER: &str = "fairlead1";

/// The pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// [`HOST_DEVICE`].
    pub outer: Link,
    /// [`HOST_DEVICE_PEER`].
    pub inner: Link,
}

impl Netlink {
    /// The pair, made if it is absent; both ends up, with the given MTU, without
    /// IPv6 addresses, accepting packets whose source is the node itself.
    ///
    /// Neither end asks for neighbours, and both have the same MAC address, so a
    /// packet that goes into one is taken by the other whatever its destination.
    pub async fn host_device(&self, mtu: u32) -> Result<HostDevice, NetlinkError> {
        let device = match self.find_host_device().await? {
            Some(device) => device,
            None => {
                let outer = VethEnd { name: HOST_DEVICE, mac: GATEWAY_MAC, mtu };
                let inner = VethEnd { name: HOST_DEVICE_PEER, mac: GATEWAY_MAC, mtu };
                self.add_veth(&outer, &inner, None).await?;
                self.find_host_device().await?.ok_or_else(|| NetlinkError::NoLink(HOST_DEVICE.to_owned()))?
            }
        };
        for link in [&device.outer, &device.inner] {
            if link.mtu != mtu {
                self.set_mtu(link.index, mtu).await?;
            }
            sysctl::prepare_own_device(&link.name)?;
            self.set_no_arp(link.index).await?;
            self.set_up(link.index).await?;
        }
        self.find_host_device().await?.ok_or_else(|| NetlinkError::NoLink(HOST_DEVICE.to_owned()))
    }

    /// The pair as it stands, if it does; a device of that name that is
    /// something else is an error.
    pub async fn find_host_device(&self) -> Result<Option<HostDevice>, NetlinkError> {
        let foreign = |name: &str| NetlinkError::Foreign { what: format!("interface {name}") };
        match (self.link(HOST_DEVICE).await?, self.link(HOST_DEVICE_PEER).await?) {
            (None, None) => Ok(None),
            (Some(outer), Some(inner)) if are_peers(&outer, &inner) => Ok(Some(HostDevice { outer, inner })),
            (Some(_), _) => Err(foreign(HOST_DEVICE)),
            (None, Some(_)) => Err(foreign(HOST_DEVICE_PEER)),
        }
    }

    /// Removes the pair and with it the routes through it; `false` if there was none.
    pub async fn delete_host_device(&self) -> Result<bool, NetlinkError> {
        match self.find_host_device().await? {
            Some(device) => self.delete_link(&device.outer.name).await,
            None => Ok(false),
        }
    }
}

fn are_peers(a: &Link, b: &Link) -> bool {
    a.kind == "veth" && b.kind == "veth" && a.peer_index == Some(b.index) && b.peer_index == Some(a.index)
}
