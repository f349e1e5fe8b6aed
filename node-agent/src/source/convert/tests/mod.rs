//! Objects as manifests have them, and what is found wrong with them.

mod endpoints;
mod pods_and_nodes;
mod services;

use std::net::IpAddr;

use serde_json::json;

use super::*;
use crate::model::objects::{
    Endpoint, EndpointPort, EndpointSlice, LoadBalancerIngress, Node, Pod, Protocol, Service, ServiceCidr, ServicePort,
    ServiceType, TrafficPolicy,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn networks(texts: &[&str]) -> Vec<ipnetwork::IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The object that a manifest of this kind gives, and what is said of it.
fn read(kind: Kind, mut manifest: Value) -> (Option<Object>, String) {
    if manifest.pointer("/metadata/name").is_none() {
        manifest["metadata"]["name"] = "x".into();
    }
    let trimmed = trim_kind(kind, manifest);
    (trimmed.object, trimmed.message)
}

fn key() -> ObjectKey {
    ObjectKey::new("default", "x")
}

#[test]
fn an_object_that_cannot_be_read_is_named() {
    for (manifest, expected) in [
        (json!({"metadata": {"name": "x", "labels": {"a": 1}}}), "metadata.labels.a: invalid type: integer `1`"),
        (json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": "80"}]}}), "spec.ports[0].port: invalid type"),
        (json!({"metadata": {"name": "x"}, "spec": []}), "spec: invalid type: sequence"),
        (json!({"metadata": {"name": ""}}), "metadata.name: is missing"),
        (json!({"metadata": []}), "metadata.name: is missing"),
        (json!("x"), "metadata.name: is missing"),
    ] {
        let text = manifest.to_string();
        let trimmed = trim_kind(Kind::Service, manifest);
        assert_eq!(trimmed.object, None, "{text}");
        assert!(trimmed.message.starts_with(expected), "{text}: {}", trimmed.message);
        assert!(trimmed.message.ends_with("the object is left out"), "{text}: {}", trimmed.message);
    }
}

#[test]
fn many_findings_are_cut_short() {
    let ports: Vec<Value> = (0..100).map(|_| json!({"port": 0})).collect();
    let message = read(Kind::Service, json!({"metadata": {}, "spec": {"ports": ports}})).1;
    assert!(message.ends_with("spec.ports[4].port: 0 is not between 1 and 65535, left out; and 95 more"), "{message}");
}
