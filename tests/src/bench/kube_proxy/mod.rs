//! The baseline: the rules that kube-proxy writes for the same manifests.
//!
//! The generators here follow what kube-proxy 1.33 leaves in the kernel for
//! ClusterIP Services, rule by rule and in its order, and were written from its
//! output, not from Fairlead's compiler: the two share no code. What is left out
//! makes the baseline faster, never slower: the nfacct counter and, as
//! kube-proxy itself does for large clusters, comments.

mod iptables;
mod nftables;
mod objects;

use std::{fs, io::Write, net::IpAddr, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
pub use iptables::iptables_rules;
pub use nftables::nftables_rules;
pub use objects::{ProxiedPort, read_manifests};

use crate::sandbox::Namespace;

/// Which rules kube-proxy would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `--proxy-mode=iptables`.
    Iptables,
    /// `--proxy-mode=nftables`.
    Nftables,
}

/// Loads the rules for the Services below `manifests` into the node's network namespace.
///
/// # Errors
/// A manifest that can't be read, or a loader that fails or isn't installed.
pub fn load_rules(mode: Mode, manifests: &Path, node: &Namespace, pod_cidr: &str, service_cidr: &str) -> Result<()> {
    let ports: Vec<ProxiedPort> =
        read_manifests(manifests)?.into_iter().filter(|port| matches!(port.cluster_ip, IpAddr::V4(_))).collect();
    let (rules, loader): (String, &[&str]) = match mode {
        Mode::Iptables => (iptables_rules(&ports, pod_cidr), &["iptables-restore", "--noflush"]),
        Mode::Nftables => (nftables_rules(&ports, pod_cidr, service_cidr), &["nft", "-f", "-"]),
    };
    let mut child = node
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
