//! Tables and packets in memory: the decisions on the host, for tests and `fairlead why`.

use std::{collections::HashMap, vec::Vec};

use crate::{
    abi::{
        Addr, AffinityKey, AffinityValue, Backend, Beginnings, DialledValue, FlowKey, FlowValue, FragmentKey,
        FragmentValue, FrontendKey, FrontendValue, NetworkKey, NetworkValue, NodeConfig, NodeState, PodNetns, PodValue,
        PolicyDenial, PolicyFlow, PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey,
        SocketPeerKey, SocketPeerValue, SourceRangeKey,
    },
    packet::{AccessError, ChecksumOf, Packet, checksum, headers::Headers},
    policy::PolicyTables,
    socket::Socket,
    tables::{Inserted, Tables},
};

/// All tables, each without bound.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is the table of its name")]
pub struct MemoryTables {
    pub node: NodeConfig,
    pub node_state: NodeState,
    pub frontends: HashMap<FrontendKey, FrontendValue>,
    pub blocks: Vec<u32>,
    pub backends: Vec<Backend>,
    pub connections: HashMap<u32, u32>,
    pub service_connections: HashMap<u32, u64>,
    pub affinity: HashMap<AffinityKey, AffinityValue>,
    pub pods: HashMap<Addr, PodValue>,
    pub pod_netns: HashMap<u64, PodNetns>,
    pub networks: Vec<(NetworkKey, NetworkValue)>,
    pub source_ranges: Vec<SourceRangeKey>,
    pub flows: HashMap<FlowKey, FlowValue>,
    pub beginnings: Beginnings,
    pub begun_flows: HashMap<u32, FlowKey>,
    pub fragments: HashMap<FragmentKey, FragmentValue>,
    pub socket_peers: HashMap<SocketPeerKey, SocketPeerValue>,
    pub policy: MemoryPolicy,
    pub policy_epoch: u32,
    pub policy_flows: HashMap<FlowKey, PolicyFlow>,
    pub policy_denials: HashMap<PolicyDenial, u64>,
    /// What [`Tables::now`] says.
    pub now: u64,
    /// The state of the random numbers; equal states give equal numbers.
    pub random: u64,
}

/// A socket by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemorySocket {
    /// What [`Socket::cookie`] says.
    pub cookie: u64,
    /// What [`Socket::netns`] says.
    pub netns: u64,
    /// What it dialled.
    pub dialled: Option<DialledValue>,
}

impl Socket for MemorySocket {
    fn cookie(&self) -> u64 {
        self.cookie
    }
    fn netns(&self) -> u64 {
        self.netns
    }
    fn dialled(&self) -> Option<DialledValue> {
        self.dialled
    }
    fn note_dialled(&mut self, dialled: &DialledValue) {
        self.dialled = Some(*dialled);
    }
}

/// The bits of an address, first bit highest.
fn bits(addr: &Addr) -> u128 {
    u128::from_be_bytes(addr.bytes())
}

/// Whether the first `prefix_len` bits of both are equal.
fn is_within(addr: &Addr, network: &Addr, prefix_len: u32) -> bool {
    prefix_len == 0 || (bits(network) ^ bits(addr)) >> 128u32.saturating_sub(prefix_len) == 0
}

/// The next of the random numbers that follow from a state. (SplitMix64: small, and good
/// enough to choose backends with.)
pub fn next_random(state: &mut u64) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 32) as u32
}

