//! `v1` Service.

use k8s_openapi::{
    api::core::v1::{self as api, LoadBalancerStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Findings, Trim, address::parse_cidr, label, shared};
use crate::model::objects::{
    Kind, LoadBalancerIngress, Object, ObjectKey, Service, ServicePort, ServiceType, TrafficPolicy,
};

/// Names the one proxy that shall serve the Service. It means nothing at an EndpointSlice, as
/// to kube-proxy since Kubernetes 1.36.
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Annotations of ours begin so.
const ANNOTATION_PREFIX: &str = "fairlead.io/";
/// `timeoutSeconds` where a Service with ClientIP affinity gives none, as the API server sets it.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

impl Trim for api::Service {
    const BECOMES: Kind = Kind::Service;
    const NAMESPACED: bool = true;

    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object> {
        let Self { metadata, spec, status } = self;
        let spec = spec.unwrap_or_default();
        let policies = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
        let source_ranges: Vec<String> = spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter(|range| !range.trim().is_empty())
            .cloned()
            .collect();
        Some(
            Service {
                created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
                service_type: findings.word(
                    "spec.type",
                    spec.type_.as_deref(),
                    &[
                        ("ClusterIP", ServiceType::ClusterIp),
                        ("NodePort", ServiceType::NodePort),
                        ("LoadBalancer", ServiceType::LoadBalancer),
                        ("ExternalName", ServiceType::ExternalName),
                    ],
                    ServiceType::ClusterIp,
                ),
                foreign: label(&metadata, LABEL_PROXY_NAME).is_some(),
                cluster_ips: cluster_ips(&spec, findings),
                external_ips: findings.ips("spec.externalIPs", spec.external_ips.iter().flatten()),
                load_balancer: load_balancer(status.and_then(|status| status.load_balancer), findings),
                unread_source_ranges: source_ranges.iter().any(|range| parse_cidr(range).is_none()),
                source_ranges: findings.cidrs("spec.loadBalancerSourceRanges", &source_ranges),
                ports: ports(spec.ports.as_deref().unwrap_or_default(), findings),
                affinity_seconds: affinity(&spec, findings),
                internal_policy: findings.word(
                    "spec.internalTrafficPolicy",
                    spec.internal_traffic_policy.as_deref(),
                    &policies,
                    TrafficPolicy::Cluster,
                ),
                external_policy: findings.word(
                    "spec.externalTrafficPolicy",
                    spec.external_traffic_policy.as_deref(),
                    &policies,
                    TrafficPolicy::Cluster,
                ),
                health_check_node_port: findings.optional_port("spec.healthCheckNodePort", spec.health_check_node_port),
                annotations: annotations(&metadata),
                key,
            }
            .into(),
        )
    }
}

/// `clusterIPs`, or `clusterIP` where a manifest gives only that. "None" in either is headless.
fn cluster_ips(spec: &api::ServiceSpec, findings: &mut Findings) -> Vec<std::net::IpAddr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    if spec.cluster_ip.as_deref() == Some("None") || listed.iter().any(|ip| ip == "None") {
        return Vec::new();
    }
    let (field, ips) =
        if listed.is_empty() { ("spec.clusterIP", spec.cluster_ip.as_slice()) } else { ("spec.clusterIPs", listed) };
    findings.ips(field, ips.iter().filter(|ip| !ip.is_empty()))
}

fn load_balancer(status: Option<LoadBalancerStatus>, findings: &mut Findings) -> Vec<LoadBalancerIngress> {
    let mut ingress = Vec::new();
    for (index, entry) in status.and_then(|status| status.ingress).unwrap_or_default().into_iter().enumerate() {
        // A host name alone is for DNS.
        let Some(text) = entry.ip.filter(|ip| !ip.is_empty()) else { continue };
        if let Some(ip) = findings.ip(format_args!("status.loadBalancer.ingress[{index}].ip"), &text) {
            ingress.push(LoadBalancerIngress { ip, proxy: entry.ip_mode.as_deref() == Some("Proxy") });
        }
    }
    ingress
}

fn ports(ports: &[api::ServicePort], findings: &mut Findings) -> Vec<ServicePort> {
    let mut kept: Vec<ServicePort> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let protocol = findings.protocol(format_args!("spec.ports[{index}].protocol"), port.protocol.as_deref());
        let number = findings.port(format_args!("spec.ports[{index}].port"), port.port);
        let node_port = findings.optional_port(format_args!("spec.ports[{index}].nodePort"), port.node_port);
        let (Some(protocol), Some(number)) = (protocol, number) else { continue };
        if kept.iter().any(|other| other.port == number && other.protocol == protocol) {
            findings.add(
                format_args!("spec.ports[{index}].port"),
                format_args!("{number} stands there twice with the same protocol, left out"),
            );
            continue;
        }
        kept.push(ServicePort { name: shared(port.name.as_deref()), protocol, port: number, node_port });
    }
    kept
}

fn affinity(spec: &api::ServiceSpec, findings: &mut Findings) -> Option<u32> {
    if !findings.word(
        "spec.sessionAffinity",
        spec.session_affinity.as_deref(),
        &[("None", false), ("ClientIP", true)],
        false,
    ) {
        return None;
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client_ip.and_then(|config| config.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY_SECONDS);
    };
    match u32::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Some(seconds),
        _ => {
            findings.add(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                format_args!("{seconds} is not above 0, {DEFAULT_AFFINITY_SECONDS} is taken"),
            );
            Some(DEFAULT_AFFINITY_SECONDS)
        }
    }
}

fn annotations(metadata: &ObjectMeta) -> Vec<(std::sync::Arc<str>, std::sync::Arc<str>)> {
    metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(name, _)| name.starts_with(ANNOTATION_PREFIX))
        .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
        .collect()
}
