//! `discovery.k8s.io/v1` EndpointSlice.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{api::discovery::v1 as api, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Findings, Trim, label, shared};
use crate::model::objects::{Endpoint, EndpointPort, EndpointSlice, Kind, Object, ObjectKey};

const ANNOTATION_TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Set by the EndpointSlice controller where no proxy needs the slice. It means nothing at a
/// Service, as to kube-proxy since Kubernetes 1.36.
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Trim for api::EndpointSlice {
    const BECOMES: Kind = Kind::EndpointSlice;
    const NAMESPACED: bool = true;

    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object> {
        if label(&self.metadata, LABEL_HEADLESS).is_some() {
            return None;
        }
        let ipv6 = match self.address_type.as_str() {
            "IPv4" => false,
            "IPv6" => true,
            // For DNS; no proxy can use it.
            "FQDN" => return None,
            other => {
                findings.add(
                    "addressType",
                    format_args!("{other:?} is none of IPv4, IPv6 and FQDN, the object is left out"),
                );
                return None;
            }
        };
        Some(
            EndpointSlice {
                service: shared(label(&self.metadata, LABEL_SERVICE_NAME)),
                ipv6,
                ports: ports(self.ports.as_deref().unwrap_or_default(), findings),
                endpoints: self
                    .endpoints
                    .iter()
                    .flatten()
                    .enumerate()
                    .filter_map(|(index, from)| endpoint(index, from, ipv6, findings))
                    .collect(),
                triggered: triggered(&self.metadata),
                key,
            }
            .into(),
        )
    }
}

fn triggered(metadata: &ObjectMeta) -> i64 {
    let text = metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION_TRIGGERED));
    // It's for a metric only: what can't be read isn't measured.
    text.and_then(|text| text.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_microsecond)
}

fn ports(ports: &[api::EndpointPort], findings: &mut Findings) -> Vec<EndpointPort> {
    let mut kept = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        // "All ports", which kube-proxy passes over too.
        let Some(number) = port.port else { continue };
        let protocol = findings.protocol(format_args!("ports[{index}].protocol"), port.protocol.as_deref());
        let number = findings.port(format_args!("ports[{index}].port"), number);
        if let (Some(protocol), Some(port_number)) = (protocol, number) {
            kept.push(EndpointPort { name: shared(port.name.as_deref()), protocol, port: port_number });
        }
    }
    kept
}

fn endpoint(index: usize, from: &api::Endpoint, ipv6: bool, findings: &mut Findings) -> Option<Endpoint> {
    let Some(text) = from.addresses.first() else {
        findings.add(format_args!("endpoints[{index}].addresses"), "is empty, the endpoint is left out");
        return None;
    };
    let field = format!("endpoints[{index}].addresses[0]");
    let address = findings.ip(&field, text)?;
    if address.is_ipv6() != ipv6 {
        findings.add(&field, format_args!("{text:?} is not of the slice's addressType, left out"));
        return None;
    }
    let conditions = from.conditions.as_ref();
    let hints = from.hints.as_ref();
    Some(Endpoint {
        address,
        ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        node: shared(from.node_name.as_deref()),
        zone_hints: sorted(
            hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten().map(|zone| &zone.name),
        ),
        node_hints: sorted(
            hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten().map(|node| &node.name),
        ),
    })
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Box<[Arc<str>]> {
    let mut names: Vec<Arc<str>> = names.map(|name| name.as_str().into()).collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}
