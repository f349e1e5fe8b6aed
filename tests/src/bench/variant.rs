//! The variants that are compared, each a node of its own with the same pods.
//!
//! All of them are up at a time and only one is under load at any moment, so
//! that they can take turns within one run.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::{
    kube_proxy::{self, Mode},
    load::LoadResult,
    routed_node::{POD_CIDR, RoutedNode, SERVICE_CIDR},
    workload::{ENDPOINTS, PORT, STREAM_PORT, Workload},
};

/// A way for pods to reach pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Variant {
    /// Pods dial each other directly, the kernel routes, there is no netfilter rule.
    Direct,
    /// Pods dial ClusterIPs of kube-proxy's iptables rules.
    Iptables,
    /// Pods dial ClusterIPs of kube-proxy's nftables rules.
    Nftables,
    /// Pods dial ClusterIPs of Fairlead.
    Fairlead,
}

impl Variant {
    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Fairlead => "fairlead",
        }
    }
}

/// What keeps a node alive: dropped last.
pub trait Node: Send {
    /// The node's own namespace.
    fn netns(&self) -> PathBuf;
    /// The namespaces of a client and [`ENDPOINTS`] backends.
    fn pods(&self) -> Vec<(PathBuf, std::net::Ipv4Addr)>;
    /// Where clients' processes must be, if it matters.
    fn cgroup(&self) -> Option<PathBuf> {
        None
    }
}

impl Node for RoutedNode {
    fn netns(&self) -> PathBuf {
        RoutedNode::netns(self)
    }

    fn pods(&self) -> Vec<(PathBuf, std::net::Ipv4Addr)> {
        RoutedNode::pods(self).to_vec()
    }
}

/// Where the two ends of a measurement run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cores {
    /// Both on one core: the figure is the whole cost of a request, and no
    /// waking of an idle core, dear in a virtual machine, is part of it.
    Shared,
    /// The client on one, the server on another.
    Split,
}

impl Cores {
    /// The client's core and the server's.
    fn of(self) -> (usize, usize) {
        match self {
            Self::Shared => (0, 0),
            Self::Split => (0, 1),
        }
    }
}

/// A variant, ready to be measured: the node, its servers, and whom to dial.
pub struct Bed {
    /// Which one.
    pub variant: Variant,
    /// Dialled in turn by the connection and request-response cases.
    pub targets: Vec<SocketAddr>,
    /// Dialled by iperf3.
    pub stream_target: SocketAddr,
    load: PathBuf,
    cores: Cores,
    server: Child,
    stream_server: Child,
    node: Box<dyn Node>,
}

