//! Kubernetes objects become desired table entries.
//!
//! Invariant: everything here is a pure function of the objects given, so the
//! outcome can't depend on the order in which they came. It must not know what
//! stands in the tables, which ids its entries will get, nor any kernel.

mod algorithm;
mod compiled;
mod endpoints;
mod explain;
mod frontends;
mod health;
mod merge;
mod service;
mod source_ranges;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

pub use compiled::{
    Algorithm, CompiledAddress, CompiledEndpoint, CompiledFrontend, CompiledPort, CompiledService, EndpointSet,
    HealthCheck, SourceRange,
};
pub use endpoints::{Because, Membership, any_usable, because, categorize};
pub use explain::{Candidate, FrontendKind, PortAccount, algorithm, explain, frontend_kind};
pub use frontends::addresses;
pub use service::service;

/// What must be known of the node that is compiled for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// The Node's name: endpoints with it are local.
    pub name: Arc<str>,
    /// The Node's label `topology.kubernetes.io/zone`, "" if it has none.
    pub zone: Arc<str>,
    /// Its primary IPv4 address, if it has any.
    pub v4: Option<Ipv4Addr>,
    /// Its primary IPv6 address, if it has any.
    pub v6: Option<Ipv6Addr>,
    /// How backends are selected where a Service doesn't say.
    pub algorithm: Algorithm,
}
