//! Services and endpoints as they are in force, as `fairlead service` and `fairlead
//! endpoint` show them.
//!
//! This module must not know where any of it comes from.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Which Services are wanted; all, where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceQuery {
    /// Those of this namespace.
    pub namespace: Option<String>,
    /// Those of these names, or `namespace/name`.
    pub names: Vec<String>,
    /// Those that are dialled at this address, or have it as a backend.
    pub address: Option<IpAddr>,
}

/// Which endpoints are wanted; all, where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointQuery {
    /// Those of Services of this namespace.
    pub namespace: Option<String>,
    /// Those of Services of these names, or `namespace/name`.
    pub services: Vec<String>,
    /// Those on this node.
    pub node: Option<String>,
    /// Those at this address.
    pub address: Option<IpAddr>,
}

/// The answer to a [`ServiceQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceList {
    /// By namespace and name.
    pub services: Vec<ServiceReport>,
    /// Why it may not be what the cluster wants.
    pub warnings: Vec<String>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.type`, or `HostPort`: a pod's hostPorts.
    #[serde(rename = "type")]
    pub service_type: String,
    /// How a backend is selected.
    pub algorithm: String,
    /// Session affinity by client address in seconds, 0: none.
    pub affinity_seconds: u32,
    /// Its ports, each in each of its families.
    pub ports: Vec<PortReport>,
    /// What can't be as it wants.
    pub problems: Vec<String>,
}

/// A port of a Service in an address family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortReport {
    /// Its name, or "".
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Where it is dialled.
    pub frontends: Vec<FrontendReport>,
    /// Whom clients reach there.
    pub sets: Vec<SetReport>,
    /// Whom a load balancer's address serves; empty: everybody.
    pub source_ranges: Vec<String>,
    /// How many connections and flows to it this node has begun.
    #[serde(default)]
    pub connections: u64,
}

/// A place where a Service is dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendReport {
    /// `ClusterIP`, `ExternalIP`, `LoadBalancer`, `NodePort` or `HostPort`.
    pub kind: String,
    /// The address; none: each of the node's that serves NodePorts.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Why it isn't in force; else empty.
    pub trouble: String,
}

/// An endpoint set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetReport {
    /// The traffic policy that it is for: `Cluster` or `Local`.
    pub policy: String,
    /// Whose connections go there: `internal`, `external`.
    pub serves: Vec<String>,
    /// Why these: `ready`, `node-hints`, `zone-hints`, `serving-terminating`, `no-endpoint`.
    pub because: String,
    /// What becomes of a connection though there is no backend: `rejected` or `dropped`; else empty.
    pub when_empty: String,
    /// Those that the tables name.
    pub backends: Vec<BackendReport>,
    /// Why the tables don't name what they should; else empty.
    pub trouble: String,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendReport {
    /// Its address and port.
    pub address: SocketAddr,
    /// The Pod, as `namespace/name`, or the Node, as `node/name`.
    pub name: Option<String>,
    /// It is on this node.
    pub local: bool,
}

/// The answer to an [`EndpointQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointList {
    /// By address, port and protocol.
    pub endpoints: Vec<EndpointReport>,
    /// Why it may not be what the cluster wants.
    pub warnings: Vec<String>,
}

/// An endpoint of one or more Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointReport {
    /// Its address and port.
    pub address: SocketAddr,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The Pod, as `namespace/name`, or the Node, as `node/name`.
    pub name: Option<String>,
    /// Its node, or "".
    pub node: String,
    /// `ready`, `serving-terminating`, `terminating` or `not-ready`.
    pub state: String,
    /// Whom it serves.
    pub services: Vec<EndpointUse>,
    /// Translated flows to it that this node tracks (TCP that was balanced at connect() isn't
    /// translated).
    pub flows: u64,
    /// Connections that are counted, for Services that choose by them.
    pub connections: u64,
}

/// An endpoint in the hands of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointUse {
    /// The Service, as `namespace/name`.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// It is in the set for policy Cluster.
    pub cluster: bool,
    /// It is in the set for policy Local.
    pub local: bool,
    /// Its backend's id in the tables; none: it isn't in force.
    pub backend: Option<u32>,
}
