//! Tracked flows: how each packet of a translated flow is rewritten.

use super::{Addr, Be16, assert_size};

/// A flow in one direction, as its packets arrive.
///
/// The identifier of an ICMP echo stands for the source port of the request and for
/// the destination port of the reply, whose other port is 0: so a request is never
/// taken for a reply.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowKey {
    /// The packet's source address.
    pub src: Addr,
    /// The packet's destination address.
    pub dst: Addr,
    /// The packet's source port.
    pub src_port: Be16,
    /// The packet's destination port.
    pub dst_port: Be16,
    /// An IP protocol number.
    pub protocol: u32,
}

impl FlowKey {
    /// The key of packets that travel the other way.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, protocol: self.protocol }
    }

    /// What a packet becomes that answers one of these: no more than its addresses and ports.
    #[inline(always)]
    pub const fn mirrored(&self) -> FlowValue {
        FlowValue { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..FlowValue::EMPTY }
    }
}

/// What a packet of the flow becomes, and on whose account.
///
/// Each translated flow has two entries: the forward one (client to frontend)
/// and the reverse one (backend to client), each other's mirror.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowValue {
    /// The source address to write.
    pub src: Addr,
    /// The destination address to write.
    pub dst: Addr,
    /// The source port to write.
    pub src_port: Be16,
    /// The destination port to write.
    pub dst_port: Be16,
    /// See [`super::FrontendValue::service`]; 0: a pod's flow to outside the cluster.
    pub service: u32,
    /// The backend's id; 0 with service 0.
    pub backend: u32,
    /// The backend's generation when the flow began.
    pub generation: u32,
    /// Bits below.
    pub flags: u32,
    /// Monotonic seconds when the last packet passed.
    pub last_seen: u32,
    /// What another version might add.
    #[cfg(feature = "layout-for-tests")]
    pub spare: u64,
}

impl FlowValue {
    /// Of no flow.
    pub const EMPTY: Self = Self {
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        src_port: Be16::ZERO,
        dst_port: Be16::ZERO,
        service: 0,
        backend: 0,
        generation: 0,
        flags: 0,
        last_seen: 0,
        #[cfg(feature = "layout-for-tests")]
        spare: 0,
    };

    /// The entry is for packets from the backend.
    pub const REVERSE: u32 = 1 << 0;
    /// TCP and SCTP: a packet other than the opening SYN or INIT has been seen.
    pub const ESTABLISHED: u32 = 1 << 1;
    /// TCP: a FIN or RST has been seen; the next SYN begins a new flow.
    pub const CLOSING: u32 = 1 << 2;
    /// The client is outside the cluster, see [`super::FrontendValue::external`].
    pub const EXTERNAL: u32 = 1 << 3;
    /// What the packet becomes is neither for a pod of this node nor for the node
    /// itself: it goes out by the network, wherever the node's routes lead it.
    pub const OUT: u32 = 1 << 4;
    /// Of a forward entry: it counts as one of its backend's connections.
    pub const COUNTED: u32 = 1 << 5;
    /// Of a forward entry: the backend's node answers the client itself, and is told by the
    /// flow's first packets what the client dialled. With [`Self::ESTABLISHED`] a UDP flow
    /// is older than a second.
    pub const DIRECT: u32 = 1 << 6;
    /// Of a forward entry of TCP or SCTP: from this bit on the number under which the flow is
    /// remembered until others have begun after it, modulo 2^24, see [`Beginnings`].
    pub const NUMBER_SHIFT: u32 = 8;

    /// The number under which the flow is remembered.
    #[inline(always)]
    pub const fn number(&self) -> u32 {
        self.flags >> Self::NUMBER_SHIFT
    }
}

/// How many flows of TCP and SCTP have begun: the only entry of its table, which the
/// programs write.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Beginnings {
    /// As many; the next one's number.
    pub begun: u64,
    /// How many of them made room for later ones, because nobody had opened them.
    pub unopened: u64,
}

impl Beginnings {
    /// How many flows are remembered: those that began last. A power of two. They have twice as
    /// many entries, a fourth of what their table holds.
    pub const REMEMBERED: u32 = 1 << 14;

    /// Where a flow with this number is remembered.
    #[inline(always)]
    pub const fn slot(number: u32) -> u32 {
        number % Self::REMEMBERED
    }

    /// The number of the flow that was remembered there before.
    #[inline(always)]
    pub const fn before(number: u32) -> u32 {
        number.wrapping_sub(Self::REMEMBERED) << FlowValue::NUMBER_SHIFT >> FlowValue::NUMBER_SHIFT
    }
}

/// A fragmented datagram, RFC 791 and RFC 8200: only its first fragment has ports.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey {
    /// The packet's source address.
    pub src: Addr,
    /// The packet's destination address.
    pub dst: Addr,
    /// The identification field, as it lies in the packet.
    pub id: u32,
    /// The protocol that every fragment names: that of the IPv4 header, or of the
    /// header after IPv6's fragment header, which need not be the transport.
    pub protocol: u32,
}

/// What the first fragment of a datagram had.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentValue {
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// The transport's IP protocol number.
    pub protocol: u32,
}

assert_size!(FlowKey = 40, Beginnings = 16, FragmentKey = 40, FragmentValue = 8);
#[cfg(not(feature = "layout-for-tests"))]
assert_size!(FlowValue = 56);
