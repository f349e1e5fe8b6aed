//! Addresses of interfaces.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::{Netlink, NetlinkError};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Significant bits of its network.
    pub prefix_len: u8,
    /// Whether its scope is global: not link-local, not the host's own.
    pub global: bool,
    /// Whether it is a primary address, the one that new connections prefer.
    pub primary: bool,
}

impl InterfaceAddress {
    fn from_message(message: AddressMessage) -> Option<Self> {
        let mut ip = None;
        let mut flags = AddressFlags::empty();
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point device IFA_ADDRESS is the other side's.
                AddressAttribute::Local(local) => ip = Some(*local),
                AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
                AddressAttribute::Flags(bits) => flags = *bits,
                _ => {}
            }
        }
        Some(Self {
            ifindex: message.header.index,
            ip: ip?,
            prefix_len: message.header.prefix_len,
            global: message.header.scope == AddressScope::Universe,
            primary: !flags.intersects(
                AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed,
            ),
        })
    }
}

impl Netlink {
    /// All addresses of the namespace.
    pub async fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        self.handle
            .address()
            .get()
            .execute()
            .try_filter_map(async |message| Ok(InterfaceAddress::from_message(message)))
            .try_collect()
            .await
            .map_err(NetlinkError::refused("list the addresses"))
    }

    /// Gives an interface an address, usable at once (no duplicate address
    /// detection). It may have it already.
    pub async fn add_address(&self, ifindex: u32, ip: IpAddr, prefix_len: u8) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(ifindex, ip, prefix_len).replace();
        if ip.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let action = || format!("add {ip}/{prefix_len} to the interface with index {ifindex}");
        request.execute().await.map_err(|e| NetlinkError::refused(action())(e))
    }
}
