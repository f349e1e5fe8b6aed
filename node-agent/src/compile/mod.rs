//! Kubernetes objects become desired table entries.
//!
//! Invariant: everything here is a pure function of the objects given, so the
//! outcome can't depend on the order in which they came. It must not know what
//! stands in the tables, which ids its entries will get, nor any kernel.

mod compiled;
mod endpoints;
mod merge;
mod service;

use std::sync::Arc;

pub use compiled::{CompiledEndpoint, CompiledFrontend, CompiledPort, CompiledService, EndpointSet};
pub use endpoints::{Membership, any_usable, categorize};
pub use service::service;

/// What must be known of the node that is compiled for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// The Node's name: endpoints with it are local.
    pub name: Arc<str>,
    /// The Node's label `topology.kubernetes.io/zone`, "" if it has none.
    pub zone: Arc<str>,
}
