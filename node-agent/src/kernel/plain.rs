//! Types that the kernel reads and writes as bytes.
//!
//! Invariant: whatever implements [`Plain`] is the same sixteen, twenty or thirty-two
//! bytes here as in the kernel programs. This module must not know what any of them means.

use datapath::abi::{
    Addr, Backend, FrontendKey, FrontendValue, NetworkKey, NetworkValue, NodeConfig, PodNetns, PodValue,
    SourceRangeKey, UplinkValue,
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
    Backend,
    FrontendKey,
    FrontendValue,
    NetworkKey,
    NetworkValue,
    NodeConfig,
    PodNetns,
    PodValue,
    SourceRangeKey,
    UplinkValue,
);
