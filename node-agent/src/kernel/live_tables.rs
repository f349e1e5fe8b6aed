//! The node's tables as they are now, for whoever wants to know what the programs would do.
//!
//! Invariant: nothing is changed by asking. What a decision writes stays here, where later
//! look-ups find it, and the kernel's entries are only read (by system calls, which don't
//! count as use where the least recently used goes first). An entry that was read once
//! stays as it was, so that one question gets one answer. This module must not know what
//! is decided.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    hash::{BuildHasher, Hash, RandomState},
    path::Path,
};

use datapath::{
    abi::{
        Addr, AffinityKey, AffinityValue, Backend, FlowKey, FlowValue, FragmentKey, FragmentValue, FrontendKey,
        FrontendValue, NetworkKey, NetworkValue, NodeConfig, NodeState, PodNetns, PodValue, PolicyDenial, PolicyFlow,
        PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey, SocketPeerKey,
        SocketPeerValue, SourceRangeKey,
    },
    memory::next_random,
    policy::PolicyTables,
    tables::{Inserted, Tables},
};
use elsa::FrozenMap;

use super::{
    clock,
    counters::Counters,
    map::{MapError, Table},
    plain::Plain,
};

/// The bits of any address.
const ADDRESS_BITS: u32 = 128;

/// The pinned tables of the node, as if they were one's own.
pub struct LiveTables {
    node: Cached<u32, NodeConfig>,
    node_state: Cached<u32, NodeState>,
    frontends: Cached<FrontendKey, FrontendValue>,
    blocks: Cached<u32, u32>,
    backends: Cached<u32, Backend>,
    connections: Cached<u32, u32>,
    service_connections: Counters<u32>,
    source_ranges: Cached<SourceRangeKey, u32>,
    affinity: Cached<AffinityKey, AffinityValue>,
    pods: Cached<Addr, PodValue>,
    pod_netns: Cached<u64, PodNetns>,
    networks: Cached<NetworkKey, NetworkValue>,
    flows: Cached<FlowKey, FlowValue>,
    fragments: Cached<FragmentKey, FragmentValue>,
    socket_peers: Cached<SocketPeerKey, SocketPeerValue>,
    policy_peers: Cached<PolicyPeerKey, u32>,
    policy_networks: Cached<PolicyNetworkKey, u32>,
    policy_verdicts: Cached<PolicyVerdictKey, PolicyVerdict>,
    policy_ports: Cached<PolicyPortKey, u32>,
    policy_epoch: Cached<u32, u32>,
    policy_flows: Cached<FlowKey, PolicyFlow>,
    /// The first look-up that the kernel refused.
    trouble: Trouble,
    now: u64,
    random: u64,
}

type Trouble = RefCell<Option<MapError>>;

/// A table, and what is known of it here.
struct Cached<K, V> {
    table: Table<K, V>,
    known: FrozenMap<K, Box<Option<V>>>,
}

impl<K: Plain + Eq + Hash, V: Plain> Cached<K, V> {
    fn open(dir: &Path, name: &'static str) -> Result<Self, MapError> {
        Ok(Self { table: Table::open(dir, name)?, known: FrozenMap::new() })
    }

    fn get(&self, key: &K, trouble: &Trouble) -> Option<&V> {
        let known = self.known.get(key).unwrap_or_else(|| {
            let read = self.table.get(key).unwrap_or_else(|error| {
                trouble.borrow_mut().get_or_insert(error);
                None
            });
            self.known.insert(*key, Box::new(read))
        });
        known.as_ref()
    }

    fn get_mut(&mut self, key: &K, trouble: &Trouble) -> Option<&mut V> {
        self.get(key, trouble)?;
        self.known.as_mut().get_mut(key).and_then(|known| known.as_mut().as_mut())
    }

    fn set(&mut self, key: &K, value: Option<V>) {
        self.known.as_mut().insert(*key, Box::new(value));
    }
}

