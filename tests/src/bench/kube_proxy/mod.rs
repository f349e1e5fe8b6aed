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

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Stdio,
};

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

/// Whose rules are measured; `generated`: though kube-proxy may be on PATH.
pub fn origin(generated: bool) -> String {
    match program::find().filter(|_| !generated) {
        Some(program) => match program::version(&program) {
            Ok(version) => format!("kube-proxy's rules: its own ({version})"),
            Err(error) => format!("kube-proxy's rules: its own ({error:#})"),
        },
        None => format!("kube-proxy's rules: generated as {GENERATED} writes them"),
    }
}

/// Whether kube-proxy itself can be run.
pub fn is_on_path() -> bool {
    program::find().is_some()
}

/// Rules to load.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Of which kind.
    pub mode: Mode,
    /// The Services are below this directory.
    pub manifests: &'a Path,
    /// The node's address, at which NodePorts are if an interface has it.
    pub address: Ipv4Addr,
    /// Who is a pod.
    pub pod_cidr: &'a str,
    /// Where ClusterIPs are.
    pub service_cidr: &'a str,
}

impl Rules<'_> {
    /// Loads them into the node's network namespace: kube-proxy writes them if it is
    /// on PATH, a process of that cgroup; else they are generated.
    ///
    /// # Errors
    /// A manifest that can't be read, or a program that fails or isn't installed.
    pub fn load(&self, node: &Namespace, cgroup: &Path) -> Result<()> {
        match program::find() {
            Some(program) => program::write_rules(&program, self, node, cgroup),
            None => self.load_generated(node),
        }
    }

    /// Loads generated ones into the node's network namespace.
    ///
    /// # Errors
    /// A manifest that can't be read, or a loader that fails or isn't installed.
    pub fn load_generated(&self, node: &Namespace) -> Result<()> {
        let ports: Vec<ProxiedPort> = read_manifests(self.manifests)?
            .into_iter()
            .filter(|port| matches!(port.cluster_ip, IpAddr::V4(_)))
            .collect();
        let (rules, loader): (String, &[&str]) = match self.mode {
            Mode::Iptables => (iptables_rules(&ports, self.pod_cidr), &["iptables-restore", "--noflush"]),
            Mode::Nftables => (nftables_rules(&ports, self), &["nft", "-f", "-"]),
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
        ensure!(
            output.status.success(),
            "{} failed: {}",
            loader.join(" "),
            message.lines().take(5).collect::<String>()
        );
        Ok(())
    }
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
