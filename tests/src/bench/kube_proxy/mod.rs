//! The baseline: the rules that kube-proxy writes for the same manifests.
//!
//! Where kube-proxy is on PATH, it writes them itself. Else they are generated, as
//! kube-proxy 1.36 leaves them in the kernel for ClusterIP and NodePort Services, rule by
//! rule (the test `kube_proxy` compares them where it can). The generators share no code
//! with Fairlead's compiler. What they leave out makes the baseline faster, never
//! slower: nfacct counters and comments.

mod api_server;
mod iptables;
mod nftables;
mod objects;
mod program;

use std::{fs, io::Write, net::{IpAddr, Ipv4Addr}, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
pub use iptables::iptables_rules;
pub use nftables::nftables_rules;
pub use objects::{ProxiedPort, read_documents, read_manifests};

use crate::sandbox::Namespace;

/// Whose rules the generators know.
const GENERATED: &str = "kube-proxy 1.36";

/// Which rules kube-proxy would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `--proxy-mode=iptables`.
    Iptables,
    /// `--proxy-mode=nftables`.
    Nftables,
}

impl Mode {
    /// As `--proxy-mode` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// A node, as kube-proxy sees it.
#[derive(Clone, Copy)]
pub struct ProxiedNode<'a> {
    /// Its network namespace.
    pub namespace: &'a Namespace,
    /// Its address, at which NodePorts are; none of its interfaces needs to have it.
    pub address: Ipv4Addr,
    /// Its pods' network.
    pub pod_cidr: &'a str,
    /// The Services' network.
    pub service_cidr: &'a str,
}

/// Whose rules [`load_rules`] loads.
pub fn origin() -> String {
    match program::find() {
        Some(program) => match program::version(&program) {
            Ok(version) => format!("kube-proxy's rules: its own ({version})"),
            Err(error) => format!("kube-proxy's rules: its own ({error:#})"),
        },
        None => format!("kube-proxy's rules: generated as {GENERATED} writes them; it isn't on PATH"),
    }
}

/// Whether kube-proxy itself can be run.
pub fn is_on_path() -> bool {
    program::find().is_some()
}

/// Loads the rules for the Services below `manifests` into the node's network
/// namespace: kube-proxy writes them if it is on PATH, else they are generated.
///
/// # Errors
/// A manifest that can't be read, or a program that fails or isn't installed.
pub fn load_rules(mode: Mode, manifests: &Path, node: ProxiedNode<'_>) -> Result<()> {
    match program::find() {
        Some(program) => program::write_rules(&program, mode, manifests, node),
        None => load_generated_rules(mode, manifests, node),
    }
}

/// Loads generated rules for the Services below `manifests`.
///
/// # Errors
/// A manifest that can't be read, or a loader that fails or isn't installed.
pub fn load_generated_rules(mode: Mode, manifests: &Path, node: ProxiedNode<'_>) -> Result<()> {
    let ports: Vec<ProxiedPort> =
        read_manifests(manifests)?.into_iter().filter(|port| matches!(port.cluster_ip, IpAddr::V4(_))).collect();
    let (rules, loader): (String, &[&str]) = match mode {
        Mode::Iptables => (iptables_rules(&ports, node.pod_cidr), &["iptables-restore", "--noflush"]),
        Mode::Nftables => (nftables_rules(&ports, node), &["nft", "-f", "-"]),
    };
    let mut child = node
        .namespace
        .command(loader[0])
        .args(&loader[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("can't run nsenter")?;
    // A loader that stops reading says why on stderr.
    let _ = child.stdin.take().expect("stdin is piped").write_all(rules.as_bytes());
    let output = child.wait_with_output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", loader.join(" "), message.lines().take(5).collect::<String>());
    Ok(())
}

/// Sets what kube-proxy sets beside its rules: conntrack's size.
///
/// # Errors
/// A sysctl that can't be written.
pub fn prepare_conntrack() -> Result<()> {
    // The size is that of the first namespace for all; kube-proxy only ever raises it.
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    let Ok(now) = fs::read_to_string(path) else { return Ok(()) };
    let wanted = 131_072;
    if now.trim().parse::<u32>().is_ok_and(|now| now < wanted) {
        fs::write(path, wanted.to_string()).with_context(|| format!("can't write {path}"))?;
    }
    Ok(())
}
