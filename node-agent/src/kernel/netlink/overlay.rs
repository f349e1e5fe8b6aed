//! The device that wraps packets for other nodes in VXLAN.
//!
//! There is one for all nodes: which node a packet goes to is told it with the
//! packet, by a program. A restarted agent recognises it by name, kind, port and
//! being such a device.

pub use datapath::abi::OVERLAY_PORT;
use rtnetlink::LinkVxlan;

use super::{Link, Netlink, NetlinkError};
use crate::kernel::sysctl;

/// The device's name.
pub const OVERLAY_DEVICE: &str = "fairlead-vxlan";

impl Netlink {
    /// The device, made if it is absent, with the given MTU; it may not be up yet.
    ///
    /// It asks for no neighbours: its frames are addressed to the sender's own MAC
    /// address, so whoever receives them must not go by it.
    pub async fn overlay(&self, mtu: u32) -> Result<Link, NetlinkError> {
        let device = match self.find_overlay().await? {
            Some(device) => device,
            None => {
                let message = rtnetlink::LinkMessageBuilder::<LinkVxlan>::new(OVERLAY_DEVICE)
                    .collect_metadata(true)
                    .learning(false)
                    .port(OVERLAY_PORT)
                    .mtu(mtu)
                    .build();
                let action = format!("make interface {OVERLAY_DEVICE} on UDP port {OVERLAY_PORT}");
                self.handle.link().add(message).execute().await.map_err(NetlinkError::refused(action))?;
                self.find_overlay().await?.ok_or_else(|| NetlinkError::NoLink(OVERLAY_DEVICE.to_owned()))?
            }
        };
        if device.mtu != mtu {
            self.set_mtu(device.index, mtu).await?;
        }
        sysctl::prepare_own_device(&device.name)?;
        self.set_no_arp(device.index).await?;
        Ok(device)
    }

    /// The device as it stands, if it does; one of that name that is something else is an error.
    pub async fn find_overlay(&self) -> Result<Option<Link>, NetlinkError> {
        match self.link(OVERLAY_DEVICE).await? {
            Some(link) if link.kind != "vxlan" || link.metadata_port != Some(OVERLAY_PORT) => {
                Err(NetlinkError::Foreign { what: format!("interface {OVERLAY_DEVICE}") })
            }
            found => Ok(found),
        }
    }

    /// Removes the device and with it the routes through it; `false` if there was none of ours.
    pub async fn delete_overlay(&self) -> Result<bool, NetlinkError> {
        match self.find_overlay().await {
            Ok(Some(device)) => self.delete_link(&device.name).await,
            Ok(None) | Err(NetlinkError::Foreign { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
