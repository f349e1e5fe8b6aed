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

/// The UDP port of VXLAN on every node, the one that Linux itself proposes.
pub const OVERLAY_PORT: u16 = 8472;

/// The overlay's VXLAN network identifier, RFC 7348: there is one overlay.
pub const OVERLAY_VNI: u32 = 1;

/// What a network is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NetworkValue {
    /// One of the kinds below.
    pub kind: u32,
    /// The node that has these pods, where packets go to it in VXLAN; else unspecified.
    pub tunnel: Addr,
}

impl NetworkValue {
    /// ClusterIPs: a packet for one that no Service has is dropped.
    pub const SERVICE: u32 = 1;
    /// One of this node's own addresses.
    pub const NODE: u32 = 2;
    /// Pods, of whatever node: their traffic to each other is not masqueraded, and as
    /// clients they are in the cluster.
    pub const PODS: u32 = 3;
    /// An address of another node: pods' traffic to it is not masqueraded, but as a
    /// client it comes from outside the cluster, as with kube-proxy.
    pub const PEER: u32 = 4;

    /// A network of a kind, reached without a tunnel.
    #[inline(always)]
    pub const fn of_kind(kind: u32) -> Self {
        Self { kind, tunnel: Addr::UNSPECIFIED }
    }
}

assert_size!(NetworkKey = 20, NetworkValue = 20);