impl LiveTables {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        let now = clock::nanos();
        Ok(Self {
            node: Cached::open(dir, "NODE_CONFIG")?,
            node_state: Cached::open(dir, "NODE_STATE")?,
            frontends: Cached::open(dir, "FRONTENDS")?,
            blocks: Cached::open(dir, "BLOCKS")?,
            backends: Cached::open(dir, "BACKENDS")?,
            connections: Cached::open(dir, "CONNECTIONS")?,
            service_connections: Counters::open(dir, "SERVICE_CONNECTIONS")?,
            source_ranges: Cached::open(dir, "SOURCE_RANGES")?,
            affinity: Cached::open(dir, "AFFINITY")?,
            pods: Cached::open(dir, "PODS")?,
            pod_netns: Cached::open(dir, "POD_NETNS")?,
            networks: Cached::open(dir, "NETWORKS")?,
            flows: Cached::open(dir, "FLOWS")?,
            fragments: Cached::open(dir, "FRAGMENTS")?,
            socket_peers: Cached::open(dir, "SOCKET_PEERS")?,
            policy_peers: Cached::open(dir, "POLICY_PEERS")?,
            policy_networks: Cached::open(dir, "POLICY_NETWORKS")?,
            policy_verdicts: Cached::open(dir, "POLICY_VERDICTS")?,
            policy_ports: Cached::open(dir, "POLICY_PORTS")?,
            policy_epoch: Cached::open(dir, "POLICY_EPOCH")?,
            policy_flows: Cached::open(dir, "POLICY_FLOWS")?,
            trouble: RefCell::default(),
            now,
            random: RandomState::new().hash_one(now),
        })
    }

    /// The first look-up that the kernel refused, which was answered as if nothing were there.
    pub fn trouble(&self) -> Option<MapError> {
        self.trouble.take()
    }

    /// Shows every backend that somebody may reach, with its id. Takes milliseconds.
    pub fn each_backend(&self, mut visit: impl FnMut(u32, Backend)) -> Result<(), MapError> {
        self.backends.table.for_each(|id, backend| {
            if backend.flags != 0 {
                visit(id, backend);
            }
        })
    }

    /// How many connections began, by [`FrontendValue::service`].
    pub fn service_connections(&self) -> Result<BTreeMap<u32, u64>, MapError> {
        self.service_connections.all()
    }

    /// Shows the entries of flows, as [`Table::some`] does.
    pub fn some_flows(
        &self,
        after: Option<u32>,
        visit: impl FnMut(FlowKey, FlowValue),
        more: impl FnMut() -> bool,
    ) -> Result<Option<u32>, MapError> {
        self.flows.table.some(after, visit, more)
    }
}

