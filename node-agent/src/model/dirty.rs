//! What has changed since somebody last looked.

use std::collections::BTreeSet;

use super::objects::ObjectKey;

/// What must be looked at again: whatever differs from the last look is named
/// here, and with it all that depends on it. A key may name what is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services that changed themselves or whose EndpointSlices did. A Service
    /// may be named that isn't there (yet), as EndpointSlices may come before it.
    pub services: BTreeSet<ObjectKey>,
    /// This node's own Node object: its zone, addresses, podCIDRs or being deleted.
    pub own_node: bool,
    /// Nodes, this one among them.
    pub nodes: BTreeSet<ObjectKey>,
    /// Pods, on any node.
    pub pods: BTreeSet<ObjectKey>,
    /// Some ServiceCIDR.
    pub service_cidrs: bool,
    /// Namespaces.
    pub namespaces: BTreeSet<ObjectKey>,
    /// NetworkPolicies.
    pub policies: BTreeSet<ObjectKey>,
    /// ClusterNetworkPolicies.
    pub cluster_policies: BTreeSet<ObjectKey>,
}

impl Dirty {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
