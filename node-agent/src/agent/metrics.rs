//! `/metrics`: kube-proxy's names for what kube-proxy has, `fairlead_` for our own.
//!
//! What the main loop knows it sets; what only the tables know (drops, entries)
//! is read when somebody asks. This module must not know HTTP.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::kernel::{
    map::MapError,
    table_stats::{TableFill, TableStats},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Table {
    table: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

/// All metrics of the agent; a clone is the same set.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    stats: TableStats,
    known: Mutex<Vec<TableFill>>,
    in_sync: Gauge,
    problems: Gauge,
    services: Gauge,
    pods: Gauge,
    apply_seconds: Histogram,
    applied_at: Gauge<f64, AtomicU64>,
    service_changes: Counter,
    endpoint_changes: Counter,
    failed_writes: Counter,
    livez: Family<Code, Counter>,
    healthz: Family<Code, Counter>,
    entries: Family<Table, Gauge>,
    capacity: Family<Table, Gauge>,
    drops: Family<Reason, Counter>,
}

/// Metrics could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A table can't be read.
    #[error(transparent)]
    Table(#[from] MapError),
    /// They can't be written as text.
    #[error("cannot encode metrics: {0}")]
    Encode(#[from] fmt::Error),
}

/// What the main loop knows after putting changes in force.
#[derive(Clone, Debug)]
pub struct Applied {
    /// How long it took.
    pub took: Duration,
    /// When it was done.
    pub at: Timestamp,
    /// Services that changed.
    pub service_changes: u64,
    /// EndpointSlices that changed.
    pub endpoint_changes: u64,
    /// Writes that failed and will be tried again.
    pub failed_writes: u64,
}

/// What there is and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The first list of every kind is in force.
    pub in_sync: bool,
    /// Subjects with a problem.
    pub problems: usize,
    /// Services.
    pub services: usize,
    /// Pods wired by this agent.
    pub pods: usize,
    /// How full the tables are whose only writer is the agent.
    pub fill: Vec<TableFill>,
}

impl Metrics {
    /// A set of metrics over these tables.
    pub fn new(stats: TableStats) -> Self {
        let mut registry = Registry::default();
        let in_sync = Gauge::default();
        registry.register("fairlead_in_sync", "Whether the source's first lists are in force", in_sync.clone());
        let problems = Gauge::default();
        registry.register("fairlead_problems", "Subjects that `fairlead status` shows a problem of", problems.clone());
        let services = Gauge::default();
        registry.register("fairlead_services", "Services known", services.clone());
        let pods = Gauge::default();
        registry.register("fairlead_pods", "Pods wired on this node", pods.clone());
        let entries = Family::default();
        registry.register("fairlead_table_entries", "Entries in an eBPF table", entries.clone());
        let capacity = Family::default();
        registry.register("fairlead_table_capacity", "Entries that an eBPF table can hold", capacity.clone());
        let drops = Family::default();
        registry.register("fairlead_drops", "Packets dropped, by reason", drops.clone());
        let failed_writes = Counter::default();
        registry.register("fairlead_failed_writes", "Table writes that failed and are retried", failed_writes.clone());

        let proxy = registry.sub_registry_with_prefix("kubeproxy");
        let apply_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let help = "Time to put changes in force";
        proxy.register_with_unit("sync_proxy_rules_duration", help, Unit::Seconds, apply_seconds.clone());
        let applied_at = Gauge::default();
        let help = "When changes were last put in force";
        proxy.register_with_unit("sync_proxy_rules_last_timestamp", help, Unit::Seconds, applied_at.clone());
        let service_changes = Counter::default();
        proxy.register("sync_proxy_rules_service_changes", "Changes of Services", service_changes.clone());
        let endpoint_changes = Counter::default();
        proxy.register("sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices", endpoint_changes.clone());
        let livez = Family::default();
        proxy.register("proxy_livez", "Answers of /livez", livez.clone());
        let healthz = Family::default();
        proxy.register("proxy_healthz", "Answers of /healthz", healthz.clone());

        let inner = Inner {
            registry,
            stats,
            known: Mutex::default(),
            in_sync,
            problems,
            services,
            pods,
            apply_seconds,
            applied_at,
            service_changes,
            endpoint_changes,
            failed_writes,
            livez,
            healthz,
            entries,
            capacity,
            drops,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Changes were put in force.
    pub fn applied(&self, applied: Applied) {
        let inner = &self.inner;
        inner.apply_seconds.observe(applied.took.as_secs_f64());
        inner.applied_at.set(applied.at.as_duration().as_secs_f64());
        inner.service_changes.inc_by(applied.service_changes);
        inner.endpoint_changes.inc_by(applied.endpoint_changes);
        inner.failed_writes.inc_by(applied.failed_writes);
    }

    /// What there is and what is wrong now.
    pub fn set_state(&self, state: State) {
        let inner = &self.inner;
        inner.in_sync.set(state.in_sync.into());
        inner.problems.set(state.problems as i64);
        inner.services.set(state.services as i64);
        inner.pods.set(state.pods as i64);
        *inner.known.lock().unwrap_or_else(PoisonError::into_inner) = state.fill;
    }

    /// `/livez` was answered.
    pub fn livez(&self, code: u16) {
        self.inner.livez.get_or_create(&Code { code }).inc();
    }

    /// `/healthz` was answered.
    pub fn healthz(&self, code: u16) {
        self.inner.healthz.get_or_create(&Code { code }).inc();
    }

    /// All metrics in the OpenMetrics text format. Takes milliseconds when tables are full.
    pub fn encode(&self) -> Result<String, MetricsError> {
        let inner = &self.inner;
        let known = inner.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for fill in known.into_iter().chain(inner.stats.fill()?) {
            let table = Table { table: fill.name };
            inner.entries.get_or_create(&table).set(fill.entries as i64);
            inner.capacity.get_or_create(&table).set(fill.capacity as i64);
        }
        for (reason, count) in inner.stats.drops()? {
            // The kernel counts, so that a restart of the agent loses nothing.
            let counter = inner.drops.get_or_create(&Reason { reason: reason.name() });
            counter.inner().store(count, Ordering::Relaxed);
        }
        let mut text = String::new();
        text::encode(&mut text, &inner.registry)?;
        Ok(text)
    }
}
