//! A Service together with its EndpointSlices.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde_json::{Value, json};

use super::{Endpoint, EndpointSlice, NAMESPACE};
use crate::traffic::Transport;

/// A Service with its endpoints. Its fields can be changed and the whole applied again.
#[derive(Clone, Debug)]
pub struct Service {
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIPs`.
    pub addresses: Vec<IpAddr>,
    ports: Vec<(String, &'static str, u16)>,
    affinity: Option<u32>,
    internal_policy: &'static str,
    created: &'static str,
    annotations: BTreeMap<String, String>,
    /// Fields of `spec` besides those above.
    spec: BTreeMap<String, Value>,
    node_ports: Vec<u16>,
    ingress: Vec<IpAddr>,
    /// The EndpointSlices; the first is the one that `backends` fills.
    pub slices: Vec<EndpointSlice>,
}

impl Service {
    /// One without ports or endpoints.
    pub fn new(name: &str, addresses: &[IpAddr]) -> Self {
        Self {
            name: name.to_owned(),
            addresses: addresses.to_vec(),
            ports: Vec::new(),
            affinity: None,
            internal_policy: "Cluster",
            created: "2026-01-01T00:00:00Z",
            annotations: BTreeMap::new(),
            spec: BTreeMap::new(),
            node_ports: Vec::new(),
            ingress: Vec::new(),
            slices: vec![EndpointSlice::default()],
        }
    }

    /// A TCP port, and the endpoints' port behind it.
    #[must_use]
    pub fn tcp(self, port: u16, target: u16) -> Self {
        self.port(Transport::Tcp.manifest_name(), port, target)
    }

    /// A UDP port, and the endpoints' port behind it.
    #[must_use]
    pub fn udp(self, port: u16, target: u16) -> Self {
        self.port(Transport::Udp.manifest_name(), port, target)
    }

    /// An SCTP port, and the endpoints' port behind it.
    #[must_use]
    pub fn sctp(self, port: u16, target: u16) -> Self {
        self.port(Transport::Sctp.manifest_name(), port, target)
    }

    fn port(mut self, protocol: &'static str, port: u16, target: u16) -> Self {
        let name = format!("{}-{port}", protocol.to_lowercase());
        self.ports.push((name.clone(), protocol, port));
        self.slices[0].ports.push((name, protocol, target));
        self
    }

    /// `sessionAffinity: ClientIP` with this timeout in seconds.
    #[must_use]
    pub fn affinity(mut self, seconds: u32) -> Self {
        self.affinity = Some(seconds);
        self
    }

    /// `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn internal_local(mut self) -> Self {
        self.internal_policy = "Local";
        self
    }

    /// `metadata.creationTimestamp`.
    #[must_use]
    pub fn created(mut self, time: &'static str) -> Self {
        self.created = time;
        self
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// `type: NodePort`, and the ports' numbers in their order.
    #[must_use]
    pub fn node_ports(mut self, numbers: &[u16]) -> Self {
        self.node_ports = numbers.to_vec();
        self.field("type", json!("NodePort"))
    }

    /// `type: LoadBalancer`, whose addresses are these.
    #[must_use]
    pub fn load_balancer(mut self, addresses: &[IpAddr]) -> Self {
        self.ingress = addresses.to_vec();
        self.field("type", json!("LoadBalancer"))
    }

    /// Any field of `spec`; it is as here whatever else is said.
    #[must_use]
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.spec.insert(name.to_owned(), value);
        self
    }

    /// Single-stack: only the address of this family.
    #[must_use]
    pub fn only(mut self, ipv6: bool) -> Self {
        self.addresses.retain(|address| address.is_ipv6() == ipv6);
        self
    }

    /// The endpoints.
    #[must_use]
    pub fn backends(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.set_backends(endpoints);
        self
    }

    /// Other endpoints in place of those of the first slice.
    pub fn set_backends(&mut self, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.slices[0].endpoints = endpoints.into_iter().collect();
    }

    /// Its IPv4 address, with a port.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn v4(&self, port: u16) -> SocketAddr {
        self.at(false, port)
    }

    /// Its IPv6 address, with a port.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn v6(&self, port: u16) -> SocketAddr {
        self.at(true, port)
    }

    /// Its addresses of both families, with a port.
    pub fn both(&self, port: u16) -> Vec<SocketAddr> {
        self.addresses.iter().map(|&address| SocketAddr::new(address, port)).collect()
    }

    #[track_caller]
    fn at(&self, ipv6: bool, port: u16) -> SocketAddr {
        let address = self.addresses.iter().find(|address| address.is_ipv6() == ipv6);
        SocketAddr::new(*address.expect("the Service has an address of that family"), port)
    }

    /// The manifests of the Service and its EndpointSlices. The slices come first: an agent that
    /// reads them one by one then never sees the Service without endpoints.
    pub fn manifests(&self) -> Vec<Value> {
        let slices = self.slices.iter().enumerate();
        let mut manifests: Vec<_> =
            slices.flat_map(|(i, slice)| slice.manifests(&self.name, &format!("{}-{i}", self.name))).collect();
        manifests.push(self.manifest());
        manifests
    }

    /// The manifest of the Service alone.
    pub fn manifest(&self) -> Value {
        let families = self.addresses.iter().map(|address| if address.is_ipv6() { "IPv6" } else { "IPv4" });
        let ports = self.ports.iter().map(
            |(name, protocol, port)| json!({ "name": name, "protocol": protocol, "port": port, "targetPort": name }),
        );
        let mut manifest = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "namespace": NAMESPACE,
                "name": self.name,
                "creationTimestamp": self.created,
                "annotations": self.annotations,
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": self.addresses.first(),
                "clusterIPs": self.addresses,
                "ipFamilies": families.collect::<Vec<_>>(),
                "ports": ports.collect::<Vec<_>>(),
                "internalTrafficPolicy": self.internal_policy,
            },
        });
        if let Some(seconds) = self.affinity {
            manifest["spec"]["sessionAffinity"] = json!("ClientIP");
            manifest["spec"]["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        for (port, number) in self.node_ports.iter().enumerate() {
            manifest["spec"]["ports"][port]["nodePort"] = json!(number);
        }
        for (field, value) in &self.spec {
            manifest["spec"][field] = value.clone();
        }
        if !self.ingress.is_empty() {
            let ingress: Vec<_> = self.ingress.iter().map(|ip| json!({ "ip": ip })).collect();
            manifest["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        }
        manifest
    }
}
