//! What a Service compiles to: its frontends and endpoints, without ids.
//!
//! Invariant: equal cluster states give equal values, so comparing two of them
//! tells whether anything has to be done.

use datapath::abi::{Addr, Be16, Family, FrontendKey};

/// All that one Service wants in the tables; empty if it is none of our business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompiledService {
    /// See [`crate::model::objects::Service::created`].
    pub created: i64,
    /// One per service port and address family, distinct by
    /// [`CompiledPort::identity`]; no frontend stands in two of them.
    pub ports: Vec<CompiledPort>,
    /// The addresses at which it is dialled, NodePorts aside. Distinct.
    pub addresses: Vec<CompiledAddress>,
    /// Its health check for load balancers, if it has one.
    pub health_check: Option<HealthCheck>,
    /// What it says that can't be, for its user.
    pub problems: Vec<String>,
}

impl CompiledService {
    /// Whether the Service wants nothing at all.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.addresses.is_empty()
    }
}

/// An address at which a Service is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledAddress {
    /// The address.
    pub addr: Addr,
    /// What becomes of the ports that are nobody's: rejected at a ClusterIP, none of
    /// our business elsewhere.
    pub rejects: bool,
}

/// What is served at a `healthCheckNodePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// How many ready endpoints are on this node; none: the Service isn't of this family.
    pub v4: Option<usize>,
    /// The same of IPv6.
    pub v6: Option<usize>,
}

/// How a backend is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Each as likely as the other.
    #[default]
    Random,
    /// Clients from outside by a hash of their flow, alike on every node.
    Maglev,
    /// Of two random ones that with fewer connections.
    LeastConnections,
}

/// One service port in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledPort {
    /// The family of its frontends and endpoints.
    pub family: Family,
    /// An IP protocol number.
    pub protocol: u8,
    /// The Service's port, in the host's byte order.
    pub port: u16,
    /// Where clients dial it.
    pub frontends: Vec<CompiledFrontend>,
    /// The endpoints that flows may go to, ready or serving, sorted by address
    /// and port, each once.
    pub endpoints: Vec<CompiledEndpoint>,
    /// Some endpoint could take traffic: a set that is empty all the same drops,
    /// otherwise it rejects.
    pub usable: bool,
    /// Session affinity in seconds, 0: none.
    pub affinity_seconds: u32,
    /// Whom frontends with [`datapath::abi::FrontendValue::SOURCE_RANGES`] serve; sorted, each once.
    pub source_ranges: Vec<SourceRange>,
}

impl CompiledPort {
    /// What tells the ports of one Service apart, for as long as it exists.
    pub fn identity(&self) -> (Family, u8, u16) {
        (self.family, self.protocol, self.port)
    }
}

/// A network of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRange {
    /// The network's address.
    pub addr: Addr,
    /// Significant bits of it: those of an IPv4 prefix plus 96.
    pub prefix_len: u32,
}

/// A place where clients dial, and whom they reach there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledFrontend {
    /// Address (unspecified for a NodePort), port and protocol.
    pub key: FrontendKey,
    /// Those flags of [`datapath::abi::FrontendValue`] that don't depend on endpoints.
    pub flags: u32,
    /// Whom clients in the cluster reach.
    pub internal: EndpointSet,
    /// Whom clients outside reach.
    pub external: EndpointSet,
}

/// One of the two sets that endpoints are sorted into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointSet {
    /// Those for traffic policy Cluster.
    Cluster,
    /// Those for traffic policy Local.
    Local,
}

/// An endpoint to which flows may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledEndpoint {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Be16,
    /// It is in the Cluster set.
    pub cluster: bool,
    /// It is in the Local set.
    pub local: bool,
    /// It runs on this node.
    pub on_node: bool,
}

impl CompiledEndpoint {
    /// Whether it is in the set.
    pub fn is_in(&self, set: EndpointSet) -> bool {
        match set {
            EndpointSet::Cluster => self.cluster,
            EndpointSet::Local => self.local,
        }
    }
}
