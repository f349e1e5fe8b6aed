//! The metrics that kube-proxy has too, by its names.
//!
//! Where kube-proxy programs rules, tables are written here: `full` is when all
//! Services were compiled anew, `partial` when those that changed were. There is no
//! netfilter conntrack here to reconcile, and the metrics of that stay at nothing.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Code {
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Policy {
    pub traffic_policy: &'static str,
}

/// The metrics, registered.
#[derive(Debug)]
pub(super) struct ProxyMetrics {
    pub apply_seconds: Histogram,
    pub apply_all_seconds: Histogram,
    pub apply_some_seconds: Histogram,
    pub programming_seconds: Histogram,
    pub applied_at: Gauge<f64, AtomicU64>,
    pub queued_at: Gauge<f64, AtomicU64>,
    pub service_changes: Counter,
    pub endpoint_changes: Counter,
    pub services_pending: Gauge,
    pub endpoints_pending: Gauge,
    pub no_local_endpoints: Family<Policy, Gauge>,
    pub livez: Family<Code, Counter>,
    pub healthz: Family<Code, Counter>,
}

impl ProxyMetrics {
    /// Registers all of them under the registry's prefix.
    pub fn new(registry: &mut Registry) -> Self {
        let brief = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let mut seconds = |name: &str, help: &str, histogram: Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
            histogram
        };
        let apply_seconds = seconds("sync_proxy_rules_duration", "Time to put changes in force", brief());
        let help = "Time to put in force what concerned all Services";
        let apply_all_seconds = seconds("sync_full_proxy_rules_duration", help, brief());
        let help = "Time to put in force what concerned some Services";
        let apply_some_seconds = seconds("sync_partial_proxy_rules_duration", help, brief());
        let help = "Time from a change of endpoints in the cluster until it is in force here";
        // From a quarter of a second to about five minutes, as kube-proxy.
        let buckets = Histogram::new(exponential_buckets(0.25, 1.5, 19));
        let programming_seconds = seconds("network_programming_duration", help, buckets);
        seconds("conntrack_reconciler_sync_duration", "Nothing: there is no netfilter conntrack to reconcile", brief());

        let mut at = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
            gauge
        };
        let applied_at = at("sync_proxy_rules_last_timestamp", "When changes were last put in force");
        let queued_at = at("sync_proxy_rules_last_queued_timestamp", "When changes last came");

        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let service_changes = counter("sync_proxy_rules_service_changes", "Changes of Services");
        let endpoint_changes = counter("sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices");
        counter("conntrack_reconciler_deleted_entries", "Nothing: there is no netfilter conntrack to reconcile");

        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let help = "Changes of Services that are not in force yet";
        let services_pending = gauge("sync_proxy_rules_service_changes_pending", help);
        let help = "Changes of EndpointSlices that are not in force yet";
        let endpoints_pending = gauge("sync_proxy_rules_endpoint_changes_pending", help);

        let no_local_endpoints = Family::default();
        let help = "Service ports with a Local policy whose endpoints are all on other nodes";
        registry.register("sync_proxy_rules_no_local_endpoints_total", help, no_local_endpoints.clone());
        let livez = Family::default();
        registry.register("proxy_livez", "Answers of /livez", livez.clone());
        let healthz = Family::default();
        registry.register("proxy_healthz", "Answers of /healthz", healthz.clone());
        Self {
            apply_seconds,
            apply_all_seconds,
            apply_some_seconds,
            programming_seconds,
            applied_at,
            queued_at,
            service_changes,
            endpoint_changes,
            services_pending,
            endpoints_pending,
            no_local_endpoints,
            livez,
            healthz,
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn kube_proxys_names() {
        let mut registry = Registry::default();
        let metrics = ProxyMetrics::new(registry.sub_registry_with_prefix("kubeproxy"));
        metrics.no_local_endpoints.get_or_create(&Policy { traffic_policy: "external" }).set(3);
        metrics.livez.get_or_create(&Code { code: 200 }).inc();
        metrics.healthz.get_or_create(&Code { code: 503 }).inc();
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            "sync_proxy_rules_duration_seconds_count 0",
            "sync_full_proxy_rules_duration_seconds_count 0",
            "sync_partial_proxy_rules_duration_seconds_count 0",
            "network_programming_duration_seconds_count 0",
            "sync_proxy_rules_last_timestamp_seconds 0.0",
            "sync_proxy_rules_last_queued_timestamp_seconds 0.0",
            "sync_proxy_rules_endpoint_changes_pending 0",
            "sync_proxy_rules_endpoint_changes_total 0",
            "sync_proxy_rules_service_changes_pending 0",
            "sync_proxy_rules_service_changes_total 0",
            "sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"} 3",
            "proxy_healthz_total{code=\"503\"} 1",
            "proxy_livez_total{code=\"200\"} 1",
            "conntrack_reconciler_sync_duration_seconds_count 0",
            "conntrack_reconciler_deleted_entries_total 0",
        ] {
            let line = format!("kubeproxy_{line}");
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
    }
}
