//! The packets that carry the overlay's.
//!
//! Invariant: what is taken for one would reach the node's own VXLAN port and nothing else.
//! This module must not know what is carried.

use crate::{
    abi::{Be16, Family, OVERLAY_PORT, protocol},
    packet::{Packet, headers::split_ports},
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
    let ports = match family {
        Family::V4 => {
            let Some([first, identification, ttl_protocol, _, dst, ports]) = packet.glance() else { return false };
            let is_plain = u32::from_be(first) >> 24 == 0x45 && u32::from_be(identification) & 0x3fff == 0;
            let is_udp = (u32::from_be(ttl_protocol) >> 16) as u8 == protocol::UDP;
            if !is_plain || !is_udp || dst != node.v4.v4_word() {
                return false;
            }
            ports
        }
        Family::V6 => {
            let Some([_, length_next, _, _, _, _, a, b, c, d, ports]) = packet.glance() else { return false };
            let is_udp = (u32::from_be(length_next) >> 8) as u8 == protocol::UDP;
            if !is_udp || [a, b, c, d] != node.v6.0 {
                return false;
            }
            ports
        }
    };
    split_ports(ports).1 == Be16::new(OVERLAY_PORT)
}
