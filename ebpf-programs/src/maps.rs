//! The tables as BPF maps. Names, types and capacities are those of `datapath::abi::LAYOUT`.
//!
//! Hashes that the agent writes are not preallocated: only then does the kernel
//! free a replaced element after a grace period, so that a program which still
//! reads it never sees another entry's bytes.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use datapath::abi::{
    AffinityKey, AffinityValue, Backend, Beginnings, DialledValue, EventClass, EventControl, FlowKey, FlowValue,
    FragmentKey, FragmentValue, FrontendKey, FrontendValue, NetworkValue, NodeConfig, NodeState, PodNetns, PodValue,
    PolicyDenial, PolicyFlow, PolicyPeerKey, PolicyVerdict, PolicyVerdictKey, SocketPeerKey, SocketPeerValue,
    UplinkValue, capacity,
};
use datapath::{event::Budget, paths::Work};

use crate::{clock::Asked, concern::Concern, next_hop::NextHop};

#[map]
pub static NODE_CONFIG: Array<NodeConfig> = Array::with_max_entries(capacity::NODE_CONFIG, 0);

#[map]
pub static NODE_STATE: Array<NodeState> = Array::with_max_entries(capacity::NODE_STATE, 0);

#[map]
pub static FRONTENDS: HashMap<FrontendKey, FrontendValue> =
    HashMap::with_max_entries(capacity::FRONTENDS, BPF_F_NO_PREALLOC);

#[map]
pub static BLOCKS: Array<u32> = Array::with_max_entries(capacity::BLOCKS, BPF_F_MMAPABLE);

#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(capacity::BACKENDS, BPF_F_MMAPABLE);

#[map]
pub static CONNECTIONS: Array<u32> = Array::with_max_entries(capacity::CONNECTIONS, 0);

#[map]
pub static SERVICE_CONNECTIONS: PerCpuHashMap<u32, u64> =
    PerCpuHashMap::with_max_entries(capacity::SERVICE_CONNECTIONS, BPF_F_NO_PREALLOC);

#[map]
pub static SOURCE_RANGES: LpmTrie<[u32; 5], u32> =
    LpmTrie::with_max_entries(capacity::SOURCE_RANGES, BPF_F_NO_PREALLOC);

#[map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::with_max_entries(capacity::AFFINITY, 0);

#[map]
pub static PODS: HashMap<datapath::abi::Addr, PodValue> = HashMap::with_max_entries(capacity::PODS, BPF_F_NO_PREALLOC);

#[map]
pub static POD_NETNS: HashMap<u64, PodNetns> = HashMap::with_max_entries(capacity::POD_NETNS, BPF_F_NO_PREALLOC);

#[map]
pub static NETWORKS: LpmTrie<[u32; 4], NetworkValue> = LpmTrie::with_max_entries(capacity::NETWORKS, BPF_F_NO_PREALLOC);

#[map]
pub static UPLINKS: Array<UplinkValue> = Array::with_max_entries(capacity::UPLINKS, 0);

#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowValue> = LruHashMap::with_max_entries(capacity::FLOWS, 0);

#[map]
pub static BEGINNINGS: Array<Beginnings> = Array::with_max_entries(capacity::BEGINNINGS, 0);

#[map]
pub static BEGUN_FLOWS: Array<FlowKey> = Array::with_max_entries(capacity::BEGUN_FLOWS, 0);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::with_max_entries(capacity::FRAGMENTS, 0);

#[btf_map]
pub static DIALLED: SkStorage<DialledValue> = SkStorage::new();

#[map]
pub static SOCKET_PEERS: LruHashMap<SocketPeerKey, SocketPeerValue> =
    LruHashMap::with_max_entries(capacity::SOCKET_PEERS, 0);

#[map]
pub static POLICY_PEERS: HashMap<PolicyPeerKey, u32> =
    HashMap::with_max_entries(capacity::POLICY_PEERS, BPF_F_NO_PREALLOC);

#[map]
pub static POLICY_NETWORKS: LpmTrie<[u32; 5], u32> =
    LpmTrie::with_max_entries(capacity::POLICY_NETWORKS, BPF_F_NO_PREALLOC);

#[map]
pub static POLICY_VERDICTS: HashMap<PolicyVerdictKey, PolicyVerdict> =
    HashMap::with_max_entries(capacity::POLICY_VERDICTS, BPF_F_NO_PREALLOC);

#[map]
pub static POLICY_PORTS: LpmTrie<[u32; 2], u32> = LpmTrie::with_max_entries(capacity::POLICY_PORTS, BPF_F_NO_PREALLOC);

#[map]
pub static POLICY_EPOCH: Array<u32> = Array::with_max_entries(capacity::POLICY_EPOCH, 0);

#[map]
pub static POLICY_FLOWS: LruHashMap<FlowKey, PolicyFlow> = LruHashMap::with_max_entries(capacity::POLICY_FLOWS, 0);

#[map]
pub static POLICY_DENIALS: PerCpuHashMap<PolicyDenial, u64> =
    PerCpuHashMap::with_max_entries(capacity::POLICY_DENIALS, 0);

#[map]
pub static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(capacity::DROPS, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

#[map]
pub static EVENT_CONTROL: Array<EventControl> = Array::with_max_entries(capacity::EVENT_CONTROL, 0);

#[map]
pub static EVENT_LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(capacity::EVENT_LOSSES, 0);

/// What of its allowance each CPU has left. Of no concern to the agent, and never pinned.
#[map]
pub static EVENT_BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(EventClass::COUNT, 0);

/// What a program has at hand while it judges a packet. Of no concern to the agent, and never pinned.
#[map]
pub static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// What time it was last. Of no concern to the agent, and never pinned.
#[map]
pub static CLOCK: PerCpuArray<Asked> = PerCpuArray::with_max_entries(1, 0);

/// Which addresses are ours, as far as packets at XDP have asked. Of no concern to the agent, and never pinned.
#[map]
pub static CONCERNS: PerCpuArray<Concern> = PerCpuArray::with_max_entries(Concern::SLOTS, 0);

/// Where packets were last sent by XDP. Of no concern to the agent, and never pinned.
#[map]
pub static NEXT_HOPS: PerCpuArray<NextHop> = PerCpuArray::with_max_entries(NextHop::SLOTS, 0);

/// In which of so many slots, a power of two, something is remembered that mixes to this.
#[inline(always)]
pub const fn slot(mixed: u32, slots: u32) -> u32 {
    mixed.wrapping_mul(0x9e37_79b1) / (u32::MAX / slots + 1)
}
