//! What the agent knows at one moment, shared rather than copied where it is large.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use datapath::abi::PolicyDenial;

use crate::{
    cni::attachment::Attachment,
    compile::{CompiledService, NodeContext},
    model::objects::{EndpointSlice, Node, ObjectKey, Pod, Service},
    plan::Owner,
    policy::{DeniedBy, RuleName},
};

/// A Service and all its EndpointSlices.
#[derive(Clone, Debug)]
pub struct ServiceFacts {
    /// The Service.
    pub service: Arc<Service>,
    /// Its slices, by name.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// What the agent knows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The node, as Services are compiled for it.
    pub node: NodeContext,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// By namespace and name.
    pub services: Vec<ServiceFacts>,
    /// Services that stand for pods' hostPorts.
    pub host_ports: BTreeMap<ObjectKey, CompiledService>,
    /// All Pods, by namespace and name.
    pub pods: Vec<Arc<Pod>>,
    /// The pods that this agent wired.
    pub wired: Vec<Attachment>,
    /// All Nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Whose each service port in the tables is.
    pub owners: HashMap<u32, Owner>,
    /// The rules of policies by the numbers that the tables have for them.
    pub rules: HashMap<u32, RuleName>,
    /// What denies, by the same.
    pub denials: HashMap<PolicyDenial, DeniedBy>,
    /// Connections of the node's and of pods' processes meet the socket hooks.
    pub socket_lb: bool,
    /// What isn't in force yet.
    pub waiting_for: Vec<String>,
    /// What is wrong, by subject.
    pub problems: BTreeMap<String, String>,
}

impl Snapshot {
    /// Why the tables may say something else than the cluster.
    pub fn warnings(&self) -> Vec<String> {
        let waits = |what: &String| format!("not in sync: {what} is still to come");
        self.waiting_for.iter().map(waits).collect()
    }

    /// What is wrong with an object, such as `Service a/b`.
    pub fn problem(&self, subject: &str) -> Option<&String> {
        self.problems.get(subject)
    }
}
