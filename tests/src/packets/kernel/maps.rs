//! The kernel's maps as the host's tables are: written before a packet, compared after it.
//!
//! Times are kept as ages, see [`Clock`].

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, lpm_trie},
    util::nr_cpus,
};
use datapath::{
    abi::{
        Addr, AffinityKey, AffinityValue, Backend, Be16, Beginnings, FlowKey, FlowValue, FragmentKey, FragmentValue,
        NodeState, PodValue,
    },
    memory::MemoryTables,
    tables::Tables,
};

use super::super::{
    ages::{Clock, NANOS_PER_SECOND, same_but_for_time},
    encode::Encode,
};

/// The maps of loaded programs.
pub(super) struct Maps<'a>(pub &'a mut Ebpf);

impl Maps<'_> {
    /// Forgets what packets at XDP have found of addresses: tables change faster here than that holds.
    fn forget_concerns(&mut self) -> Result<()> {
        let map = self.0.map_mut("CONCERNS").context("the object has no CONCERNS")?;
        let mut concerns: PerCpuArray<_, [u8; 32]> = map.try_into()?;
        let cpus = cpus()?;
        for slot in 0..concerns.len() {
            concerns.set(slot, PerCpuValues::try_from(vec![[0; 32]; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Makes the maps hold the tables.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn write(&mut self, tables: &MemoryTables, clock: &Clock) -> Result<()> {
        self.forget_concerns()?;
        let node = tables.node.bytes();
        self.array::<64>("NODE_CONFIG")?.set(0, node, 0)?;
        let mut connections = self.array::<4>("CONNECTIONS")?;
        for id in 0..tables.backends.len() as u32 {
            connections.set(id, tables.connections(id).bytes(), 0)?;
        }
        self.write_service_connections(tables)?;
        self.array::<4>("NODE_STATE")?.set(0, tables.node_state.bytes(), 0)?;
        let mut blocks = self.array::<4>("BLOCKS")?;
        for (index, id) in tables.blocks.iter().enumerate() {
            blocks.set(index as u32, id.bytes(), 0)?;
        }
        let mut backends = self.array::<32>("BACKENDS")?;
        let beyond = std::iter::repeat_n(&Backend { flags: 0, ..EMPTY_BACKEND }, 8);
        for (id, backend) in tables.backends.iter().chain(beyond).enumerate() {
            backends.set(id as u32, backend.bytes(), 0)?;
        }
        self.fill::<20, 32>("FRONTENDS", encode(&tables.frontends))?;
        self.fill::<16, 28>("PODS", encode(&clock.pods_for_kernel(&tables.pods)))?;
        self.fill::<40, 56>("FLOWS", encode(&clock.flows_for_kernel(&tables.flows)))?;
        self.array::<16>("BEGINNINGS")?.set(0, tables.beginnings.bytes(), 0)?;
        let mut begun = self.array::<40>("BEGUN_FLOWS")?;
        for (place, key) in &tables.begun_flows {
            begun.set(*place, key.bytes(), 0)?;
        }
        self.fill::<20, 16>("AFFINITY", encode(&clock.affinity_for_kernel(&tables.affinity)))?;
        self.fill::<40, 8>("FRAGMENTS", encode(&tables.fragments))?;
        self.fill_source_ranges(tables)?;
        self.fill_policy(tables, clock)?;
        let map = self.0.map_mut("NETWORKS").context("the object has no NETWORKS")?;
        let mut networks: lpm_trie::LpmTrie<_, [u8; 16], [u8; 20]> = map.try_into()?;
        for (key, network) in &tables.networks {
            let key = lpm_trie::Key::new(key.prefix_len, key.addr.bytes());
            networks.insert(&key, network.bytes(), 0)?;
        }
        Ok(())
    }

    /// All that was counted is this CPU's or another's, which is all one.
    fn write_service_connections(&mut self, tables: &MemoryTables) -> Result<()> {
        let present = self.service_connections()?;
        let cpus = cpus()?;
        let mut map = self.per_cpu_hash("SERVICE_CONNECTIONS")?;
        for service in present.keys().filter(|service| !tables.service_connections.contains_key(service)) {
            map.remove(service)?;
        }
        for (service, count) in tables.service_connections.iter().filter(|(key, n)| present.get(key) != Some(n)) {
            let counts = (0..cpus).map(|cpu| if cpu == 0 { *count } else { 0 }).collect::<Vec<_>>();
            map.insert(service, PerCpuValues::try_from(counts)?, 0)?;
        }
        Ok(())
    }

    fn service_connections(&mut self) -> Result<HashMap<u32, u64>> {
        let map = self.per_cpu_hash("SERVICE_CONNECTIONS")?;
        let counted = map.iter().map(|entry| entry.map(|(service, counts)| (service, counts.iter().sum())));
        counted.map(|entry| entry.context("SERVICE_CONNECTIONS")).collect()
    }

    fn per_cpu_hash(&mut self, name: &str) -> Result<PerCpuHashMap<&mut MapData, u32, u64>> {
        let map = self.0.map_mut(name).with_context(|| format!("the object has no {name}"))?;
        PerCpuHashMap::try_from(map).with_context(|| name.to_owned())
    }

    fn fill_source_ranges(&mut self, tables: &MemoryTables) -> Result<()> {
        let map = self.0.map_mut("SOURCE_RANGES").context("the object has no SOURCE_RANGES")?;
        let mut ranges: lpm_trie::LpmTrie<_, [u8; 20], u32> = map.try_into()?;
        let present: Vec<_> = ranges.keys().collect::<Result<_, _>>()?;
        for key in &present {
            ranges.remove(key)?;
        }
        for range in &tables.source_ranges {
            let data: Vec<u8> = [&range.service.to_ne_bytes()[..], &range.addr.bytes()].concat();
            let data = data.try_into().expect("a service and an address are twenty bytes");
            ranges.insert(&lpm_trie::Key::new(range.prefix_len, data), 1, 0)?;
        }
        Ok(())
    }

    /// A map that is an array.
    ///
    /// # Errors
    /// There is none.
    pub fn array<const V: usize>(&mut self, name: &str) -> Result<Array<&mut MapData, [u8; V]>> {
        let map = self.0.map_mut(name).with_context(|| format!("the object has no {name}"))?;
        Array::try_from(map).with_context(|| name.to_owned())
    }

    fn hash<const K: usize, const V: usize>(
        &mut self,
        name: &str,
    ) -> Result<BpfHashMap<&mut MapData, [u8; K], [u8; V]>> {
        let map = self.0.map_mut(name).with_context(|| format!("the object has no {name}"))?;
        BpfHashMap::try_from(map).with_context(|| name.to_owned())
    }

    pub(super) fn fill<const K: usize, const V: usize>(
        &mut self,
        name: &str,
        entries: BTreeMap<[u8; K], [u8; V]>,
    ) -> Result<()> {
        let present = self.contents::<K, V>(name)?;
        let mut map = self.hash::<K, V>(name)?;
        for key in present.keys().filter(|key| !entries.contains_key(*key)) {
            map.remove(key)?;
        }
        for (key, value) in entries.iter().filter(|(key, value)| present.get(*key) != Some(*value)) {
            map.insert(key, value, 0)?;
        }
        Ok(())
    }

    pub(super) fn contents<const K: usize, const V: usize>(
        &mut self,
        name: &str,
    ) -> Result<BTreeMap<[u8; K], [u8; V]>> {
        self.hash::<K, V>(name)?.iter().map(|entry| entry.with_context(|| name.to_owned())).collect()
    }

    /// Whether the maps hold the tables.
    ///
    /// # Errors
    /// What differs.
    pub fn compare(&mut self, after: &MemoryTables, clock: &Clock) -> Result<()> {
        let flows: HashMap<FlowKey, FlowValue> = decode(&self.contents::<40, 56>("FLOWS")?);
        let expected = clock.flows_for_kernel(&after.flows);
        same_but_for_time("FLOWS", &flows, &expected, |flow| {
            let seen = u64::from(flow.last_seen);
            (FlowValue { last_seen: 0, ..*flow }, seen)
        })?;
        let affinity: HashMap<AffinityKey, AffinityValue> = decode(&self.contents::<20, 16>("AFFINITY")?);
        let expected = clock.affinity_for_kernel(&after.affinity);
        same_but_for_time("AFFINITY", &affinity, &expected, |bound| {
            (AffinityValue { last_used: 0, ..*bound }, bound.last_used / NANOS_PER_SECOND)
        })?;
        let pods: HashMap<_, PodValue> = decode(&self.contents::<16, 28>("PODS")?);
        same_but_for_time("PODS", &pods, &clock.pods_for_kernel(&after.pods), |pod| {
            (PodValue { judged_since: 0, ..*pod }, pod.judged_since.into())
        })?;
        let connections = self.array::<4>("CONNECTIONS")?;
        for id in 0..after.backends.len() as u32 {
            let (kernel, host) = (u32::from_bytes(&connections.get(&id, 0)?), after.connections(id));
            ensure!(kernel == host, "backend {id} has {kernel} connections in the kernel, {host} on the host");
        }
        let counted = self.service_connections()?;
        same_but_for_time("SERVICE_CONNECTIONS", &counted, &after.service_connections, |count| (*count, 0))?;
        let state = NodeState::from_bytes(&self.array::<4>("NODE_STATE")?.get(&0, 0)?);
        ensure!(state == after.node_state, "NODE_STATE\n  kernel {state:?}\n  host   {:?}", after.node_state);
        let beginnings = Beginnings::from_bytes(&self.array::<16>("BEGINNINGS")?.get(&0, 0)?);
        ensure!(beginnings == after.beginnings, "BEGINNINGS\n  kernel {beginnings:?}\n  host   {:?}", after.beginnings);
        let begun = self.array::<40>("BEGUN_FLOWS")?;
        for (place, host) in &after.begun_flows {
            let kernel = FlowKey::from_bytes(&begun.get(place, 0)?);
            ensure!(kernel == *host, "BEGUN_FLOWS at {place}\n  kernel {kernel:?}\n  host   {host:?}");
        }
        let fragments: HashMap<FragmentKey, FragmentValue> = decode(&self.contents::<40, 8>("FRAGMENTS")?);
        same_but_for_time("FRAGMENTS", &fragments, &after.fragments, |ports| (*ports, 0))?;
        self.compare_policy(after, clock)
    }

    /// Counters of all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn per_cpu_sums(&self, name: &str, count: u32) -> Result<Vec<u64>> {
        let map = self.0.map(name).with_context(|| format!("the object has no {name}"))?;
        let counters: PerCpuArray<_, u64> = map.try_into()?;
        (0..count).map(|index| Ok(counters.get(&index, 0)?.iter().sum())).collect()
    }
}

pub(super) fn cpus() -> Result<usize> {
    nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))
}

/// A free id's entry.
const EMPTY_BACKEND: Backend =
    Backend { addr: Addr::UNSPECIFIED, port: Be16::ZERO, flags: 0, service: 0, generation: 0, pad: 0 };

pub(super) fn encode<K: Encode, V: Encode, const KB: usize, const VB: usize>(
    table: &HashMap<K, V>,
) -> BTreeMap<[u8; KB], [u8; VB]> {
    table.iter().map(|(key, value)| (key.bytes(), value.bytes())).collect()
}

pub(super) fn decode<K: Encode + Eq + Hash, V: Encode, const KB: usize, const VB: usize>(
    table: &BTreeMap<[u8; KB], [u8; VB]>,
) -> HashMap<K, V> {
    table.iter().map(|(key, value)| (K::from_bytes(key), V::from_bytes(value))).collect()
}
