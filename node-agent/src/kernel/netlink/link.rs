//! Interfaces: finding, making, changing and deleting them.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{Netlink, NetlinkError, absent_is_fine, errno};

/// An interface, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind as the kernel names it (`veth`, `vxlan`), "" for hardware.
    pub kind: String,
    /// Its MAC address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// The largest packet it takes, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether the kernel has begun to send on it: it is up and has a carrier, and
    /// the kernel has noticed, which may be a little later.
    pub running: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// For a veth: its peer's index, in the peer's namespace.
    pub peer_index: Option<u32>,
    /// The device that it is enslaved to, if any.
    pub controller: Option<u32>,
    /// For a VXLAN device that is told the tunnel end with each packet: its UDP port.
    pub metadata_port: Option<u16>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
}

impl Link {
    fn from_message(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
            peer_index: None,
            controller: None,
            metadata_port: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(index) => link.peer_index = Some(index),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                            LinkInfo::Data(InfoData::Vxlan(data)) => link.metadata_port = metadata_port(&data),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

impl Netlink {
    /// All interfaces of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(Link::from_message)
            .try_collect()
            .await
            .map_err(NetlinkError::refused("list the interfaces"))
    }

    /// The interface of that name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let answer = self.handle.link().get().match_name(name).execute().try_next().await;
        found(answer, || format!("look up interface {name}"))
    }

    /// The interface of that index, if there is one.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let answer = self.handle.link().get().match_index(index).execute().try_next().await;
        found(answer, || format!("look up the interface with index {index}"))
    }

    /// Deletes an interface (a veth's peer goes with it); `false` if there was none.
    pub async fn delete_link(&self, name: &str) -> Result<bool, NetlinkError> {
        let message = LinkUnspec::new_with_name(name).build();
        let result = self.handle.link().del_with_message(message).execute().await;
        absent_is_fine(result, format!("delete interface {name}"))
    }

    /// Makes a veth pair, both ends down: one here, its peer in `peer_netns` (or
    /// here). Fails with `EEXIST` if either name is taken.
    pub async fn add_veth(
        &self,
        end: &VethEnd<'_>,
        peer: &VethEnd<'_>,
        peer_netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), NetlinkError> {
        let mut peer_message =
            LinkMessageBuilder::<LinkUnspec>::new().name(peer.name).address(peer.mac.to_vec()).mtu(peer.mtu);
        if let Some(netns) = peer_netns {
            peer_message = peer_message.setns_by_fd(netns.as_raw_fd());
        }
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(end.name)
            .address(end.mac.to_vec())
            .mtu(end.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_message.build())))
            .build();
        let action = || format!("make the veth pair {} and {}", end.name, peer.name);
        self.handle.link().add(message).execute().await.map_err(|e| NetlinkError::refused(action())(e))
    }

    /// Sets an interface up.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.set_link(LinkUnspec::new_with_index(index).up().build(), "set up", index).await
    }

    /// Sets an interface's MTU, in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set_link(LinkUnspec::new_with_index(index).mtu(mtu).build(), "set the MTU of", index).await
    }

    /// Makes an interface send every packet to its own MAC address instead of
    /// asking for its neighbours'.
    pub(super) async fn set_no_arp(&self, index: u32) -> Result<(), NetlinkError> {
        self.set_link(LinkUnspec::new_with_index(index).arp(false).build(), "switch off ARP on", index).await
    }

    async fn set_link(&self, message: LinkMessage, action: &str, index: u32) -> Result<(), NetlinkError> {
        let action = || format!("{action} the interface with index {index}");
        // RTM_NEWLINK without NLM_F_CREATE changes what is there and, unlike
        // RTM_SETLINK, knows every attribute.
        self.handle.link().change(message).execute().await.map_err(|e| NetlinkError::refused(action())(e))
    }
}

fn metadata_port(data: &[InfoVxlan]) -> Option<u16> {
    let port = data.iter().find_map(|info| match info {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    });
    port.filter(|_| data.contains(&InfoVxlan::CollectMetadata(true)))
}

fn found(
    answer: Result<Option<LinkMessage>, rtnetlink::Error>,
    action: impl FnOnce() -> String,
) -> Result<Option<Link>, NetlinkError> {
    match answer {
        Ok(message) => Ok(message.map(Link::from_message)),
        // ERANGE, EINVAL: no interface can have such a name.
        Err(e) if matches!(errno(&e), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => Ok(None),
        Err(e) => Err(NetlinkError::refused(action())(e)),
    }
}
