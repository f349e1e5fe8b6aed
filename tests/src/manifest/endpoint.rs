//! Endpoints and the slices they come in.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::NAMESPACE;

/// An endpoint: a pod behind a Service, in the state that its conditions say.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its addresses, at most one of a family.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones`.
    pub zones: Vec<String>,
}

impl Endpoint {
    /// A ready one.
    pub fn new(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zones: Vec::new(),
        }
    }

    /// On that node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Terminating, and serving or no longer.
    #[must_use]
    pub fn terminating(mut self, serving: bool) -> Self {
        (self.ready, self.serving, self.terminating) = (false, serving, true);
        self
    }

    /// Neither ready nor serving.
    #[must_use]
    pub fn not_ready(mut self) -> Self {
        (self.ready, self.serving) = (false, false);
        self
    }

    fn manifest(&self, address: IpAddr) -> Value {
        let mut manifest = json!({
            "addresses": [address],
            "conditions": { "ready": self.ready, "serving": self.serving, "terminating": self.terminating },
        });
        if let Some(node) = &self.node {
            manifest["nodeName"] = json!(node);
        }
        if !self.zones.is_empty() {
            let zones: Vec<_> = self.zones.iter().map(|zone| json!({ "name": zone })).collect();
            manifest["hints"] = json!({ "forZones": zones });
        }
        manifest
    }
}

/// A Service's EndpointSlices of both families over the same endpoints and ports.
#[derive(Clone, Debug, Default)]
pub struct EndpointSlice {
    /// Each port's name, protocol and number.
    pub ports: Vec<(String, &'static str, u16)>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl EndpointSlice {
    /// The manifests: one for each family that an endpoint has, and for IPv4 at least.
    pub fn manifests(&self, service: &str, name: &str) -> [Value; 2] {
        [false, true].map(|ipv6| {
            let kind = if ipv6 { "IPv6" } else { "IPv4" };
            let of_family = self.endpoints.iter().filter_map(|endpoint| {
                let address = endpoint.addresses.iter().find(|address| address.is_ipv6() == ipv6)?;
                Some(endpoint.manifest(*address))
            });
            let ports = self
                .ports
                .iter()
                .map(|(name, protocol, port)| json!({ "name": name, "protocol": protocol, "port": port }));
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "namespace": NAMESPACE,
                    "name": format!("{name}-{}", kind.to_lowercase()),
                    "labels": { "kubernetes.io/service-name": service },
                },
                "addressType": kind,
                "ports": ports.collect::<Vec<_>>(),
                "endpoints": of_family.collect::<Vec<_>>(),
            })
        })
    }
}
