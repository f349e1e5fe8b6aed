//! The packets that carry the overlay's.
//!
//! Invariant: what is taken for one would reach the node's own VXLAN port and nothing else.
//! This module must not know what is carried.

use crate::{
    abi::{Be16, Family, OVERLAY_PORT, protocol},
    packet::{Packet, bare::Bare},
    tables::Tables,
};

/// Whether a packet that came over the wire carries another of the overlay's, and is the
/// stack's to unpack. No frontend can have that port at the node's primary addresses while
/// there is an overlay, so nothing else needs to be known of the packet.
#[inline(never)]
pub fn carries_overlay<P: Packet, T: Tables>(packet: &P, family: Family, tables: &T) -> bool {
    let Some(node) = tables.node() else { return false };
    if node.overlay_ifindex == 0 {
        return false;
    }
    let own = match family {
        Family::V4 => node.v4,
        Family::V6 => node.v6,
    };
    Bare::read(packet, family).is_some_and(|bare| {
        bare.protocol == protocol::UDP && bare.dst == own && bare.dst_port == Be16::new(OVERLAY_PORT)
    })
}
