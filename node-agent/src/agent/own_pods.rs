//! The node's own podCIDRs, made unreachable but for the pods that there are: a packet to
//! an address that no pod has would leave by the default route, and come back.
//!
//! Invariant: what isn't ours to route stays as it is; looking again changes only what
//! differs. This module must not know pods.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::kernel::netlink::{Netlink, NetlinkError};

/// The networks that are unreachable by routes of ours, as they were last seen.
#[derive(Debug, Default)]
pub struct OwnPods {
    present: Option<BTreeSet<IpNetwork>>,
}

impl OwnPods {
    /// Whether a route to there was made and not removed.
    pub fn has(&self, network: &IpNetwork) -> bool {
        self.present.as_ref().is_some_and(|present| present.contains(network))
    }

    /// Sees to it that these networks are, and no others. `check`: even if they were when
    /// last looked at.
    pub async fn apply(
        &mut self,
        netlink: &Netlink,
        wanted: &BTreeSet<IpNetwork>,
        check: bool,
    ) -> Result<(), NetlinkError> {
        if !check && self.present.as_ref() == Some(wanted) {
            return Ok(());
        }
        let present = netlink.unreachable().await?;
        // Until all is done nothing is known.
        self.present = None;
        for network in wanted.difference(&present) {
            netlink.set_unreachable(network).await?;
        }
        for network in present.difference(wanted) {
            netlink.delete_unreachable(network).await?;
        }
        self.present = Some(wanted.clone());
        Ok(())
    }
}
