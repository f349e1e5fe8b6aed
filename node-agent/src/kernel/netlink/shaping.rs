//! Queueing disciplines that others have put at interfaces.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Netlink, NetlinkError};

/// What shapes the packets of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shaping {
    /// Something wants those that it sends.
    pub egress: bool,
    /// Something wants those that it receives.
    pub ingress: bool,
}

impl Netlink {
    /// Every interface at which there is something that shapes its packets.
    pub async fn shaping(&self) -> Result<BTreeMap<u32, Shaping>, NetlinkError> {
        let answer = self.handle.qdisc().get().execute().try_collect::<Vec<_>>().await;
        let mut shaping: BTreeMap<u32, Shaping> = BTreeMap::new();
        for message in answer.map_err(NetlinkError::refused("list the queueing disciplines"))? {
            let Ok(ifindex) = u32::try_from(message.header.index) else { continue };
            match (message.header.parent, kind(&message)) {
                (TcHandle::INGRESS, _) => shaping.entry(ifindex).or_default().ingress = true,
                // What the kernel itself puts on a veth.
                (_, Some("noqueue") | None) => {}
                (TcHandle::ROOT, _) => shaping.entry(ifindex).or_default().egress = true,
                _ => {}
            }
        }
        Ok(shaping)
    }
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}