impl Bed {
    /// Starts the servers in the node's pods. The node's Services are those of `workload`.
    ///
    /// # Errors
    /// iperf3 isn't installed, or a server doesn't start.
    pub fn new(variant: Variant, node: Box<dyn Node>, workload: &Workload, load: &Path, cores: Cores) -> Result<Self> {
        let pods = node.pods();
        ensure!(pods.len() == ENDPOINTS + 1, "a node of {} pods is needed", ENDPOINTS + 1);
        let mut server = Command::new(load);
        server.args(["serve", "--port", &PORT.to_string(), "--cpu", &cores.of().1.to_string()]);
        for (netns, _) in &pods[1..] {
            server.arg("--netns").arg(netns);
        }
        let mut server = server
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't run {}", load.display()))?;
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("the server's stdout is piped")?).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the load server for {} didn't start", variant.name());
        let mut stream_server = in_netns(&pods[1].0)
            .args(["taskset", "-c", &Cores::Split.of().1.to_string()])
            .args(["iperf3", "-s", "--forceflush", "-p", &STREAM_PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("can't run nsenter")?;
        wait_for_listening(&mut stream_server)?;
        let (targets, stream_target) = match variant {
            Variant::Direct => (workload.backends().collect(), SocketAddr::from((pods[1].1, STREAM_PORT))),
            _ => (workload.frontends(), workload.stream_frontend()),
        };
        Ok(Self { variant, targets, stream_target, load: load.to_owned(), cores, server, stream_server, node })
    }

    /// Runs a client of the `load` binary in the client pod: `arguments` say which and how.
    ///
    /// # Errors
    /// The client failed, or any of its requests did.
    pub fn run_load(&self, command: &str, arguments: &[&str]) -> Result<LoadResult> {
        let targets: Vec<String> = self.targets.iter().map(SocketAddr::to_string).collect();
        let mut client = Command::new(&self.load);
        client.args([command, "--cpu", &self.cores.of().0.to_string(), "--targets", &targets.join(",")]);
        client.arg("--netns").arg(&self.node.pods()[0].0).args(arguments);
        if let Some(cgroup) = self.node.cgroup() {
            client.arg("--cgroup").arg(cgroup);
        }
        let output = client.stderr(Stdio::inherit()).output().context("can't run the load client")?;
        ensure!(output.status.success(), "the load client for {} failed", self.variant.name());
        let result: LoadResult = serde_json::from_slice(&output.stdout)?;
        if result.completed == 0 || result.failed > 0 {
            bail!(
                "{}: {} requests failed, {} succeeded; the first said: {}",
                self.variant.name(),
                result.failed,
                result.completed,
                result.first_failure
            );
        }
        Ok(result)
    }

    /// Gigabits a second by iperf3, client and server on a core each.
    ///
    /// # Errors
    /// iperf3 failed; its own message is given.
    pub fn run_stream(&self, seconds: f64) -> Result<f64> {
        let mut client = in_netns(&self.node.pods()[0].0);
        client.args(["taskset", "-c", &Cores::Split.of().0.to_string(), "iperf3", "-J", "-c"]);
        client.arg(self.stream_target.ip().to_string()).args(["-p", &STREAM_PORT.to_string()]);
        // iperf3 takes whole seconds.
        client.args(["-t", &seconds.ceil().to_string(), "--connect-timeout", "3000"]);
        if let Some(cgroup) = self.node.cgroup() {
            client = within_cgroup(&cgroup, &client);
        }
        let output = client.output().context("can't run nsenter")?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("iperf3 for {} printed no JSON", self.variant.name()))?;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3 for {}: {error}", self.variant.name());
        }
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 gave no figure")?;
        Ok(bits / 1e9)
    }

    /// Forgets netfilter's connections, so that rounds don't fill its table.
    pub fn settle(&self) {
        if matches!(self.variant, Variant::Iptables | Variant::Nftables) {
            // It fails when there is nothing to forget.
            let _ = in_netns(&self.node.netns())
                .args(["conntrack", "-F"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.stream_server] {
            // One that ended on its own is just collected.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes a baseline's node and loads its rules for the Services below `manifests`.
///
/// # Errors
/// Not root, or a tool is missing; it is named.
pub fn baseline_node(variant: Variant, prefix: &str, manifests: &Path) -> Result<RoutedNode> {
    let node = RoutedNode::new(&format!("{prefix}-{}", variant.name()), ENDPOINTS as u8 + 1)?;
    let mode = match variant {
        Variant::Iptables => Mode::Iptables,
        Variant::Nftables => Mode::Nftables,
        Variant::Direct | Variant::Fairlead => return Ok(node),
    };
    kube_proxy::load_rules(mode, manifests, &node.netns(), POD_CIDR, SERVICE_CIDR)?;
    kube_proxy::prepare_conntrack()?;
    Ok(node)
}

fn in_netns(netns: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display()));
    command
}

/// The same command, run by a shell that enters the cgroup first.
fn within_cgroup(cgroup: &Path, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]).arg(cgroup.join("cgroup.procs"));
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// Waits until iperf3 says that it listens.
fn wait_for_listening(server: &mut Child) -> Result<()> {
    let stdout = server.stdout.take().context("the server's stdout is piped")?;
    let mut lines = BufReader::new(stdout).lines();
    loop {
        let line = lines.next().context("iperf3 ended before it listened; is it installed?")??;
        if line.contains("listening") {
            // What it prints later is not read, and must not stop it either.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(());
        }
    }
}