impl Tables for LiveTables {
    fn node(&self) -> Option<&NodeConfig> {
        self.node.get(&0, &self.trouble)
    }
    fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue> {
        self.frontends.get(key, &self.trouble)
    }
    fn block_entry(&self, index: u32) -> Option<u32> {
        self.blocks.get(&index, &self.trouble).copied()
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id, &self.trouble)
    }
    fn connections(&self, id: u32) -> u32 {
        // As the programs read what was taken away once too often.
        self.connections.get(&id, &self.trouble).map_or(0, |count| (*count as i32).max(0) as u32)
    }
    fn add_connection(&mut self, id: u32) {
        if let Some(count) = self.connections.get_mut(&id, &self.trouble) {
            *count = count.wrapping_add(1);
        }
    }
    fn remove_connection(&mut self, id: u32) {
        if let Some(count) = self.connections.get_mut(&id, &self.trouble) {
            *count = count.wrapping_sub(1);
        }
    }
    fn count_service(&mut self, _: u32) {
        // Nothing began but in thought.
    }
    fn affinity(&self, key: &AffinityKey) -> Option<&AffinityValue> {
        self.affinity.get(key, &self.trouble)
    }
    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        self.affinity.set(key, Some(*value));
    }
    fn pod(&self, addr: &Addr) -> Option<&PodValue> {
        self.pods.get(addr, &self.trouble)
    }
    fn mark_nat(&mut self, pod: &Addr, bit: u32) {
        if let Some(pod) = self.pods.get_mut(pod, &self.trouble) {
            pod.nat_protocols |= bit;
        }
    }
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns> {
        self.pod_netns.get(&cookie, &self.trouble)
    }
    fn network(&self, addr: &Addr) -> Option<&NetworkValue> {
        self.networks.get(&NetworkKey { prefix_len: ADDRESS_BITS, addr: *addr }, &self.trouble)
    }
    fn in_source_ranges(&self, service: u32, client: &Addr) -> bool {
        let prefix_len = SourceRangeKey::SERVICE_BITS + ADDRESS_BITS;
        self.source_ranges.get(&SourceRangeKey { prefix_len, service, addr: *client }, &self.trouble).is_some()
    }
    fn node_nat(&self) -> u32 {
        self.node_state.get(&0, &self.trouble).map_or(0, |state| state.nat_protocols)
    }
    fn mark_node_nat(&mut self, bit: u32) {
        if let Some(state) = self.node_state.get_mut(&0, &self.trouble) {
            state.nat_protocols |= bit;
        }
    }
    fn flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        self.flows.get_mut(key, &self.trouble).map(read)
    }
    fn insert_flow(&mut self, key: &FlowKey, value: &FlowValue) -> Inserted {
        if self.flows.get(key, &self.trouble).is_some() {
            return Inserted::Exists;
        }
        self.flows.set(key, Some(*value));
        Inserted::New
    }
    fn begin<R>(&mut self, _: impl FnOnce(u32, &mut FlowKey) -> R) -> Option<R> {
        // Which other flow makes room says nothing of the one that is asked about.
        None
    }
    fn count_unopened(&mut self) {
        // None has made room but in thought.
    }
    fn remove_flow(&mut self, key: &FlowKey) {
        self.flows.set(key, None);
    }
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentValue> {
        self.fragments.get(key, &self.trouble)
    }
    fn set_fragment(&mut self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.set(key, Some(*value));
    }
    fn socket_peer(&self, key: &SocketPeerKey) -> Option<&SocketPeerValue> {
        self.socket_peers.get(key, &self.trouble)
    }
    fn remove_socket_peer(&mut self, key: &SocketPeerKey) {
        self.socket_peers.set(key, None);
    }
    fn set_socket_peer(&mut self, key: &SocketPeerKey, value: &SocketPeerValue) {
        self.socket_peers.set(key, Some(*value));
    }
    fn policy_epoch(&self) -> u32 {
        self.policy_epoch.get(&0, &self.trouble).copied().unwrap_or(0)
    }
    fn policy_flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut PolicyFlow) -> R) -> Option<R> {
        self.policy_flows.get_mut(key, &self.trouble).map(read)
    }
    fn set_policy_flow(&mut self, key: &FlowKey, value: &PolicyFlow) {
        self.policy_flows.set(key, Some(*value));
    }
    fn count_denial(&mut self, _: &PolicyDenial) {
        // Nothing was denied but in thought.
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn random(&mut self) -> u32 {
        next_random(&mut self.random)
    }
}

impl PolicyTables for LiveTables {
    fn policy_peer(&self, key: &PolicyPeerKey) -> Option<u32> {
        self.policy_peers.get(key, &self.trouble).copied()
    }
    fn policy_network(&self, generation: u32, addr: &Addr) -> Option<u32> {
        let prefix_len = PolicyNetworkKey::GENERATION_BITS + ADDRESS_BITS;
        self.policy_networks.get(&PolicyNetworkKey { prefix_len, generation, addr: *addr }, &self.trouble).copied()
    }
    fn policy_verdict(&self, key: &PolicyVerdictKey) -> Option<PolicyVerdict> {
        self.policy_verdicts.get(key, &self.trouble).copied()
    }
    fn policy_port(&self, key: &PolicyPortKey) -> Option<u32> {
        self.policy_ports.get(key, &self.trouble).copied()
    }
}
