//! What the programs must know of the node they run on, and what they note of it.

use super::{Addr, Be16, Family, assert_size};

/// The node: the only entry of its table, written by the agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeConfig {
    /// `SO_NETNS_COOKIE` of the node's network namespace.
    pub netns_cookie: u64,
    /// The node's primary IPv4 address, or unspecified; masquerading uses it.
    pub v4: Addr,
    /// The node's primary IPv6 address, or unspecified.
    pub v6: Addr,
    /// First port that masquerading may use; no socket of the node's gets one of these.
    pub snat_port_first: u16,
    /// Last port that masquerading may use.
    pub snat_port_last: u16,
    /// The interface through which the node's own packets for Services are led.
    pub host_ifindex: u32,
    /// The VXLAN device, 0: there is none.
    pub overlay_ifindex: u32,
    /// Bits below.
    pub flags: u32,
    /// Until then, in monotonic nanoseconds, no flow of TCP or SCTP begins: programs over other
    /// tables are taking these ones' place, which couldn't know it yet.
    pub held_until: u64,
}

impl NodeConfig {
    /// Whatever goes to a ClusterIP is masqueraded (`--masquerade-all`).
    pub const MASQUERADE_ALL: u32 = 1 << 0;
    /// What this node's pods send to outside the cluster is masqueraded.
    pub const MASQUERADE_PODS: u32 = 1 << 1;
    /// Clients outside are answered by their backends' nodes (`--load-balancer-mode=dsr`).
    pub const DIRECT_ANSWERS: u32 = 1 << 2;
    /// Netfilter may know connections to Services that began before us, or translate others still:
    /// what opens no connection and belongs to no flow of ours is left to it.
    pub const HANDOVER: u32 = 1 << 3;

    /// Its address of a family, by which masquerading hides others; unspecified: it has none.
    #[inline(always)]
    pub const fn address(&self, family: Family) -> Addr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The first and last port for masquerading.
    #[inline(always)]
    pub const fn snat_ports(&self) -> (Be16, Be16) {
        (Be16::new(self.snat_port_first), Be16::new(self.snat_port_last))
    }
}

/// What the programs themselves note of the node: the only entry of its table. The
/// agent only reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeState {
    /// For which protocols the node itself has been the backend of a translated flow,
    /// see [`super::PodValue::server_bit`]. Only its packets of these need a look-up
    /// before they leave.
    /// And [`NodeState::COUNTED`].
    pub nat_protocols: u32,
}

impl NodeState {
    /// Something has been counted among a backend's connections: closed sockets need a
    /// look-up, and the counts to be put right now and then.
    pub const COUNTED: u32 = 1 << 0;
}

assert_size!(NodeConfig = 64, NodeState = 4);
