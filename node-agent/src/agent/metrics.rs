//! `/metrics`: kube-proxy's names for what kube-proxy has, `fairlead_` for our own.
//!
//! What the main loop knows it sets; what only the tables know (drops, entries, connections)
//! is read when somebody asks. This module must not know HTTP.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use datapath::abi::{PolicyDenial, capacity, layout_hash};
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, spawn_blocking},
    time::timeout,
};

use super::{
    counted::{DenialLabels, Owners, Question, ServiceLabels, Totals},
    proxy_metrics::{Code, Policy, ProxyMetrics},
};
use crate::{
    kernel::{
        event_tables::EventTables,
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

/// How long a scrape waits for the main loop to say whose counters are; without that it goes without these. Prometheus
/// itself waits for ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was counted of Services and policies, by number.
#[derive(Debug, Default)]
struct Counted {
    services: BTreeMap<u32, u64>,
    denials: BTreeMap<PolicyDenial, u64>,
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
    events: EventTables,
    events_lost: Family<Reason, Counter>,
    service_connections: Family<ServiceLabels, Counter>,
    other_connections: Counter,
    denials: Family<DenialLabels, Counter>,
    /// Held while the metrics are written, so that two who ask at once don't mix theirs.
    denied: Mutex<Totals<PolicyDenial, DenialLabels>>,
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
    /// The thread that reads and writes them ended.
    #[error("cannot read the tables: {0}")]
    Ended(#[from] JoinError),
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
    pub fn new(stats: TableStats, events: EventTables) -> Self {
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
        let events_lost = Family::default();
        let help = "Events that were not told though somebody listened, by reason";
        registry.register("fairlead_events_lost", help, events_lost.clone());
        let service_connections = Family::default();
        let help = "Connections and flows that this node began to a Service's port";
        registry.register("fairlead_service_connections", help, service_connections.clone());
        let other_connections = Counter::default();
        let help = "The same to Services for whose ports the table of counters has no room";
        registry.register("fairlead_other_service_connections", help, other_connections.clone());
        let denials = Family::default();
        let help = "Packets that policies denied, by the rule, or by the policies whose default it is";
        registry.register("fairlead_policy_denied_packets", help, denials.clone());
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
            events,
            events_lost,
            service_connections,
            other_connections,
            denials,
            denied: Mutex::new(Totals::new(capacity::POLICY_DENIALS as usize)),
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

    /// All metrics in the OpenMetrics text format; `ask` is asked whose counters are. Takes milliseconds when
    /// tables are full.
    ///
    /// # Errors
    /// A table can't be read, or the text not be written.
    pub async fn scrape(&self, ask: &mpsc::Sender<Question>) -> Result<String, MetricsError> {
        let metrics = self.clone();
        let counted = spawn_blocking(move || metrics.count()).await??;
        let owners = timeout(PATIENCE, owners(ask, &counted)).await.unwrap_or_default();
        let metrics = self.clone();
        spawn_blocking(move || metrics.encode(counted, &owners)).await?
    }

    fn count(&self) -> Result<Counted, MetricsError> {
        let stats = &self.inner.stats;
        Ok(Counted { services: stats.service_connections()?, denials: stats.denials()? })
    }

    fn encode(&self, counted: Counted, owners: &Owners) -> Result<String, MetricsError> {
        let inner = &self.inner;
        let mut denied = inner.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for fill in known.into_iter().chain(inner.stats.fill()?) {
            let table = Table { table: fill.name };
            inner.entries.get_or_create(&table).set(fill.entries as i64);
            inner.capacity.get_or_create(&table).set(fill.capacity as i64);
        }
        // The kernel counts, so that a restart of the agent loses nothing.
        let store = |counter: &Counter, count| counter.inner().store(count, Ordering::Relaxed);
        for (reason, count) in inner.stats.drops()? {
            store(&inner.drops.get_or_create(&Reason { reason: reason.name() }), count);
        }
        let lost = inner.events.losses()?;
        for (reason, count) in
            [("too-many-flows", lost.flows), ("too-many-troubles", lost.troubles), ("ring-full", lost.ring)]
        {
            store(&inner.events_lost.get_or_create(&Reason { reason }), count);
        }
        store(&inner.other_connections, counted.services.get(&0).copied().unwrap_or(0));
        inner.service_connections.clear();
        for (service, count) in &counted.services {
            if let Some(labels) = owners.services.get(service) {
                store(&inner.service_connections.get_or_create(labels), *count);
            }
        }
        denied.update(counted.denials, |denial| owners.denials.get(denial).cloned());
        inner.denials.clear();
        for (labels, total) in denied.iter() {
            store(&inner.denials.get_or_create(labels), total);
        }
        inner.unopened.inner().store(inner.stats.unopened()?, Ordering::Relaxed);
        let mut text = String::new();
        text::encode(&mut text, &inner.registry)?;
        Ok(text)
    }
}

/// Whose counters are, as the main loop knows; nobody's, if it has ended.
async fn owners(ask: &mpsc::Sender<Question>, counted: &Counted) -> Owners {
    let (reply, answer) = oneshot::channel();
    let services = counted.services.keys().copied().collect();
    let denials = counted.denials.keys().copied().collect();
    if ask.send(Question { services, denials, reply }).await.is_err() {
        return Owners::default();
    }
    answer.await.unwrap_or_default()
}
