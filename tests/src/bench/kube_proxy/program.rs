//! kube-proxy itself, where its program is on PATH.
//!
//! It runs until its first rules are in, and is ended then: rules stay without
//! it, and nothing of it disturbs the measurement.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Rules, api_server::ApiServer, read_documents};
use crate::{
    bench::{metrics, workload::NODE},
    sandbox::Namespace,
    wait,
};

/// What its program is called.
const PROGRAM: &str = "kube-proxy";
/// How long the first rules may take: iptables-restore needs minutes for 10,000 Services, since
/// its time grows with the square of their number.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often it is asked whether they are in, which costs it time too.
const PAUSE: Duration = Duration::from_millis(500);
/// When it last wrote rules of a family; of IPv4 it is, where the family is named.
const WRITTEN: [&str; 2] = [
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds ",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ",
];

/// Where kube-proxy is, if it is on PATH.
pub(super) fn find() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(PROGRAM)).find(|path| path.is_file())
}

/// What it says of its version.
///
/// # Errors
/// It can't be run.
pub(super) fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("can't run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Has it write its rules into the node's network namespace, as a process of that cgroup.
///
/// # Errors
/// A manifest that can't be read, or kube-proxy doesn't start or write rules; the end of its log says why.
pub(super) fn write_rules(program: &Path, rules: &Rules<'_>, node: &Namespace, cgroup: &Path) -> Result<()> {
    let mut objects: Vec<Value> = read_documents(rules.manifests)?;
    objects.push(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
        "status": {"addresses": [{"type": "InternalIP", "address": rules.address}]},
    }));
    objects.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": [rules.service_cidr]},
    }));
    let server = ApiServer::start(node, objects)?;
    let log = tempfile::NamedTempFile::new()?;
    let mut command = node.command_in(cgroup, program);
    command
        .arg(format!("--proxy-mode={}", rules.mode.name()))
        .arg(format!("--master={}", server.url()))
        .arg(format!("--hostname-override={NODE}"))
        .args(["--detect-local-mode=ClusterCIDR", &format!("--cluster-cidr={}", rules.pod_cidr)])
        // conntrack's size is one for all namespaces.
        .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
        .stderr(log.reopen()?);
    let mut process = Process(command.spawn().with_context(|| format!("can't run {}", program.display()))?);
    let ended = wait::poll(PATIENCE, || match process.0.try_wait() {
        Ok(None) if metrics::fetch(node).is_ok_and(|text| has_written(&text)) => Some(None),
        Ok(None) => {
            thread::sleep(PAUSE);
            None
        }
        ended => Some(Some(ended)),
    });
    let trouble = match ended {
        Some(None) => return Ok(()),
        Some(Some(status)) => format!("it ended: {:?}", status?),
        None => format!("no rules within {PATIENCE:?}"),
    };
    let log = fs::read_to_string(log.path()).unwrap_or_default();
    let end: Vec<&str> = log.lines().rev().take(5).collect();
    bail!("{}: {trouble}; its log ends, last line first:\n{}", program.display(), end.join("\n"));
}

/// Whether rules have been written at any time.
fn has_written(metrics: &str) -> bool {
    metrics
        .lines()
        .filter_map(|line| WRITTEN.iter().find_map(|name| line.strip_prefix(name)))
        .any(|value| value.trim().parse().is_ok_and(|seconds: f64| seconds > 0.0))
}

/// A running kube-proxy; dropping it ends it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that ended on its own is just collected.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