impl Tables for MemoryTables {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue> {
        self.frontends.get(key)
    }
    fn block_entry(&self, index: u32) -> Option<u32> {
        self.blocks.get(index as usize).copied()
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id as usize)
    }
    fn connections(&self, id: u32) -> u32 {
        self.connections.get(&id).copied().unwrap_or(0)
    }
    fn add_connection(&mut self, id: u32) {
        *self.connections.entry(id).or_default() += 1;
    }
    fn remove_connection(&mut self, id: u32) {
        if let Some(count) = self.connections.get_mut(&id) {
            *count = count.saturating_sub(1);
        }
    }
    fn count_service(&mut self, service: u32) {
        *self.service_connections.entry(service).or_default() += 1;
    }
    fn affinity(&self, key: &AffinityKey) -> Option<&AffinityValue> {
        self.affinity.get(key)
    }
    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        self.affinity.insert(*key, *value);
    }
    fn pod(&self, addr: &Addr) -> Option<&PodValue> {
        self.pods.get(addr)
    }
    fn mark_nat(&mut self, pod: &Addr, bit: u32) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.nat_protocols |= bit;
        }
    }
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns> {
        self.pod_netns.get(&cookie)
    }
    fn network(&self, addr: &Addr) -> Option<&NetworkValue> {
        let matching = self.networks.iter().filter(|(key, _)| is_within(addr, &key.addr, key.prefix_len));
        matching.max_by_key(|(key, _)| key.prefix_len).map(|(_, network)| network)
    }
    fn in_source_ranges(&self, service: u32, client: &Addr) -> bool {
        let mut ranges = self.source_ranges.iter().filter(|range| range.service == service);
        ranges.any(|range| is_within(client, &range.addr, range.prefix_len.saturating_sub(32)))
    }
    fn node_nat(&self) -> u32 {
        self.node_state.nat_protocols
    }
    fn mark_node_nat(&mut self, bit: u32) {
        self.node_state.nat_protocols |= bit;
    }
    fn flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        self.flows.get_mut(key).map(read)
    }
    fn insert_flow(&mut self, key: &FlowKey, value: &FlowValue) -> Inserted {
        if self.flows.contains_key(key) {
            return Inserted::Exists;
        }
        self.flows.insert(*key, *value);
        Inserted::New
    }
    fn begin<R>(&mut self, remember: impl FnOnce(u32, &mut FlowKey) -> R) -> Option<R> {
        let number = self.beginnings.begun as u32;
        self.beginnings.begun += 1;
        let place = self.begun_flows.entry(Beginnings::slot(number)).or_insert(Headers::EMPTY.flow());
        Some(remember(number, place))
    }
    fn count_unopened(&mut self) {
        self.beginnings.unopened += 1;
    }
    fn remove_flow(&mut self, key: &FlowKey) {
        self.flows.remove(key);
    }
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentValue> {
        self.fragments.get(key)
    }
    fn set_fragment(&mut self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.insert(*key, *value);
    }
    fn socket_peer(&self, key: &SocketPeerKey) -> Option<&SocketPeerValue> {
        self.socket_peers.get(key)
    }
    fn remove_socket_peer(&mut self, key: &SocketPeerKey) {
        self.socket_peers.remove(key);
    }
    fn set_socket_peer(&mut self, key: &SocketPeerKey, value: &SocketPeerValue) {
        self.socket_peers.insert(*key, *value);
    }
    fn policy_epoch(&self) -> u32 {
        self.policy_epoch
    }
    fn policy_flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut PolicyFlow) -> R) -> Option<R> {
        self.policy_flows.get_mut(key).map(read)
    }
    fn set_policy_flow(&mut self, key: &FlowKey, value: &PolicyFlow) {
        self.policy_flows.insert(*key, *value);
    }
    fn count_denial(&mut self, denial: &PolicyDenial) {
        *self.policy_denials.entry(*denial).or_default() += 1;
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn random(&mut self) -> u32 {
        next_random(&mut self.random)
    }
}

impl PolicyTables for MemoryTables {
    fn policy_peer(&self, key: &PolicyPeerKey) -> Option<u32> {
        self.policy.policy_peer(key)
    }
    fn policy_network(&self, generation: u32, addr: &Addr) -> Option<u32> {
        self.policy.policy_network(generation, addr)
    }
    fn policy_verdict(&self, key: &PolicyVerdictKey) -> Option<PolicyVerdict> {
        self.policy.policy_verdict(key)
    }
    fn policy_port(&self, key: &PolicyPortKey) -> Option<u32> {
        self.policy.policy_port(key)
    }
}

