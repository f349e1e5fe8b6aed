//! A pod: a network namespace that the CNI plugin wired, a cgroup, a Pod object.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use serde_json::Value;

use super::{CniCall, Node};
use crate::{
    manifest::{self, Endpoint, NAMESPACE},
    sandbox::{Namespace, end_cgroup, make_directory},
    traffic::{Place, Server, Transport},
};

/// A running pod. Dropping it ends its processes and removes it, as the kubelet would.
#[derive(Debug)]
pub struct Pod {
    node: Node,
    name: String,
    namespace: Namespace,
    cgroup: PathBuf,
    manifest: Value,
    addresses: Vec<IpAddr>,
    result: Value,
    /// `runtimeConfig` by capability.
    capabilities: BTreeMap<String, Value>,
}

impl Pod {
    /// Makes one, without a Pod object, for whose interface the runtime asks for this by capability.
    #[track_caller]
    pub(super) fn start(node: &Node, name: &str, capabilities: &[(&str, Value)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::make(node, manifest::pod(&name, node.name()), capabilities)
    }

    /// Makes the one that a Pod object describes, wherever that object is.
    #[track_caller]
    pub(super) fn of(node: &Node, manifest: Value) -> Self {
        Self::make(node, manifest, &[])
    }

    #[track_caller]
    fn make(node: &Node, manifest: Value, capabilities: &[(&str, Value)]) -> Self {
        let capabilities = capabilities.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let name = manifest["metadata"]["name"].as_str().expect("a Pod has a name").to_owned();
        let namespace = node.pod_namespace(&name);
        let cgroup = node.cgroup().join(format!("pod-{name}"));
        make_directory(&cgroup);
        let mut pod = Self {
            node: node.clone(),
            name,
            namespace,
            cgroup,
            manifest,
            addresses: Vec::new(),
            result: Value::Null,
            capabilities,
        };
        let result = pod.cni("ADD").run();
        let result = result.unwrap_or_else(|error| panic!("ADD of {}: {error:?}\n{}", pod.name, node.log()));
        pod.addresses = addresses(&result);
        assert!(!pod.addresses.is_empty(), "ADD gave no address: {result}");
        pod.result = result;
        pod
    }

    /// Puts its Pod object into the manifests. The pod is shut until the agent has read it:
    /// `Node::wait_for_sync`.
    #[track_caller]
    pub fn announce(&self) {
        self.node.source().put(&self.manifest);
    }

    /// A CNI call about this pod.
    pub fn cni(&self, command: &str) -> CniCall<'_> {
        let call = CniCall::new(&self.node, command, &self.name).namespace(&self.namespace.path());
        let namespace = self.manifest["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE);
        let call = call.pod_in(namespace, &self.name).previous(&self.result);
        self.capabilities.iter().fold(call, |call, (name, value)| call.capability(name, value.clone()))
    }

    /// Its Pod object, as it was made.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its IPv4 address.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn v4(&self) -> IpAddr {
        self.address(false)
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn v6(&self) -> IpAddr {
        self.address(true)
    }

    /// Its address of the same family as that one.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn like(&self, other: IpAddr) -> IpAddr {
        self.address(other.is_ipv6())
    }

    #[track_caller]
    fn address(&self, ipv6: bool) -> IpAddr {
        let address = self.addresses.iter().find(|address| address.is_ipv6() == ipv6);
        *address.unwrap_or_else(|| panic!("{} has no such address, only {:?}", self.name, self.addresses))
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The cgroup that its processes are in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// It as an endpoint, ready.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.addresses).on(self.node.name())
    }

    /// Starts a server in it, on the given ports.
    #[track_caller]
    pub fn serve(&self, ports: &[(Transport, u16)]) -> Server {
        Server::start(self, ports)
    }
}

impl Place for Pod {
    fn name(&self) -> &str {
        &self.name
    }

    fn command(&self, program: &str) -> Command {
        self.namespace.command_in(&self.cgroup, program)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        end_cgroup(&self.cgroup);
        if thread::panicking() {
            // A second panic would end the process, and the first one's message with it.
            return;
        }
        // Without an agent nobody answers; the pod's interface goes with its namespace.
        let _ = self.cni("DEL").run();
        self.namespace.remove();
        self.node.source().delete(&self.manifest);
    }
}

/// The addresses in an ADD's result, IPv4 first.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let mut addresses: Vec<IpAddr> =
        ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
    addresses.sort();
    addresses
}
