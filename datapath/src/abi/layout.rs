//! The tables by name, what tells one layout of each from another, and a hash over all.
//!
//! An agent that finds tables of another layout takes from them what it can: a key's size and
//! a table's meaning must be its own, and values grow at their end only, where zeros say what
//! was so before there was more to say. What is changed otherwise needs another meaning.

use core::mem::size_of;

use super::*;

/// What the kernel is told of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLayout {
    /// The map's name in the object and on bpffs.
    pub name: &'static str,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Capacity in entries; 0: one for each socket.
    pub entries: u32,
    /// Goes up when a field of the key or value changes its meaning or its place, or the map its
    /// type. It stays when a value grows at its end by what is 0 where nothing is known of it.
    pub meaning: u32,
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $constant:ident $name:literal: $key:ty => $value:ty, $entries:expr, meaning $meaning:expr;)+) => {
        /// How many entries each table holds.
        pub mod capacity {
            use super::other;

            $($(#[doc = $doc])+ pub const $constant: u32 = $entries;)+
        }

        /// Every table.
        pub const LAYOUT: &[TableLayout] = &[$(TableLayout {
            name: $name,
            key: size_of::<$key>() as u32,
            value: size_of::<$value>() as u32,
            entries: $entries,
            meaning: $meaning,
        }),+];
    };
}

tables! {
    /// The node; one entry.
    NODE_CONFIG "NODE_CONFIG": u32 => NodeConfig, 1, meaning 1;
    /// What the programs note of the node; one entry.
    NODE_STATE "NODE_STATE": u32 => NodeState, 1, meaning 1;
    /// Frontends, among them one a ClusterIP for its unused ports.
    FRONTENDS "FRONTENDS": FrontendKey => FrontendValue, 1 << 18, meaning 1;
    /// Backend ids, in blocks.
    BLOCKS "BLOCKS": u32 => u32, other(1 << 20, 1 << 19), meaning 1;
    /// Backends by id; id 0 is never used.
    BACKENDS "BACKENDS": u32 => Backend, 1 << 19, meaning 1;
    /// Connections by backend, of frontends for which they are counted.
    CONNECTIONS "CONNECTIONS": u32 => u32, 1 << 19, meaning 1;
    /// Connections that began, by [`FrontendValue::service`], per CPU. 0: of service ports for
    /// which there was no room.
    SERVICE_CONNECTIONS "SERVICE_CONNECTIONS": u32 => u64, 1 << 15, meaning 1;
    /// Whose clients a service port serves, by longest prefix. The value is 1.
    SOURCE_RANGES "SOURCE_RANGES": SourceRangeKey => u32, 1 << 16, meaning 1;
    /// Affinity; least recently used first out.
    AFFINITY "AFFINITY": AffinityKey => AffinityValue, other(1 << 16, 1 << 15), meaning 1;
    /// Pods on this node, by address.
    PODS "PODS": Addr => PodValue, other(1 << 12, 1 << 13), meaning 1;
    /// Pods on this node, by the cookie of their network namespace.
    POD_NETNS "POD_NETNS": u64 => PodNetns, 1 << 11, meaning 1;
    /// Networks, by longest prefix.
    NETWORKS "NETWORKS": NetworkKey => NetworkValue, 1 << 14, meaning 1;
    /// Interfaces to the world on which XDP is, by slot.
    UPLINKS "UPLINKS": u32 => UplinkValue, crate::abi::UplinkValue::SLOTS, meaning 1;
    /// Translated flows, both directions; least recently used first out.
    FLOWS "FLOWS": FlowKey => FlowValue, 1 << 17, meaning 1;
    /// How many flows began; one entry.
    BEGINNINGS "BEGINNINGS": u32 => Beginnings, 1, meaning 1;
    /// The flows that began last, by their number.
    BEGUN_FLOWS "BEGUN_FLOWS": u32 => FlowKey, crate::abi::Beginnings::REMEMBERED, meaning 1;
    /// Ports of fragmented datagrams; least recently used first out.
    FRAGMENTS "FRAGMENTS": FragmentKey => FragmentValue, 1 << 12, meaning other(1, 2);
    /// What connected sockets dialled, kept with each socket.
    DIALLED "DIALLED": u32 => DialledValue, 0, meaning 1;
    /// What unconnected sockets were told their peer is; least recently used first out.
    SOCKET_PEERS "SOCKET_PEERS": SocketPeerKey => SocketPeerValue, other(1 << 16, 1 << 17), meaning 1;
    /// Classes of peers that are pods.
    POLICY_PEERS "POLICY_PEERS": PolicyPeerKey => u32, 1 << 17, meaning 1;
    /// Classes of networks of peers, by longest prefix.
    POLICY_NETWORKS "POLICY_NETWORKS": PolicyNetworkKey => u32, 1 << 16, meaning 1;
    /// What sets of policies say of classes.
    POLICY_VERDICTS "POLICY_VERDICTS": PolicyVerdictKey => PolicyVerdict, 1 << 20, meaning 1;
    /// Ports that rules allow, by longest prefix.
    POLICY_PORTS "POLICY_PORTS": PolicyPortKey => u32, 1 << 18, meaning 1;
    /// How often what policies say has changed; one entry.
    POLICY_EPOCH "POLICY_EPOCH": u32 => u32, 1, meaning 1;
    /// Flows of pods that some policy selects; least recently used first out.
    POLICY_FLOWS "POLICY_FLOWS": FlowKey => PolicyFlow, other(1 << 17, 1 << 16), meaning 1;
    /// Packets that policies denied, by what did, per CPU.
    POLICY_DENIALS "POLICY_DENIALS": PolicyDenial => u64, 1 << 12, meaning 1;
    /// Drops by reason, per CPU.
    DROPS "DROPS": u32 => u64, other(crate::abi::DropReason::COUNT, crate::abi::DropReason::COUNT + 4), meaning 1;
    /// Events, a ring of so many bytes.
    EVENTS "EVENTS": () => (), 1 << 20, meaning 1;
    /// Who listens to events; one entry.
    EVENT_CONTROL "EVENT_CONTROL": u32 => EventControl, 1, meaning 1;
    /// Events that were not told, by [`EventLoss`], per CPU.
    EVENT_LOSSES "EVENT_LOSSES": u32 => u64, crate::abi::EventLoss::COUNT, meaning 1;
}

/// What a table has, and what it has in the layout with which tests prove that versions whose
/// tables differ follow each other (the feature `layout-for-tests`).
const fn other(usual: u32, for_tests: u32) -> u32 {
    if cfg!(feature = "layout-for-tests") { for_tests } else { usual }
}

/// Tells this layout from every other: table names, sizes, capacities and meanings, by FNV-1a.
pub const fn layout_hash() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < LAYOUT.len() {
        let table = &LAYOUT[i];
        let name = table.name.as_bytes();
        let mut j = 0;
        while j < name.len() {
            hash = mix(hash, name[j] as u64);
            j += 1;
        }
        hash = mix(hash, table.key as u64);
        hash = mix(hash, table.value as u64);
        hash = mix(hash, table.entries as u64);
        hash = mix(hash, table.meaning as u64);
        i += 1;
    }
    hash
}

const fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3)
}
