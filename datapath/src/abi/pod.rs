//! Pods on this node, found by address.

use super::assert_size;

/// The MAC address of the node's end of every pod's veth pair. One address
/// serves them all: each pair is a link of its own.
pub const GATEWAY_MAC: [u8; 6] = [0x0a, 0xfa, 0x1e, 0xad, 0x00, 0x01];

/// Where a local pod is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PodValue {
    /// The node's end of the pod's veth pair.
    pub ifindex: u32,
    /// Bits below.
    pub flags: u32,
    /// For which protocols the pod has been the client of a translated flow, see
    /// [`PodValue::client_bit`]: only packets of these need a look-up before they
    /// reach the pod. And for which it has been the backend of a client that is no
    /// pod of this node, see [`PodValue::server_bit`]. Written by the kernel programs;
    /// the agent replaces an entry only while the pod is held, when no flow can begin,
    /// and has words of it changed otherwise, see [`PodChange`].
    pub nat_protocols: u32,
    /// The MAC address of the pod's end.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
    /// See [`super::PodPolicy::set`].
    pub policy_set: u32,
    /// Monotonic seconds when policies selected the pod after it had been open to all, so that
    /// it may have flows that nobody noted; 0: it never was, while they selected it. Written by
    /// the kernel programs.
    pub judged_since: u32,
}

impl PodValue {
    /// The pod is shut to all but the node: its Pod object or its policies are
    /// not in force yet.
    pub const HELD: u32 = 1 << 0;
    /// Somebody's queueing discipline is at the node's end of the pair: what goes to the
    /// pod has to pass by it, on the interface's egress.
    pub const SHAPED: u32 = 1 << 1;

    /// All of [`PodValue::client_bit`].
    pub const CLIENT_BITS: u32 = 0xffff;

    /// Whether some policy selects the pod.
    #[inline(always)]
    pub const fn is_judged(&self) -> bool {
        self.policy_set != 0
    }

    /// Whether packets to the pod, as far as they need no translation, go straight in.
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        self.flags | self.policy_set == 0
    }

    /// The bit for an IP protocol of which something has been a client.
    #[inline(always)]
    pub const fn client_bit(protocol: u8) -> u32 {
        match protocol {
            super::protocol::TCP => 1 << 0,
            super::protocol::UDP => 1 << 1,
            super::protocol::SCTP => 1 << 2,
            _ => 1 << 3,
        }
    }

    /// The bit for an IP protocol of which something has been a backend.
    #[inline(always)]
    pub const fn server_bit(protocol: u8) -> u32 {
        Self::servers(Self::client_bit(protocol))
    }

    /// The servers' bits of the protocols of which these are the clients'.
    #[inline(always)]
    pub const fn servers(clients: u32) -> u32 {
        clients << 16
    }
}

/// What the agent asks the program `change_pod` to write into the entry of an open pod.
///
/// An update from user space replaces an entry, and what a program notes in the old one
/// meanwhile would be lost.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodChange {
    /// The pod's address.
    pub addr: super::Addr,
    /// Its device's index and address, by which it must be known, and the new flags and
    /// policies; the rest of the entry is left to the kernel programs.
    pub value: PodValue,
}

impl PodChange {
    /// What the program returns when it has written.
    pub const WRITTEN: u32 = 1;
    /// What it returns when the pod isn't there.
    pub const NO_POD: u32 = 2;
}

assert_size!(PodValue = 28, PodChange = 44);
