//! The tables' layout: one definition of each map key and value, shared by the
//! kernel programs, the agent and the tests.
//!
//! Invariants: every type is `repr(C)` with explicit padding, holds only
//! integers (no `bool`, `Option` or enum, whose holes could be read as
//! garbage), and has its size asserted. Addresses and ports are in network byte
//! order, which their types say; all other integers are in the host's.
//!
//! This module must not know what any of it is used for: no decision lives here.

mod address;
mod config;
mod drop;
mod event;
mod flow;
mod layout;
mod network;
mod pod;
mod policy;
mod service;
mod socket;
mod uplink;

pub use address::{Addr, Be16, Family};
pub use config::{NodeConfig, NodeState};
pub use drop::DropReason;
pub use event::{Event, EventClass, EventControl, EventHook, EventKind, EventLoss};
pub use flow::{Beginnings, FlowKey, FlowValue, FragmentKey, FragmentValue};
pub use layout::{LAYOUT, TableLayout, capacity, layout_hash};
pub use network::{NetworkKey, NetworkValue, OVERLAY_PORT, OVERLAY_VNI};
pub use pod::{GATEWAY_MAC, PodChange, PodValue};
pub use policy::{
    PodPolicy, PolicyDenial, PolicyFlow, PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict,
    PolicyVerdictKey, direction,
};
pub use service::{
    AffinityKey, AffinityValue, Backend, BlockRef, FrontendKey, FrontendValue, PodNetns, SourceRangeKey,
};
pub use socket::{DialledValue, SocketPeerKey, SocketPeerValue};
pub use uplink::UplinkValue;

/// IP protocol numbers, as IANA assigns them.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Asserts at compile time that a table type has the size its layout promises.
macro_rules! assert_size {
    ($($type:ty = $size:literal),+ $(,)?) => {
        $(const _: () = assert!(core::mem::size_of::<$type>() == $size);)+
    };
}
pub(crate) use assert_size;
