//! A variant made ready: pods with servers in them, a client, and whom to dial.
//!
//! All beds are up at a time and only one is under load at any moment, so that
//! variants can take turns within one run.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Settings,
    load::LoadResult,
    variant::{Cores, Variant},
    workload::{PORT, STREAM_PORT},
};
use crate::{sandbox::Namespace, traffic::Place};

/// Where the ends of the stream run: it needs a core each.
const STREAM_CORES: Cores = Cores::Split;

/// A pod to measure between.
pub struct BedPod {
    /// Runs processes in it.
    pub place: Box<dyn Place + Send + Sync>,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A variant, ready to be measured.
pub struct Bed {
    /// Which one.
    pub variant: Variant,
    /// The node's own network namespace.
    pub node: Namespace,
    /// The client first, a pod or not, then the backends.
    pub pods: Vec<BedPod>,
    /// Dialled in turn by the connection and request-response cases.
    pub targets: Vec<SocketAddr>,
    /// Dialled by iperf3.
    stream_target: SocketAddr,
    load: PathBuf,
    cores: Cores,
    servers: [Server; 2],
}

impl Bed {
    /// Starts the servers in all pods but the first, which is the client; `targets`
    /// are whom it dials, and whom iperf3 dials.
    ///
    /// # Errors
    /// iperf3 isn't installed, or a server doesn't start.
    pub fn new(
        variant: Variant,
        node: Namespace,
        pods: Vec<BedPod>,
        (targets, stream_target): (Vec<SocketAddr>, SocketAddr),
        settings: &Settings,
    ) -> Result<Self> {
        let mut server = pods[1].place.command(&settings.load.display().to_string());
        server.args(["serve", "--port", &PORT.to_string(), "--cpu", &settings.cores.server().to_string()]);
        for pod in &pods[1..] {
            server.arg("--netns").arg(&pod.netns);
        }
        let mut stream_server = iperf3(&pods[1], STREAM_CORES.server());
        stream_server.args(["-s", "--forceflush", "-p", &STREAM_PORT.to_string()]);
        let servers = [Server::start(&mut server, "ready")?, Server::start(&mut stream_server, "listening")?];
        let (load, cores) = (settings.load.clone(), settings.cores);
        Ok(Self { variant, node, pods, targets, stream_target, load, cores, servers })
    }

    /// A command that runs a client of the `load` binary in the client pod: `command` says which.
    pub fn load_command(&self, command: &str) -> Command {
        let targets: Vec<String> = self.targets.iter().map(SocketAddr::to_string).collect();
        let mut client = self.pods[0].place.command(&self.load.display().to_string());
        client.args([command, "--cpu", &self.cores.client().to_string(), "--targets", &targets.join(",")]);
        client
    }

    /// Runs a client of the `load` binary in the client pod.
    ///
    /// # Errors
    /// The client failed, or any of its requests did.
    pub fn run_load(&self, command: &str, arguments: &[&str]) -> Result<LoadResult> {
        let output = self.load_command(command).args(arguments).stderr(Stdio::inherit()).output();
        let output = output.context("can't run the load client")?;
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
        let mut client = iperf3(&self.pods[0], STREAM_CORES.client());
        client.args(["-J", "-c", &self.stream_target.ip().to_string(), "-p", &STREAM_PORT.to_string()]);
        // iperf3 takes whole seconds.
        client.args(["-t", &seconds.ceil().to_string(), "--connect-timeout", "3000"]);
        let output = client.output().context("can't run iperf3")?;
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
            let mut conntrack = self.node.command("conntrack");
            // It fails when there is nothing to forget.
            let _ = conntrack.arg("-F").stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }

    /// The load server's process.
    pub fn server_pid(&self) -> u32 {
        self.servers[0].0.id()
    }
}

/// A running server; dropping it ends it.
struct Server(Child);

impl Server {
    /// Starts it and waits until a line of its stdout says so.
    fn start(command: &mut Command, sign: &str) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut server = Self(child.with_context(|| format!("can't run {command:?}"))?);
        let mut lines = BufReader::new(server.0.stdout.take().context("the server's stdout is piped")?).lines();
        loop {
            let line = lines.next().with_context(|| format!("{command:?} ended before it listened"))??;
            if line.contains(sign) {
                // What it prints later is not read, and must not stop it either.
                thread::spawn(move || lines.for_each(drop));
                return Ok(server);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that ended on its own is just collected.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn iperf3(pod: &BedPod, core: usize) -> Command {
    let mut command = pod.place.command("taskset");
    command.args(["-c", &core.to_string(), "iperf3"]);
    command
}
