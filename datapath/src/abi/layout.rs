//! The tables by name, and a hash that tells one layout from another.

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
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $constant:ident $name:literal : $key:ty => $value:ty, $entries:expr;)+) => {
        /// How many entries each table holds.
        pub mod capacity {

            $($(#[doc = $doc])+ pub const $constant: u32 = $entries;)+
        }

        /// Every table.
        pub const LAYOUT: &[TableLayout] = &[$(TableLayout {
            name: $name,
            key: size_of::<$key>() as u32,
            value: size_of::<$value>() as u32,
            entries: $entries,
        }),+];
    };
}

tables! {
    /// The node; one entry.
    NODE_CONFIG "NODE_CONFIG": u32 => NodeConfig, 1;
    /// What the programs note of the node; one entry.
    NODE_STATE "NODE_STATE": u32 => NodeState, 1;
    /// Frontends, among them one a ClusterIP for its unused ports.
    FRONTENDS "FRONTENDS": FrontendKey => FrontendValue, 1 << 18;
    /// Backend ids, in blocks.
    BLOCKS "BLOCKS": u32 => u32, 1 << 20;
    /// Backends by id; id 0 is never used.
    BACKENDS "BACKENDS": u32 => Backend, 1 << 19;
    /// Connections by backend, of frontends for which they are counted.
    CONNECTIONS "CONNECTIONS": u32 => u32, 1 << 19;
    /// Connections that began, by [`FrontendValue::service`], per CPU. 0: of service ports for
    /// which there was no room.
    SERVICE_CONNECTIONS "SERVICE_CONNECTIONS": u32 => u64, 1 << 15;
    /// Whose clients a service port serves, by longest prefix. The value is 1.
    SOURCE_RANGES "SOURCE_RANGES": SourceRangeKey => u32, 1 << 16;
    /// Affinity; least recently used first out.
    AFFINITY "AFFINITY": AffinityKey => AffinityValue, 1 << 16;
    /// Pods on this node, by address.
    PODS "PODS": Addr => PodValue, 1 << 12;
    /// Pods on this node, by the cookie of their network namespace.
    POD_NETNS "POD_NETNS": u64 => PodNetns, 1 << 11;
    /// Networks, by longest prefix.
    NETWORKS "NETWORKS": NetworkKey => NetworkValue, 1 << 14;
    /// Interfaces to the world on which XDP is, by slot.
    UPLINKS "UPLINKS": u32 => UplinkValue, crate::abi::UplinkValue::SLOTS;
    /// Translated flows, both directions; least recently used first out.
    FLOWS "FLOWS": FlowKey => FlowValue, 1 << 17;
    /// How many flows began; one entry.
    BEGINNINGS "BEGINNINGS": u32 => Beginnings, 1;
    /// The flows that began last, by their number.
    BEGUN_FLOWS "BEGUN_FLOWS": u32 => FlowKey, crate::abi::Beginnings::REMEMBERED;
    /// Ports of fragmented datagrams; least recently used first out.
    FRAGMENTS "FRAGMENTS": FragmentKey => FragmentValue, 1 << 12;
    /// What connected sockets dialled, kept with each socket.
    DIALLED "DIALLED": u32 => DialledValue, 0;
    /// What unconnected sockets were told their peer is; least recently used first out.
    SOCKET_PEERS "SOCKET_PEERS": SocketPeerKey => SocketPeerValue, 1 << 16;
    /// Classes of peers that are pods.
    POLICY_PEERS "POLICY_PEERS": PolicyPeerKey => u32, 1 << 17;
    /// Classes of networks of peers, by longest prefix.
    POLICY_NETWORKS "POLICY_NETWORKS": PolicyNetworkKey => u32, 1 << 16;
    /// What sets of policies say of classes.
    POLICY_VERDICTS "POLICY_VERDICTS": PolicyVerdictKey => PolicyVerdict, 1 << 20;
    /// Ports that rules allow, by longest prefix.
    POLICY_PORTS "POLICY_PORTS": PolicyPortKey => u32, 1 << 18;
    /// How often what policies say has changed; one entry.
    POLICY_EPOCH "POLICY_EPOCH": u32 => u32, 1;
    /// Flows of pods that some policy selects; least recently used first out.
    POLICY_FLOWS "POLICY_FLOWS": FlowKey => PolicyFlow, 1 << 17;
    /// Packets that policies denied, by what did, per CPU.
    POLICY_DENIALS "POLICY_DENIALS": PolicyDenial => u64, 1 << 12;
    /// Drops by reason, per CPU.
    DROPS "DROPS": u32 => u64, crate::abi::DropReason::COUNT;
    /// Events, a ring of so many bytes.
    EVENTS "EVENTS": () => (), 1 << 20;
    /// Who listens to events; one entry.
    EVENT_CONTROL "EVENT_CONTROL": u32 => EventControl, 1;
    /// Events that were not told, by [`EventLoss`], per CPU.
    EVENT_LOSSES "EVENT_LOSSES": u32 => u64, crate::abi::EventLoss::COUNT;
}

/// Goes up when a field changes its meaning but not its place.
const MEANING: u64 = 7;

/// Tells this layout from every other: table names, sizes and capacities, by FNV-1a.
pub const fn layout_hash() -> u64 {
    let mut hash = mix(0xcbf2_9ce4_8422_2325, MEANING);
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
        i += 1;
    }
    hash
}

const fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3)
}
