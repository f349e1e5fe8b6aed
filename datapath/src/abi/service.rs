//! Services: frontends, backend blocks, backends, affinity.
//!
//! ```text
//! frontends[address, port, protocol] ── internal ─┐
//!                                    ── external ─┤ base, len
//! blocks   [ id id id | id id | … ]  ◄────────────┘
//! backends [ id ] = address, port, generation
//! ```

use super::{Addr, Be16, Family, assert_size};

/// Where a client dials: an address, port and protocol that a Service owns.
///
/// With `port` and `protocol` 0 it stands for the whole address. Every address at
/// which there is any frontend has such an entry, so one look-up tells what is no
/// Service's at all. With an unspecified address it stands for a NodePort, at
/// every address whose entry has [`FrontendValue::NODE_PORTS`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FrontendKey {
    /// The Service's address.
    pub addr: Addr,
    /// The Service's port.
    pub port: Be16,
    /// An IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

impl FrontendKey {
    /// The frontend at an address, port and protocol.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Be16, protocol: u8) -> Self {
        Self { addr, port, protocol, pad: 0 }
    }

    /// A NodePort, at each of the node's addresses that has NodePorts.
    #[inline(always)]
    pub const fn node_port(family: Family, port: Be16, protocol: u8) -> Self {
        let addr = match family {
            Family::V4 => Addr::v4(0),
            Family::V6 => Addr::UNSPECIFIED,
        };
        Self::new(addr, port, protocol)
    }

    /// The entry that stands for every port of an address.
    #[inline(always)]
    pub const fn whole_address(addr: Addr) -> Self {
        Self::new(addr, Be16::ZERO, 0)
    }
}

/// A run of backend ids in the blocks table. Immutable once a frontend names it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BlockRef {
    /// Index of the first id.
    pub base: u32,
    /// How many ids; 0: no endpoint.
    pub len: u32,
}

/// What a frontend does with its clients.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FrontendValue {
    /// The service port's id: shared by all frontends of one port of one Service
    /// and family, and by no other. 0 only in the entry for a whole address,
    /// which has no backends.
    pub service: u32,
    /// Bits below.
    pub flags: u32,
    /// Backends for clients in the cluster.
    pub internal: BlockRef,
    /// Backends for clients outside.
    pub external: BlockRef,
    /// Session affinity by client address lasts this long since the last
    /// connection; 0: none.
    pub affinity_seconds: u32,
    /// Zero.
    pub pad: u32,
}

impl FrontendValue {
    /// An empty internal block drops instead of rejecting: the Service has
    /// endpoints, but `internalTrafficPolicy: Local` leaves none here.
    pub const DROP_INTERNAL: u32 = 1 << 0;
    /// The same for the external block and `externalTrafficPolicy: Local`.
    pub const DROP_EXTERNAL: u32 = 1 << 1;
    /// A NodePort, an external IP or a load balancer's IP: masqueraded by the rules for
    /// these rather than by those for ClusterIPs.
    pub const EXTERNAL: u32 = 1 << 2;
    /// With [`Self::EXTERNAL`]: clients keep their address (`externalTrafficPolicy:
    /// Local`, hostPorts), except the node itself.
    pub const KEEP_CLIENT: u32 = 1 << 3;
    /// Only clients in the service port's source ranges are served, others are dropped.
    pub const SOURCE_RANGES: u32 = 1 << 4;
    /// The external block is a Maglev table: the client's flow is hashed into it.
    pub const MAGLEV: u32 = 1 << 5;
    /// Of two random backends the one with fewer connections serves, which are counted.
    pub const LEAST_CONNECTIONS: u32 = 1 << 6;
    /// The internal block is the service port's Local set, else its Cluster set.
    pub const INTERNAL_LOCAL: u32 = 1 << 7;
    /// The same for the external block.
    pub const EXTERNAL_LOCAL: u32 = 1 << 8;

    /// Of a whole address: NodePorts are served here.
    pub const NODE_PORTS: u32 = 1 << 16;
    /// Of a whole address: ports that are nobody's are none of our business, instead
    /// of being rejected.
    pub const PASS_UNUSED: u32 = 1 << 17;
}

/// One endpoint of one service port, found by its id.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Backend {
    /// The endpoint's address.
    pub addr: Addr,
    /// The endpoint's port.
    pub port: Be16,
    /// Bits below; 0 when the id is free.
    pub flags: u16,
    /// The service port that it serves, see [`FrontendValue::service`].
    pub service: u32,
    /// Goes up each time the id is given to another endpoint, so that a flow
    /// can tell its backend from a later owner of the id.
    pub generation: u32,
    /// Zero.
    pub pad: u32,
}

impl Backend {
    /// Flows to it may go on: it is ready, or serving though terminating.
    pub const ALIVE: u16 = 1 << 0;
    /// It is in the service port's Cluster set, so affinity to it holds where that set serves.
    pub const IN_CLUSTER: u16 = 1 << 1;
    /// It is in the service port's Local set, so affinity to it holds where that set serves.
    pub const IN_LOCAL: u16 = 1 << 2;
    /// It runs on this node.
    pub const LOCAL: u16 = 1 << 3;
}

/// A network whose clients a service port with [`FrontendValue::SOURCE_RANGES`]
/// serves, in the form that the kernel's LPM trie wants.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceRangeKey {
    /// Significant bits after this field: 32, and those of the prefix (an IPv4
    /// prefix's plus 96).
    pub prefix_len: u32,
    /// See [`FrontendValue::service`].
    pub service: u32,
    /// The network's address.
    pub addr: Addr,
}

impl SourceRangeKey {
    /// The bits of `service`, which always count.
    pub const SERVICE_BITS: u32 = 32;
}

/// Whose affinity: a client's address and a service port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AffinityKey {
    /// The client's own address, whatever path it came by.
    pub client: Addr,
    /// See [`FrontendValue::service`].
    pub service: u32,
}

/// To which backend a client is bound.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AffinityValue {
    /// The backend's id.
    pub backend: u32,
    /// Its generation when it was bound.
    pub generation: u32,
    /// Monotonic nanoseconds at the client's last new connection.
    pub last_used: u64,
}

/// The addresses of the pod that owns a network namespace, found by the
/// namespace's cookie (`SO_NETNS_COOKIE`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PodNetns {
    /// Its IPv4 address, or unspecified.
    pub v4: Addr,
    /// Its IPv6 address, or unspecified.
    pub v6: Addr,
}

assert_size!(
    FrontendKey = 20,
    BlockRef = 8,
    FrontendValue = 32,
    Backend = 32,
    SourceRangeKey = 24,
    AffinityKey = 20,
    AffinityValue = 16,
    PodNetns = 32,
);
