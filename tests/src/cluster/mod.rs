//! A cluster: nodes on one link or on two with a router between, each a network namespace with an
//! agent, and a directory of manifests in place of the API server.

mod agent;
mod bandwidth;
mod link;
mod node;
mod pod;
mod runtime;
mod shared;
mod soon;
mod xdp;

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

pub use agent::{Agent, binary, other_binary};
pub use bandwidth::ample_bandwidth;
pub use link::{Families, Link};
pub use node::Node;
use node::{Site, Spot};
pub use pod::Pod;
pub use runtime::{CniCall, CniError};
pub use shared::{Balancing, LogOnFailure, shared};
pub use soon::{assert_soon_reached, assert_soon_reported, assert_soon_well, is_reached};

use crate::{
    manifest::{self, Directory, Service},
    sandbox::{Namespace, Sandbox, make_directory, mount_filesystem},
    traffic::Place,
};

/// The address range of Services, of both families.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

/// A running cluster. Dropping it removes everything.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    outside: Outside,
    directory: Arc<Directory>,
    next_service: AtomicU16,
    // Last: it removes what the others stand for.
    sandbox: Sandbox,
}

/// A cluster about to be started.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    nodes: Vec<(String, Link)>,
    families: Families,
    flags: Vec<String>,
    pod_prefix: Option<u8>,
    run_dir_bytes: Option<u64>,
}

impl Plan {
    /// One more node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push((name.to_owned(), Link::Near));
        self
    }

    /// One more node, on the link behind the router, which knows nothing of podCIDRs.
    #[must_use]
    pub fn far_node(mut self, name: &str) -> Self {
        self.nodes.push((name.to_owned(), Link::Far));
        self
    }

    /// The families of the nodes' own addresses, both if nothing else is said. Pods always have both.
    #[must_use]
    pub fn underlay(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// One more flag for every agent.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// The length of the nodes' IPv4 podCIDRs, where the usual 24 is too wide to be exhausted.
    #[must_use]
    pub fn pod_prefix(mut self, length: u8) -> Self {
        self.pod_prefix = Some(length);
        self
    }

    /// A filesystem of its own, so small, for the run directory of each agent.
    #[must_use]
    pub fn run_dir_bytes(mut self, bytes: u64) -> Self {
        self.run_dir_bytes = Some(bytes);
        self
    }

    /// Brings everything up and waits until every agent is in sync.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let flags = self.flags.clone();
        let cluster = self.without_agents();
        for node in &cluster.nodes {
            node.start_agent(&flags);
        }
        cluster
    }

    /// Brings up everything but the agents.
    #[track_caller]
    pub fn without_agents(self) -> Cluster {
        let sandbox = Sandbox::new();
        let directory = Arc::new(Directory::new(sandbox.directory().join("source")));
        directory.put(&manifest::service_cidr("kubernetes", &SERVICE_CIDRS));
        let joined = self.nodes.iter().any(|(_, link)| *link == Link::Far);
        let outside = Outside::new(&sandbox, joined);
        let site = Site { sandbox: &sandbox, router: &outside.namespace, joined, source: &directory };
        let pod_prefix = self.pod_prefix.unwrap_or(24);
        let numbered = self.nodes.iter().zip(1..);
        let spot = |link: Link, number| Spot { link, number, families: self.families, pod_prefix };
        let nodes: Vec<_> = numbered.map(|((name, link), i)| Node::new(&site, name, &spot(*link, i))).collect();
        for node in &nodes {
            if let Some(bytes) = self.run_dir_bytes {
                mount_filesystem("tmpfs", &node.run_dir(), Some(&format!("size={bytes}")));
            }
        }
        Cluster { nodes, outside, directory, next_service: AtomicU16::new(10), sandbox }
    }
}

impl Cluster {
    /// A cluster of one node, with these flags for the agent.
    #[track_caller]
    pub fn of_one(flags: &[&str]) -> Self {
        flags.iter().fold(Plan::default().node("node-a"), |plan, flag| plan.flag(flag)).start()
    }

    /// A pod on each node, in the nodes' order.
    #[track_caller]
    pub fn pod_on_each(&self, name: &str) -> Vec<Pod> {
        let pods: Vec<_> = self.nodes.iter().map(|node| node.unknown_pod(name)).collect();
        pods.iter().for_each(Pod::announce);
        self.wait_for_sync();
        pods
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first node.
    pub fn node(&self) -> &Node {
        &self.nodes[0]
    }

    /// A host on the nodes' link that isn't a node.
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// The manifests.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// A Service with addresses that no other has, yet to be given ports and endpoints.
    pub fn service(&self, name: &str) -> Service {
        let number = self.next_service.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let v4 = Ipv4Addr::new(10, 96, high, low);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number);
        Service::new(&format!("{name}-{number}"), &[v4.into(), v6.into()])
    }

    /// Applies a Service with its endpoints, and returns once it is in force on every node.
    #[track_caller]
    pub fn apply(&self, service: &Service) {
        for manifest in service.manifests() {
            self.directory.put(&manifest);
        }
        self.wait_for_sync();
    }

    /// Deletes a Service with its endpoints, and returns once it is gone from every node.
    #[track_caller]
    pub fn delete(&self, service: &Service) {
        for manifest in service.manifests() {
            self.directory.delete(&manifest);
        }
        self.wait_for_sync();
    }

    /// Leaves everything up when this process ends, agents too: see `sandbox::remove_kept`.
    pub fn keep(self) {
        self.sandbox.keep();
        // An agent that is dropped is killed.
        mem::forget(self);
    }

    /// Waits until what the directory says now is in force on every node that has an agent.
    #[track_caller]
    pub fn wait_for_sync(&self) {
        for node in self.nodes.iter().filter(|node| node.agent().is_some()) {
            node.wait_for_sync();
        }
    }
}

/// A host outside the cluster: the nodes' router, on each of their links.
#[derive(Debug)]
pub struct Outside {
    namespace: Namespace,
    cgroup: PathBuf,
}

impl Outside {
    /// Its address of each family.
    pub const ADDRESSES: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

    fn new(sandbox: &Sandbox, joined: bool) -> Self {
        let namespace = sandbox.namespace("outside");
        for link in [Link::Near, Link::Far] {
            namespace.ip(&link.router_setup(joined));
        }
        namespace.sysctl("net.ipv4.ip_forward", "1");
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1");
        let cgroup = sandbox.cgroup().join("outside");
        make_directory(&cgroup);
        Self { namespace, cgroup }
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl Place for Outside {
    fn name(&self) -> &str {
        "outside"
    }

    fn command(&self, program: &str) -> Command {
        self.namespace.command_in(&self.cgroup, program)
    }
}
