//! Types that the kernel reads and writes as bytes.
//!
//! Invariant: whatever implements [`Plain`] is the same bytes here as in the kernel
//! programs. This module must not know what any of them means.

use datapath::abi::{
    Addr, AffinityKey, AffinityValue, Backend, Beginnings, Event, EventControl, FlowKey, FlowValue, FragmentKey,
    FragmentValue, FrontendKey, FrontendValue, NetworkKey, NetworkValue, NodeConfig, NodeState, PodChange, PodNetns,
    PodValue, PolicyDenial, PolicyFlow, PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict,
    PolicyVerdictKey, SocketPeerKey, SocketPeerValue, SourceRangeKey, UplinkValue,
};

/// A type that is only its bytes.
///
/// # Safety
/// The type is `repr(C)` or `repr(transparent)`, has no padding, and every bit
/// pattern of its size is a value of it.
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: an integer, or a type of `datapath::abi`, whose invariant is exactly this one.
            unsafe impl Plain for $type {}
        )+
    };
}

plain!(
    u32,
    u64,
    Addr,
    AffinityKey,
    AffinityValue,
    Backend,
    Beginnings,
    Event,
    EventControl,
    FlowKey,
    FlowValue,
    FragmentKey,
    FragmentValue,
    FrontendKey,
    FrontendValue,
    NetworkKey,
    NetworkValue,
    NodeConfig,
    NodeState,
    PodChange,
    PodNetns,
    PodValue,
    PolicyDenial,
    PolicyFlow,
    PolicyNetworkKey,
    PolicyPeerKey,
    PolicyPortKey,
    PolicyVerdict,
    PolicyVerdictKey,
    SocketPeerKey,
    SocketPeerValue,
    SourceRangeKey,
    UplinkValue,
);

/// The bytes of a value.
pub(super) fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: the type is only its bytes, none of which is padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A value whose bytes come first in `bytes`.
///
/// # Panics
/// If there are too few.
pub(super) fn read<T: Plain>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>(), "{} bytes of {}", bytes.len(), size_of::<T>());
    // SAFETY: there are as many bytes, and any are a value of the type.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
