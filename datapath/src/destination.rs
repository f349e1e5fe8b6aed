//! Whose a destination is: a Service's port, an unused port of a Service's
//! address, or nobody's that we know.
//!
//! Invariant: what is no Service's costs one look-up. This module must not know
//! who asks, nor what becomes of them.

use crate::{
    abi::{Addr, Be16, FrontendKey, FrontendValue, NetworkValue},
    tables::Tables,
};

/// What an address and port stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A port of a Service.
    Frontend(FrontendValue),
    /// A port that is nobody's, at an address all of whose ports are Services'.
    Unused,
    /// Nothing of ours.
    Foreign,
}

/// Looks a destination up. Ports without a number or protocol (fragments, ICMP)
/// find no frontend.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, addr: Addr, port: Be16, protocol: u8) -> Destination {
    let Some(whole) = tables.frontend(&FrontendKey::whole_address(addr)) else { return Destination::Foreign };
    let flags = whole.flags;
    if protocol != 0
        && port != Be16::ZERO
        && let Some(frontend) = frontend(tables, addr, port, protocol, flags)
    {
        return Destination::Frontend(frontend);
    }
    if flags & FrontendValue::PASS_UNUSED != 0 { Destination::Foreign } else { Destination::Unused }
}

/// A Service's own address has its ports to itself; a NodePort is what is left.
#[inline(always)]
fn frontend<T: Tables>(tables: &T, addr: Addr, port: Be16, protocol: u8, flags: u32) -> Option<FrontendValue> {
    if let Some(frontend) = tables.frontend(&FrontendKey::new(addr, port, protocol)) {
        return Some(*frontend);
    }
    if flags & FrontendValue::NODE_PORTS == 0 {
        return None;
    }
    tables.frontend(&FrontendKey::node_port(addr.family(), port, protocol)).copied()
}

/// Whether an address is one of this node's own.
#[inline(always)]
pub fn is_own<T: Tables>(tables: &T, addr: &Addr) -> bool {
    addr.is_loopback() || tables.network_kind(addr) == NetworkValue::NODE
}

/// Whether packets to an address leave the node.
#[inline(always)]
pub fn leads_out<T: Tables>(tables: &T, addr: &Addr) -> bool {
    tables.pod(addr).is_none() && !is_own(tables, addr)
}
