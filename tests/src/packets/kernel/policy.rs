//! The tables of policy in the kernel, as the host's are.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, PerCpuHashMap, PerCpuValues, lpm_trie};
use datapath::{
    abi::{FlowKey, PolicyDenial, PolicyFlow},
    memory::MemoryTables,
};

use super::maps::{Maps, cpus, decode, encode};
use crate::packets::{
    ages::{Clock, same_but_for_time},
    encode::Encode,
};

impl Maps<'_> {
    /// Makes the maps hold the tables.
    pub(super) fn fill_policy(&mut self, tables: &MemoryTables, clock: &Clock) -> Result<()> {
        let policy = &tables.policy;
        self.fill::<20, 4>("POLICY_PEERS", encode(&policy.peers))?;
        self.fill::<12, 8>("POLICY_VERDICTS", encode(&policy.verdicts))?;
        self.fill::<40, 12>("POLICY_FLOWS", encode(&clock.policy_flows_for_kernel(&tables.policy_flows)))?;
        self.array::<4>("POLICY_EPOCH")?.set(0, tables.policy_epoch.to_ne_bytes(), 0)?;
        let networks = policy.networks.iter().map(|(key, class)| {
            let data = [&key.generation.to_ne_bytes()[..], &key.addr.bytes()].concat();
            (key.prefix_len, data.try_into().expect("a generation and an address are twenty bytes"), *class)
        });
        self.fill_trie::<20>("POLICY_NETWORKS", networks)?;
        let ports = policy.ports.iter().map(|(key, rule)| {
            let port = key.port.wire().to_ne_bytes();
            let data = [&key.ports.to_ne_bytes()[..], &[key.protocol, key.pad], &port].concat();
            (key.prefix_len, data.try_into().expect("a list, a protocol and a port are eight bytes"), *rule)
        });
        self.fill_trie::<8>("POLICY_PORTS", ports)?;
        self.fill_denials(&tables.policy_denials)
    }

    fn fill_trie<const K: usize>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (u32, [u8; K], u32)>,
    ) -> Result<()> {
        let map = self.0.map_mut(name).with_context(|| format!("the object has no {name}"))?;
        let mut trie: lpm_trie::LpmTrie<_, [u8; K], u32> = map.try_into()?;
        let present: Vec<_> = trie.keys().collect::<Result<_, _>>()?;
        present.iter().try_for_each(|key| trie.remove(key))?;
        for (len, data, value) in entries {
            trie.insert(&lpm_trie::Key::new(len, data), value, 0)?;
        }
        Ok(())
    }

    fn denials(&mut self) -> Result<PerCpuHashMap<&mut MapData, [u8; 12], u64>> {
        let map = self.0.map_mut("POLICY_DENIALS").context("the object has no POLICY_DENIALS")?;
        Ok(map.try_into()?)
    }

    fn fill_denials(&mut self, denials: &HashMap<PolicyDenial, u64>) -> Result<()> {
        let cpus = cpus()?;
        let mut map = self.denials()?;
        let present: Vec<_> = map.keys().collect::<Result<_, _>>()?;
        present.iter().try_for_each(|key| map.remove(key))?;
        for (denial, count) in denials {
            let mut counts = vec![0; cpus];
            counts[0] = *count;
            map.insert(denial.bytes(), PerCpuValues::try_from(counts)?, 0)?;
        }
        Ok(())
    }

    /// Whether the maps that programs write to hold the tables.
    pub(super) fn compare_policy(&mut self, after: &MemoryTables, clock: &Clock) -> Result<()> {
        let flows: HashMap<FlowKey, PolicyFlow> = decode(&self.contents::<40, 12>("POLICY_FLOWS")?);
        let expected = clock.policy_flows_for_kernel(&after.policy_flows);
        same_but_for_time("POLICY_FLOWS", &flows, &expected, |flow| {
            (PolicyFlow { last_seen: 0, ..*flow }, u64::from(flow.last_seen))
        })?;
        let counts = self.denials()?.iter().collect::<Result<Vec<_>, _>>()?;
        let kernel: BTreeMap<_, u64> =
            counts.iter().map(|(key, counts)| (PolicyDenial::from_bytes(key), counts.iter().sum())).collect();
        let host: BTreeMap<_, _> = after.policy_denials.iter().map(|(key, count)| (*key, *count)).collect();
        ensure!(kernel == host, "POLICY_DENIALS\n  kernel {kernel:?}\n  host   {host:?}");
        Ok(())
    }
}
