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

use datapath::abi::layout_hash;
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::proxy_metrics::{Code, Policy, ProxyMetrics};
use crate::{
    kernel::{
        map::MapError,
        programs::kernel_release,
        table_stats::{TableFill, TableStats},
    },
    model::objects::Kind,
    plan::NoLocalEndpoints,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Table {
    table: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watch {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    kernel: String,
    /// Which tables it has; agents of one layout take over each other's.
    layout: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
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
    proxy: ProxyMetrics,
    failed_writes: Counter,
    watch_errors: Family<Watch, Counter>,
    entries: Family<Table, Gauge>,
    capacity: Family<Table, Gauge>,
    drops: Family<Reason, Counter>,
    unopened: Counter,
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
    /// All Services were concerned, not only those that changed.
    pub all: bool,
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
    /// Service ports whose endpoints are all elsewhere, where a policy wants them here.
    pub no_local_endpoints: NoLocalEndpoints,
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
        let unopened = Counter::default();
        let help = "Flows that made room for later ones, because nobody had opened them";
        registry.register("fairlead_unopened_flows", help, unopened.clone());
        let failed_writes = Counter::default();
        registry.register("fairlead_failed_writes", "Table writes that failed and are retried", failed_writes.clone());

        let watch_errors = Family::<Watch, Counter>::default();
        let help = "Lists and watches that the API server refused or that broke, by kind";
        registry.register("fairlead_watch_errors", help, watch_errors.clone());
        for kind in Kind::ALL {
            // So that there is a nothing to begin from.
            watch_errors.get_or_create(&Watch { kind: kind.to_string() }).inc_by(0);
        }
        let build = Family::<Build, Gauge>::default();
        registry.register("fairlead_build_info", "What runs here; always 1", build.clone());
        let version = env!("CARGO_PKG_VERSION");
        build
            .get_or_create(&Build { version, kernel: kernel_release(), layout: format!("{:016x}", layout_hash()) })
            .set(1);
        // Prometheus' own name, from which its functions tell restarts.
        let started = Gauge::<f64, AtomicU64>::default();
        let help = "When the agent was started, in Unix time";
        registry.register_with_unit("process_start_time", help, Unit::Seconds, started.clone());
        started.set(Timestamp::now().as_duration().as_secs_f64());

        let proxy = ProxyMetrics::new(registry.sub_registry_with_prefix("kubeproxy"));

        let inner = Inner {
            registry,
            stats,
            known: Mutex::default(),
            in_sync,
            problems,
            services,
            pods,
            proxy,
            failed_writes,
            watch_errors,
            entries,
            capacity,
            drops,
            unopened,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Changes came that are not in force yet; so many in all.
    pub fn queued(&self, at: Timestamp, services: u64, endpoints: u64) {
        let proxy = &self.inner.proxy;
        proxy.queued_at.set(at.as_duration().as_secs_f64());
        proxy.services_pending.set(services as i64);
        proxy.endpoints_pending.set(endpoints as i64);
    }

    /// Changes were put in force.
    pub fn applied(&self, applied: Applied) {
        let proxy = &self.inner.proxy;
        let took = applied.took.as_secs_f64();
        proxy.apply_seconds.observe(took);
        if applied.all { &proxy.apply_all_seconds } else { &proxy.apply_some_seconds }.observe(took);
        proxy.applied_at.set(applied.at.as_duration().as_secs_f64());
        proxy.service_changes.inc_by(applied.service_changes);
        proxy.endpoint_changes.inc_by(applied.endpoint_changes);
        proxy.services_pending.set(0);
        proxy.endpoints_pending.set(0);
        self.inner.failed_writes.inc_by(applied.failed_writes);
    }

    /// What came about at this time, in Unix microseconds, is in force now.
    pub fn programmed(&self, triggered: i64, now: Timestamp) {
        let took = now.as_microsecond().saturating_sub(triggered);
        self.inner.proxy.programming_seconds.observe(took.max(0) as f64 / 1e6);
    }

    /// What there is and what is wrong now.
    pub fn set_state(&self, state: State) {
        let inner = &self.inner;
        inner.in_sync.set(state.in_sync.into());
        inner.problems.set(state.problems as i64);
        inner.services.set(state.services as i64);
        inner.pods.set(state.pods as i64);
        let no_local =
            [("internal", state.no_local_endpoints.internal), ("external", state.no_local_endpoints.external)];
        for (traffic_policy, ports) in no_local {
            inner.proxy.no_local_endpoints.get_or_create(&Policy { traffic_policy }).set(ports.into());
        }
        *inner.known.lock().unwrap_or_else(PoisonError::into_inner) = state.fill;
    }

    /// A list or watch of a kind failed, and is tried again.
    pub fn watch_failed(&self, kind: &str) {
        self.inner.watch_errors.get_or_create(&Watch { kind: kind.to_owned() }).inc();
    }

    /// `/livez` was answered.
    pub fn livez(&self, code: u16) {
        self.inner.proxy.livez.get_or_create(&Code { code }).inc();
    }

    /// `/healthz` was answered.
    pub fn healthz(&self, code: u16) {
        self.inner.proxy.healthz.get_or_create(&Code { code }).inc();
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
        inner.unopened.inner().store(inner.stats.unopened()?, Ordering::Relaxed);
        let mut text = String::new();
        text::encode(&mut text, &inner.registry)?;
        Ok(text)
    }
}
