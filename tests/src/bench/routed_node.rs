//! A node that only the kernel routes for: the baselines' pod network.
//!
//! Pods are wired as the plainest CNI plugin (ptp) would: a veth each, a /32
//! address, a route on the node. What is made goes with the sandbox.

use std::{net::Ipv4Addr, path::PathBuf, process::Command};

use crate::{
    sandbox::{Namespace, Sandbox, make_directory},
    traffic::Place,
};

/// The pods' gateway, which is on no subnet.
const GATEWAY: &str = "169.254.1.1";

/// The address of a node with an uplink.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// The address of the host outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The uplink's name on the node.
pub const UPLINK: &str = "eth0";
/// The other end of the uplink, a port of the bridge outside.
pub const UPLINK_PORT: &str = "uplink-1";

/// A node's namespace and its pods.
pub struct RoutedNode {
    namespace: Namespace,
    pods: Vec<RoutedPod>,
}

/// A pod of a [`RoutedNode`], or a host beside it.
pub struct RoutedPod {
    name: String,
    namespace: Namespace,
    cgroup: PathBuf,
}

impl RoutedNode {
    /// Makes a node of that name with pods of these addresses.
    ///
    /// # Panics
    /// Not root, or iproute2 is missing.
    pub fn new(sandbox: &Sandbox, name: &str, addresses: &[Ipv4Addr]) -> Self {
        let namespace = sandbox.namespace(name);
        let mut on_node = String::new();
        let mut pods = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            let pod = RoutedPod::new(sandbox, format!("{name}-pod-{index}"));
            on_node += &format!(
                "link add pod{index} type veth peer name eth0 netns {}
                link set pod{index} up
                address add {GATEWAY}/32 dev pod{index}
                route add {address}/32 dev pod{index}\n",
                pod.namespace.name()
            );
            pods.push(pod);
        }
        namespace.ip(&on_node);
        for (pod, address) in pods.iter().zip(addresses) {
            pod.namespace.ip(&format!(
                "link set eth0 up
                address add {address}/32 dev eth0
                route add {GATEWAY}/32 dev eth0
                route add default via {GATEWAY} dev eth0"
            ));
        }
        namespace.sysctl("net.ipv4.ip_forward", "1");
        Self { namespace, pods }
    }

    /// Gives the node an uplink to a host outside, as a cluster's nodes have: both
    /// on one bridge, which is the host's. Returns the host.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn uplink(&self, sandbox: &Sandbox, name: &str) -> RoutedPod {
        let outside = RoutedPod::new(sandbox, format!("{name}-outside"));
        outside.namespace.ip(&format!(
            "link add nodes type bridge
            link set nodes up
            address add {OUTSIDE}/24 dev nodes
            link add {UPLINK_PORT} type veth peer name {UPLINK} netns {}
            link set {UPLINK_PORT} master nodes up",
            self.namespace.name()
        ));
        self.namespace.ip(&format!(
            "link set {UPLINK} up
            address add {NODE}/24 dev {UPLINK}
            route add default via {OUTSIDE}"
        ));
        outside
    }

    /// The node's own namespace, and its pods.
    pub fn into_parts(self) -> (Namespace, Vec<RoutedPod>) {
        (self.namespace, self.pods)
    }

    /// The node's own namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl RoutedPod {
    fn new(sandbox: &Sandbox, name: String) -> Self {
        let namespace = sandbox.namespace(&name);
        let cgroup = sandbox.cgroup().join(&name);
        make_directory(&cgroup);
        Self { name, namespace, cgroup }
    }

    /// One whose namespace is there already.
    pub fn at(sandbox: &Sandbox, name: &str, namespace: Namespace) -> Self {
        let cgroup = sandbox.cgroup().join(name);
        make_directory(&cgroup);
        Self { name: name.to_owned(), namespace, cgroup }
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl Place for RoutedPod {
    fn name(&self) -> &str {
        &self.name
    }

    fn command(&self, program: &str) -> Command {
        self.namespace.command_in(&self.cgroup, program)
    }
}
