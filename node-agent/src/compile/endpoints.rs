//! Which endpoints of a service port serve which traffic policy, exactly as
//! kube-proxy decides it (its `CategorizeEndpoints`, Kubernetes v1.36).
//!
//! Two sets are told apart, each with its own fallback:
//!
//! - *Cluster*: the ready endpoints, narrowed to those hinted for this node or
//!   else for its zone where the hints allow it; if none is ready anywhere,
//!   those that still serve while they terminate.
//! - *Local*: this node's ready endpoints, whatever their hints; if none of
//!   them is ready, this node's that still serve while they terminate.
//!
//! A Service's policies only choose between the two sets, so this module must
//! not know them.

use std::sync::Arc;

use super::NodeContext;
use crate::model::objects::Endpoint;

/// In which of the two sets an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Traffic under policy Cluster may reach it.
    pub cluster: bool,
    /// Traffic under policy Local may reach it.
    pub local: bool,
}

/// Decides for each endpoint of one service port, in the order given, in which
/// sets it is. The endpoints must be distinct by address and port.
pub fn categorize(endpoints: &[&Endpoint], node: &NodeContext) -> Vec<Membership> {
    let on_node = |endpoint: &Endpoint| is_local(endpoint, node);
    let any_ready = endpoints.iter().any(|e| e.ready);
    let any_local_ready = endpoints.iter().any(|e| e.ready && on_node(e));
    let topology = Topology::of(endpoints, node);

    endpoints
        .iter()
        .map(|e| Membership {
            cluster: if any_ready { e.ready && topology.admits(e, node) } else { is_leaving(e) },
            local: on_node(e) && if any_local_ready { e.ready } else { is_leaving(e) },
        })
        .collect()
}

/// Why an endpoint set is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// They are ready.
    Ready,
    /// They are ready, and hinted for this node.
    NodeHints,
    /// They are ready, and hinted for this node's zone.
    ZoneHints,
    /// None is ready, and these still serve while they terminate.
    ServingTerminating,
    /// There is none.
    NoEndpoint,
}

/// Why the Cluster set and the Local set are what [`categorize`] makes of the same.
pub fn because(endpoints: &[&Endpoint], node: &NodeContext) -> [Because; 2] {
    let fallback = |among: &dyn Fn(&Endpoint) -> bool| match endpoints.iter().any(|e| among(e) && is_leaving(e)) {
        true => Because::ServingTerminating,
        false => Because::NoEndpoint,
    };
    let on_node = |endpoint: &Endpoint| is_local(endpoint, node);
    let cluster = match (endpoints.iter().any(|e| e.ready), Topology::of(endpoints, node)) {
        (false, _) => fallback(&|_| true),
        (true, Topology::Everywhere) => Because::Ready,
        (true, Topology::SameNode) => Because::NodeHints,
        (true, Topology::SameZone) => Because::ZoneHints,
    };
    let local = match endpoints.iter().any(|e| e.ready && on_node(e)) {
        true => Because::Ready,
        false => fallback(&on_node),
    };
    [cluster, local]
}

/// Whether any endpoint, on whatever node, could take traffic. If one could and a
/// set is empty all the same, that set drops; if none could, it rejects.
pub fn any_usable(endpoints: &[&Endpoint]) -> bool {
    endpoints.iter().any(|e| e.ready || is_leaving(e))
}

/// Whether the endpoint is on the node.
pub(super) fn is_local(endpoint: &Endpoint, node: &NodeContext) -> bool {
    !node.name.is_empty() && endpoint.node == node.name
}

/// The fallback: no longer ready, but it still serves while it terminates.
fn is_leaving(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// By which hints the ready endpoints are narrowed.
#[derive(Clone, Copy)]
enum Topology {
    Everywhere,
    SameNode,
    SameZone,
}

impl Topology {
    fn of(endpoints: &[&Endpoint], node: &NodeContext) -> Self {
        let ready = || endpoints.iter().filter(|e| e.ready);
        if all_hinted_one_for(ready().map(|e| &*e.node_hints), &node.name) {
            Self::SameNode
        } else if all_hinted_one_for(ready().map(|e| &*e.zone_hints), &node.zone) {
            Self::SameZone
        } else {
            Self::Everywhere
        }
    }

    fn admits(self, endpoint: &Endpoint, node: &NodeContext) -> bool {
        match self {
            Self::Everywhere => true,
            Self::SameNode => endpoint.node_hints.contains(&node.name),
            Self::SameZone => endpoint.zone_hints.contains(&node.zone),
        }
    }
}

/// A hint counts only when no endpoint lacks one, and only where it leaves
/// somebody: a partial roll-out must not starve a node or a zone.
fn all_hinted_one_for<'a>(hints: impl Iterator<Item = &'a [Arc<str>]>, wanted: &Arc<str>) -> bool {
    let mut one = false;
    for hints in hints {
        if hints.is_empty() {
            return false;
        }
        one |= !wanted.is_empty() && hints.contains(wanted);
    }
    one
}
