//! Times in tables as ages, since the kernel's clock can't be set.

use std::{collections::HashMap, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use datapath::{
    abi::{Addr, AffinityKey, AffinityValue, FlowKey, FlowValue, PodValue, PolicyFlow},
    memory::MemoryTables,
};
use nix::time::{ClockId, clock_gettime};

pub(super) const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How far ages may differ: the kernel's clock goes on while the host's stands.
const TOLERANCE_SECONDS: u64 = 2;

/// The same moment by two clocks, in nanoseconds.
pub(super) struct Clock {
    host: u64,
    kernel: u64,
}

impl Clock {
    /// Now; on a machine that has just booted, as soon as nothing in the tables is older than it.
    pub(super) fn at(tables: &MemoryTables) -> Result<Self> {
        let translated = tables.flows.values().map(|flow| flow.last_seen);
        let judged = tables.policy_flows.values().map(|flow| flow.last_seen);
        let since = tables.pods.values().map(|pod| pod.judged_since).filter(|since| *since != 0);
        let flows = translated.chain(judged).chain(since).map(|seen| u64::from(seen) * NANOS_PER_SECOND);
        let oldest = tables.affinity.values().map(|bound| bound.last_used).chain(flows).min().unwrap_or(tables.now);
        let age = tables.now - oldest;
        loop {
            let kernel = now()?;
            if kernel > age {
                return Ok(Self { host: tables.now, kernel });
            }
            thread::sleep(Duration::from_nanos(age - kernel).max(Duration::from_millis(10)));
        }
    }

    /// Whether the kernel's second is still that in which this was made.
    pub(super) fn is_in_its_second(&self) -> Result<bool> {
        Ok(now()? / NANOS_PER_SECOND == self.kernel / NANOS_PER_SECOND)
    }

    fn seconds(&self, host: u32) -> u32 {
        let age = self.host / NANOS_PER_SECOND - u64::from(host);
        (self.kernel / NANOS_PER_SECOND - age) as u32
    }

    /// The flows as the kernel's clock has them.
    pub(super) fn flows_for_kernel(&self, flows: &HashMap<FlowKey, FlowValue>) -> HashMap<FlowKey, FlowValue> {
        flows.iter().map(|(key, flow)| (*key, FlowValue { last_seen: self.seconds(flow.last_seen), ..*flow })).collect()
    }

    /// The judged flows, likewise.
    pub(super) fn policy_flows_for_kernel(&self, flows: &HashMap<FlowKey, PolicyFlow>) -> HashMap<FlowKey, PolicyFlow> {
        let aged = |flow: &PolicyFlow| PolicyFlow { last_seen: self.seconds(flow.last_seen), ..*flow };
        flows.iter().map(|(key, flow)| (*key, aged(flow))).collect()
    }

    /// The pods, likewise.
    pub(super) fn pods_for_kernel(&self, pods: &HashMap<Addr, PodValue>) -> HashMap<Addr, PodValue> {
        let since = |since| if since == 0 { 0 } else { self.seconds(since) };
        pods.iter().map(|(key, pod)| (*key, PodValue { judged_since: since(pod.judged_since), ..*pod })).collect()
    }

    /// The clients' bindings, likewise.
    pub(super) fn affinity_for_kernel(
        &self,
        affinity: &HashMap<AffinityKey, AffinityValue>,
    ) -> HashMap<AffinityKey, AffinityValue> {
        let since_boot = |used: u64| self.kernel - (self.host - used);
        affinity
            .iter()
            .map(|(key, bound)| (*key, AffinityValue { last_used: since_boot(bound.last_used), ..*bound }))
            .collect()
    }
}

/// The clock that the programs read.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("reading the clock")?;
    Ok(time.tv_sec() as u64 * NANOS_PER_SECOND + time.tv_nsec() as u64)
}

/// Compares two tables; `split` parts a value into what must be equal and a time in seconds.
pub(super) fn same_but_for_time<K, V>(
    table: &str,
    kernel: &HashMap<K, V>,
    host: &HashMap<K, V>,
    split: impl Fn(&V) -> (V, u64),
) -> Result<()>
where
    K: Eq + std::hash::Hash + std::fmt::Debug,
    V: PartialEq + std::fmt::Debug,
{
    let differs = || anyhow!("{table}\n  kernel {kernel:?}\n  host   {host:?}");
    ensure!(kernel.len() == host.len(), differs());
    for (key, kernel) in kernel {
        let (kernel, kernel_time) = split(kernel);
        let (host, host_time) = split(host.get(key).ok_or_else(differs)?);
        ensure!(kernel == host && kernel_time.abs_diff(host_time) <= TOLERANCE_SECONDS, differs());
    }
    Ok(())
}
