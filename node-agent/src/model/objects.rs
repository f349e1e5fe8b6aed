//! Kubernetes objects, cut down to the fields that Fairlead uses.
//!
//! Invariant: whatever is here has been validated; what an object said that is
//! impossible was left out by the source, which reports it. This module must not
//! know where objects come from, nor what becomes of them.

use std::{fmt, net::IpAddr, sync::Arc};

use datapath::abi::protocol;
use ipnetwork::IpNetwork;

pub use super::{cluster_network_policy::ClusterNetworkPolicy, network_policy::NetworkPolicy};

/// The kinds of objects that Fairlead reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Pod.
    Pod,
    /// `v1` Node.
    Node,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
    /// `v1` Namespace.
    Namespace,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl Kind {
    /// Every kind. The agent is in sync once each of them has been listed.
    pub const ALL: [Self; 8] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
        Self::ServiceCidr,
        Self::Namespace,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
    ];

    /// The name as it stands in a manifest's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object's namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace, or "".
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of a namespaced object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// Any object, shared: the model and a source that must remember what it said hold one copy.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Node.
    Node(Arc<Node>),
    /// A ServiceCIDR.
    ServiceCidr(Arc<ServiceCidr>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A NetworkPolicy.
    NetworkPolicy(Arc<NetworkPolicy>),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(Arc<ClusterNetworkPolicy>),
}

impl Object {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::Namespace(_) => Kind::Namespace,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
        }
    }

    /// Its namespace and name.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Service(o) => &o.key,
            Self::EndpointSlice(o) => &o.key,
            Self::Pod(o) => &o.key,
            Self::Node(o) => &o.key,
            Self::ServiceCidr(o) => &o.key,
            Self::Namespace(o) => &o.key,
            Self::NetworkPolicy(o) => &o.key,
            Self::ClusterNetworkPolicy(o) => &o.key,
        }
    }
}

macro_rules! object_from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        }
    )*};
}

object_from!(Service, EndpointSlice, Pod, Node, ServiceCidr, Namespace, NetworkPolicy, ClusterNetworkPolicy);

/// A transport protocol that a Service port can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in packets, as IANA assigns it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp => protocol::SCTP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A Service, KEP-1 and its many successors.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp` in Unix seconds, 0 if unknown: of two
    /// Services that claim one address and port, the older has it.
    pub created: i64,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// Not for us: it names another proxy (`service.kubernetes.io/service-proxy-name`).
    pub foreign: bool,
    /// `spec.clusterIPs`, without "None"; empty: headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress` entries that have an address.
    pub load_balancer: Vec<LoadBalancerIngress>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNetwork>,
    /// Some source range could not be read: where none of a family could, nobody may come in.
    pub unread_source_ranges: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP` and its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, 0 if none.
    pub health_check_node_port: u16,
    /// `metadata.annotations` whose keys begin with `fairlead.io/`.
    pub annotations: Vec<(Arc<str>, Arc<str>)>,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// The default.
    #[default]
    ClusterIp,
    /// ClusterIP and a port on every node.
    NodePort,
    /// NodePort and addresses of a load balancer.
    LoadBalancer,
    /// A DNS alias; no proxy's concern.
    ExternalName,
}

/// One of a Service's ports.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Its name, "" if it has none; EndpointSlices' ports match by it.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the ClusterIP, never 0.
    pub port: u16,
    /// The port on every node, 0 if none.
    pub node_port: u16,
}

/// An address of the cloud's load balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancerIngress {
    /// The address.
    pub ip: IpAddr,
    /// `ipMode: Proxy`: traffic from the cluster goes to the load balancer itself.
    pub proxy: bool,
}

/// Which endpoints a kind of client may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service it belongs to, by label `kubernetes.io/service-name`; "" if none.
    pub service: Arc<str>,
    /// Whether `addressType` is IPv6; FQDN slices are left out by the source.
    pub ipv6: bool,
    /// `ports`; one without a port number is left out.
    pub ports: Vec<EndpointPort>,
    /// `endpoints`, each with its first address, as kube-proxy takes it.
    pub endpoints: Vec<Endpoint>,
    /// When what it says came about, in Unix microseconds, 0 if unknown: annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`.
    pub triggered: i64,
}

/// A port of every endpoint in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Its name, "" if it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number, never 0.
    pub port: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// `conditions`, nil read as kube-proxy does: ready, serving, not terminating.
    pub ready: bool,
    /// Serving, though it may be terminating.
    pub serving: bool,
    /// Terminating.
    pub terminating: bool,
    /// `nodeName`, "" if none.
    pub node: Arc<str>,
    /// `hints.forZones`, sorted.
    pub zone_hints: Box<[Arc<str>]>,
    /// `hints.forNodes`, sorted.
    pub node_hints: Box<[Arc<str>]>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.nodeName`, "" until it is scheduled.
    pub node: Arc<str>,
    /// `status.podIPs` (or `podIP`).
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `status.phase` is Succeeded or Failed: its addresses may be another's by now.
    pub finished: bool,
    /// `metadata.labels`, sorted by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// The containers' named ports.
    pub named_ports: Vec<EndpointPort>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name; the namespace is "".
    pub key: ObjectKey,
    /// `metadata.creationTimestamp` in Unix seconds, 0 if unknown: of two Nodes that
    /// have overlapping podCIDRs, the older keeps its own.
    pub created: i64,
    /// `spec.podCIDRs` (or `podCIDR`).
    pub pod_cidrs: Vec<IpNetwork>,
    /// `status.addresses` of type InternalIP, then ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`, "" if none.
    pub zone: Arc<str>,
    /// It carries the taint `ToBeDeletedByClusterAutoscaler` or is being deleted.
    pub deleting: bool,
}

/// A ServiceCIDR.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceCidr {
    /// Its name; the namespace is "".
    pub key: ObjectKey,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNetwork>,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// Its name; the key's namespace is "".
    pub key: ObjectKey,
    /// `metadata.labels`, sorted by name, `kubernetes.io/metadata.name` among them.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

impl Namespace {
    /// The label that the API server gives to each namespace, with its name as the value.
    pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

    /// One of this name and with these labels, sorted by name, besides the one that it has anyway.
    pub fn new(name: Arc<str>, mut labels: Vec<(Arc<str>, Arc<str>)>) -> Self {
        match labels.binary_search_by(|(label, _)| (**label).cmp(Self::NAME_LABEL)) {
            Ok(at) => labels[at].1 = Arc::clone(&name),
            Err(at) => labels.insert(at, (Self::NAME_LABEL.into(), Arc::clone(&name))),
        }
        Self { key: ObjectKey { namespace: "".into(), name }, labels }
    }
}
