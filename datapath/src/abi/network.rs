//! Networks whose packets are treated alike, found by longest prefix.

use super::{Addr, assert_size};

/// A prefix, in the form that the kernel's LPM trie wants.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NetworkKey {
    /// Significant bits of `addr`: those of an IPv4 prefix plus 96.
    pub prefix_len: u32,
    /// The network's address.
    pub addr: Addr,
}

/// What a network is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NetworkValue {
    /// One of the kinds below.
    pub kind: u32,
}

impl NetworkValue {
    /// ClusterIPs: a packet for one that no Service has is dropped.
    pub const SERVICE: u32 = 1;
    /// One of this node's own addresses.
    pub const NODE: u32 = 2;
}

assert_size!(NetworkKey = 20, NetworkValue = 4);
