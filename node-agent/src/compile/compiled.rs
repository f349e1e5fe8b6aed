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
    /// Addresses of which every port that is nobody's is rejected. Distinct.
    pub addresses: Vec<Addr>,
}

impl CompiledService {
    /// Whether the Service wants nothing at all.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.addresses.is_empty()
    }
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
}

impl CompiledPort {
    /// What tells the ports of one Service apart, for as long as it exists.
    pub fn identity(&self) -> (Family, u8, u16) {
        (self.family, self.protocol, self.port)
    }
}

/// A place where clients dial, and whom they reach there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledFrontend {
    /// Address, port and protocol.
    pub key: FrontendKey,
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
