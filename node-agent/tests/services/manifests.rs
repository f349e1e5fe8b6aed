//! Just enough of a reader of manifests for the cases in kube-proxy's truth table.

use std::{net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use node_agent::model::objects::{
    Endpoint, EndpointPort, EndpointSlice, LoadBalancerIngress, ObjectKey, Protocol, Service, ServicePort, ServiceType,
    TrafficPolicy,
};
use serde_norway::Value;

/// A Service from its manifest.
pub fn service(manifest: &Value) -> Service {
    let (spec, labels) = (&manifest["spec"], &manifest["metadata"]["labels"]);
    let policy = |field: &str| if spec[field] == "Local" { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let timeout = || spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_u64().unwrap_or(10_800);
    let ips = |field: &str| list(&spec[field]).iter().filter(|ip| *ip != "None").map(|ip| address(&text(ip))).collect();
    Service {
        key: key(manifest),
        created: 0,
        service_type: match &*text(&spec["type"]) {
            "NodePort" => ServiceType::NodePort,
            "LoadBalancer" => ServiceType::LoadBalancer,
            "ExternalName" => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        },
        foreign: !labels["service.kubernetes.io/service-proxy-name"].is_null(),
        cluster_ips: ips("clusterIPs"),
        external_ips: ips("externalIPs"),
        load_balancer: list(&manifest["status"]["loadBalancer"]["ingress"])
            .iter()
            .filter(|ingress| !ingress["ip"].is_null())
            .map(|ingress| LoadBalancerIngress {
                ip: address(&text(&ingress["ip"])),
                proxy: ingress["ipMode"] == "Proxy",
            })
            .collect(),
        source_ranges: list(&spec["loadBalancerSourceRanges"]).iter().map(|range| network(&text(range))).collect(),
        unread_source_ranges: false,
        ports: list(&spec["ports"])
            .iter()
            .map(|port| ServicePort {
                name: text(&port["name"]),
                protocol: protocol(&port["protocol"]),
                port: number(&port["port"]).expect("a Service's port"),
                node_port: number(&port["nodePort"]).unwrap_or(0),
            })
            .collect(),
        affinity_seconds: (spec["sessionAffinity"] == "ClientIP").then(|| timeout() as u32),
        internal_policy: policy("internalTrafficPolicy"),
        external_policy: policy("externalTrafficPolicy"),
        health_check_node_port: number(&spec["healthCheckNodePort"]).unwrap_or(0),
        annotations: vec![],
    }
}

/// An EndpointSlice from its manifest.
pub fn slice(manifest: &Value) -> EndpointSlice {
    let ports = list(&manifest["ports"]).iter().filter_map(|port| {
        let port_number = number(&port["port"])?;
        Some(EndpointPort { name: text(&port["name"]), protocol: protocol(&port["protocol"]), port: port_number })
    });
    EndpointSlice {
        key: key(manifest),
        service: text(&manifest["metadata"]["labels"]["kubernetes.io/service-name"]),
        ipv6: manifest["addressType"] == "IPv6",
        ports: ports.collect(),
        endpoints: list(&manifest["endpoints"]).iter().map(endpoint).collect(),
        triggered: 0,
    }
}

fn endpoint(manifest: &Value) -> Endpoint {
    let condition = |name: &str| manifest["conditions"][name].as_bool();
    let hints = |field: &str| list(&manifest["hints"][field]).iter().map(|hint| text(&hint["name"])).collect();
    let ready = condition("ready").unwrap_or(true);
    Endpoint {
        address: address(&text(&manifest["addresses"][0])),
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        node: text(&manifest["nodeName"]),
        zone_hints: hints("forZones"),
        node_hints: hints("forNodes"),
    }
}

/// An address, where an IPv4 one may have leading zeros as old objects do.
pub fn address(text: &str) -> IpAddr {
    let plain = |part: &str| part.parse::<u8>().map(|number| number.to_string());
    let octets: Result<Vec<_>, _> = text.split('.').map(plain).collect();
    octets
        .map_or(text.to_owned(), |octets| octets.join("."))
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} is no address"))
}

/// A CIDR, where blanks don't count and its address may have leading zeros too.
pub fn network(text: &str) -> IpNetwork {
    let (ip, prefix) = text.trim().split_once('/').unwrap_or_else(|| panic!("{text:?} is no CIDR"));
    let prefix = prefix.trim_start_matches('0').parse().unwrap_or(0);
    IpNetwork::new(address(ip), prefix).unwrap_or_else(|_| panic!("{text:?} is no CIDR"))
}

/// The elements of a list, none if it isn't one.
pub fn list(value: &Value) -> &[Value] {
    value.as_sequence().map_or(&[], Vec::as_slice)
}

/// A string, "" if it isn't one.
pub fn text(value: &Value) -> Arc<str> {
    value.as_str().unwrap_or("").into()
}

/// A port number.
pub fn number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

/// A protocol's name, TCP by default.
pub fn protocol(value: &Value) -> Protocol {
    match value.as_str() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn key(manifest: &Value) -> ObjectKey {
    ObjectKey::new(text(&manifest["metadata"]["namespace"]), text(&manifest["metadata"]["name"]))
}
