//! A node that only the kernel routes for: the baselines' pod network.
//!
//! Pods are wired as the plainest CNI plugin (ptp) would: a veth each, a /32
//! address, a route on the node. Dropping the node deletes its namespaces.

use std::{
    io::Write,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// The pods' network on every node.
pub const POD_CIDR: &str = "10.244.0.0/24";
/// Where the Services' addresses come from.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The pods' gateway, which is on no subnet.
const GATEWAY: &str = "169.254.1.1";

/// The address of a node's pod by its index.
pub fn pod_address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, 2 + index)
}

/// A node's namespace and its pods'.
pub struct RoutedNode {
    name: String,
    pods: Vec<(PathBuf, Ipv4Addr)>,
}

impl RoutedNode {
    /// Makes the node with so many pods. `name` begins the names of all of its namespaces.
    ///
    /// # Errors
    /// Not root, or a namespace of that name exists.
    pub fn new(name: &str, pods: u8) -> Result<Self> {
        let mut node = Self { name: name.to_owned(), pods: Vec::new() };
        ip(&["netns", "add", name], "")?;
        let mut on_node = format!("link set lo up\nroute add unreachable {POD_CIDR}\n");
        for index in 0..pods {
            let pod = format!("{name}-{index}");
            let address = pod_address(index);
            ip(&["netns", "add", &pod], "")?;
            node.pods.push((netns_path(&pod), address));
            on_node += &format!(
                "link add pod{index} type veth peer name eth0 netns {pod}
                link set pod{index} up
                address add {GATEWAY}/32 dev pod{index}
                route add {address}/32 dev pod{index}\n"
            );
        }
        ip(&["-n", name, "-batch", "-"], &on_node)?;
        for index in 0..pods {
            let (pod, address) = (format!("{name}-{index}"), pod_address(index));
            let in_pod = format!(
                "link set lo up
                link set eth0 up
                address add {address}/32 dev eth0
                route add {GATEWAY}/32 dev eth0
                route add default via {GATEWAY} dev eth0\n"
            );
            ip(&["-n", &pod, "-batch", "-"], &in_pod)?;
        }
        let forwarding = Command::new("nsenter")
            .arg(format!("--net={}", netns_path(name).display()))
            .args(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
            .status()
            .context("can't run nsenter")?;
        ensure!(forwarding.success(), "can't turn on forwarding in {name}");
        Ok(node)
    }

    /// The node's own namespace.
    pub fn netns(&self) -> PathBuf {
        netns_path(&self.name)
    }

    /// The pods' namespaces and addresses.
    pub fn pods(&self) -> &[(PathBuf, Ipv4Addr)] {
        &self.pods
    }
}

impl Drop for RoutedNode {
    fn drop(&mut self) {
        let names = self.pods.iter().filter_map(|(path, _)| path.file_name()?.to_str()).chain([self.name.as_str()]);
        let batch: String = names.map(|name| format!("netns delete {name}\n")).collect();
        if let Err(error) = ip(&["-batch", "-"], &batch) {
            eprintln!("bench: {error:#}");
        }
    }
}

fn netns_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

fn ip(arguments: &[&str], batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("can't run ip (iproute2)")?;
    // An `ip` that stops reading says why on stderr.
    let _ = child.stdin.take().context("ip's stdin is piped")?.write_all(batch.as_bytes());
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
