//! Kubernetes objects as manifests, and the directory that stands for the API server.

mod crowd;
mod directory;
mod endpoint;
pub mod policies;
mod service;

pub use crowd::{CROWD, Where, crowd, other_node};
pub use directory::Directory;
pub use endpoint::{Endpoint, EndpointSlice};
pub use service::Service;

use std::net::IpAddr;

use serde_json::{Value, json};

/// The namespace that every namespaced object of the tests is in.
pub const NAMESPACE: &str = "default";

/// A Node with these podCIDRs and addresses.
pub fn node(name: &str, zone: &str, pod_cidrs: &[String], addresses: &[IpAddr]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
        "spec": { "podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs },
        "status": { "addresses": addresses },
    })
}

/// A Pod of that node, before it has an address.
pub fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": NAMESPACE, "name": name, "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] },
        "status": { "phase": "Running" },
    })
}

/// A ServiceCIDR.
pub fn service_cidr(name: &str, cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": { "name": name },
        "spec": { "cidrs": cidrs },
    })
}