/// The tables of policy.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is the table of its name")]
pub struct MemoryPolicy {
    pub peers: HashMap<PolicyPeerKey, u32>,
    pub networks: HashMap<PolicyNetworkKey, u32>,
    pub verdicts: HashMap<PolicyVerdictKey, PolicyVerdict>,
    pub ports: HashMap<PolicyPortKey, u32>,
}

impl PolicyTables for MemoryPolicy {
    fn policy_peer(&self, key: &PolicyPeerKey) -> Option<u32> {
        self.peers.get(key).copied()
    }
    fn policy_network(&self, generation: u32, addr: &Addr) -> Option<u32> {
        (0..=128).rev().find_map(|len| {
            let kept = if len == 0 { 0 } else { bits(addr) & u128::MAX << (128 - len) };
            let addr = core::net::Ipv6Addr::from(kept).into();
            let prefix_len = PolicyNetworkKey::GENERATION_BITS + len;
            self.networks.get(&PolicyNetworkKey { prefix_len, generation, addr }).copied()
        })
    }
    fn policy_verdict(&self, key: &PolicyVerdictKey) -> Option<PolicyVerdict> {
        self.verdicts.get(key).copied()
    }
    fn policy_port(&self, key: &PolicyPortKey) -> Option<u32> {
        (0..=16).find_map(|wild| {
            let port = crate::abi::Be16::new((u32::from(key.port.get()) >> wild << wild) as u16);
            self.ports
                .get(&PolicyPortKey { prefix_len: PolicyPortKey::PROTOCOL_BITS + 16 - wild, port, ..*key })
                .copied()
        })
    }
}

/// An IP packet in memory, its checksums complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPacket(pub Vec<u8>);

impl MemoryPacket {
    fn range(&self, offset: u32, bytes: usize) -> Option<core::ops::Range<usize>> {
        let start = offset as usize;
        let end = start.checked_add(bytes)?;
        (end <= self.0.len()).then_some(start..end)
    }
}

impl Packet for MemoryPacket {
    fn available(&self) -> u32 {
        self.0.len() as u32
    }
    fn read<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let bytes = &self.0[self.range(offset, N * 4)?];
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        Some(words)
    }
    fn glance<const N: usize>(&self) -> Option<[u32; N]> {
        self.read(0)
    }
    fn write<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), AccessError> {
        let range = self.range(offset, N * 4).ok_or(AccessError)?;
        for (chunk, word) in self.0[range].chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(())
    }
    fn adjust_checksum(&mut self, offset: u32, change: u32, of: ChecksumOf) -> Result<(), AccessError> {
        let range = self.range(offset, 2).ok_or(AccessError)?;
        let field = &mut self.0[range];
        let old = u16::from_ne_bytes([field[0], field[1]]);
        if of.zero_is_none && old == 0 {
            return Ok(());
        }
        let new = match checksum::update(old, change) {
            0 if of.zero_is_none => 0xffff,
            sum => sum,
        };
        field.copy_from_slice(&new.to_ne_bytes());
        Ok(())
    }
    fn truncate(&mut self, len: u32) -> Result<(), AccessError> {
        if len > self.available() {
            return Err(AccessError);
        }
        self.0.truncate(len as usize);
        Ok(())
    }
    fn prepend(&mut self, bytes: u32) -> Result<(), AccessError> {
        self.0.splice(0..0, core::iter::repeat_n(0, bytes as usize));
        Ok(())
    }

    fn resize_header(&mut self, by: i32) -> Result<(), AccessError> {
        let at = if self.0.first().is_some_and(|first| first >> 4 == 4) { 20 } else { 40 };
        let gone = by.min(0).unsigned_abs() as usize;
        if self.0.len() < at + gone {
            return Err(AccessError);
        }
        self.0.splice(at..at + gone, core::iter::repeat_n(0, by.max(0) as usize));
        Ok(())
    }
}
