//! The cluster of the demo: the sample Pods on their nodes, wired by the CNI plugin and running what
//! their image says, and the Services' EndpointSlices.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{
    endpoints,
    samples::{self, Samples},
};
use crate::{
    cluster::{Cluster, Node, Outside, Plan, Pod},
    traffic::{Place, Server, Transport},
    wait,
};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The cluster, up and running. Dropping it removes everything.
#[derive(Debug)]
pub struct Stage {
    // The pods go before what they run on.
    workloads: BTreeMap<String, Workload>,
    samples: Samples,
    cluster: Cluster,
}

impl Stage {
    /// Two nodes on a link and one behind a router, with the sample manifests, without an agent or a
    /// running pod.
    #[track_caller]
    pub fn new(samples: Samples) -> Self {
        let cluster = Plan::default().node("node-a").node("node-b").far_node("node-c").without_agents();
        samples.copy_to(cluster.directory());
        Self { workloads: BTreeMap::new(), samples, cluster }
    }

    /// Starts every Pod of the samples, and puts each behind its Services.
    #[track_caller]
    pub fn start_pods(&mut self) {
        let names: Vec<_> = self.samples.pods().map(|pod| samples::name(pod).to_owned()).collect();
        for name in &names {
            self.start(name);
        }
        self.publish(&[]);
    }

    /// Starts a Pod of the samples: CNI ADD, and the program of its image.
    #[track_caller]
    pub fn start(&mut self, name: &str) {
        let workload = Workload::start(self.node_of(name), &self.samples, name);
        self.workloads.insert(name.to_owned(), workload);
    }

    /// Ends a Pod's processes and takes it off the network by CNI DEL. Its object stays, as when a
    /// Pod's sandbox is made anew.
    pub fn end(&mut self, name: &str) {
        self.workloads.remove(name);
    }

    /// Writes every Service's EndpointSlices, over the running Pods but those `leaving`; returns once
    /// they are in force.
    #[track_caller]
    pub fn publish(&self, leaving: &[&str]) {
        let running = self.workloads.iter().filter(|(name, _)| !leaving.contains(&name.as_str()));
        let running: Vec<_> =
            running.map(|(name, work)| (self.samples.object("Pod", name), work.pod.endpoint())).collect();
        for service in self.samples.services() {
            for slice in endpoints::slices(service, &running) {
                self.cluster.directory().put(&slice);
            }
        }
        self.cluster.wait_for_sync();
    }

    /// The first node.
    pub fn node(&self) -> &Node {
        self.cluster.node()
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        self.cluster.nodes()
    }

    /// A client that is no part of the cluster.
    pub fn outside(&self) -> &Outside {
        self.cluster.outside()
    }

    /// The node that a Pod of the samples runs on.
    ///
    /// # Panics
    /// If there is no such Pod, or its node isn't one of the demo's.
    #[track_caller]
    pub fn node_of(&self, pod: &str) -> &Node {
        let wanted = self.samples.object("Pod", pod)["spec"]["nodeName"].as_str().unwrap_or_default();
        let found = self.nodes().iter().find(|node| node.name() == wanted);
        found.unwrap_or_else(|| panic!("Pod {pod} is on {wanted:?}, which is no node of the demo"))
    }

    /// The samples.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The directory that the agent reads.
    pub fn manifests(&self) -> PathBuf {
        self.cluster.directory().path().to_owned()
    }

    /// How many pods run.
    pub fn pods(&self) -> usize {
        self.workloads.len()
    }

    /// How many running pods a Service selects.
    pub fn backends(&self, service: &str) -> usize {
        let service = self.samples.object("Service", service);
        self.workloads.keys().filter(|name| endpoints::selects(service, self.samples.object("Pod", name))).count()
    }

    /// A running pod.
    ///
    /// # Panics
    /// If it doesn't run.
    #[track_caller]
    pub fn pod(&self, name: &str) -> &Pod {
        &self.workloads.get(name).unwrap_or_else(|| panic!("{name} isn't running")).pod
    }

    /// Leaves everything up after the end of this process.
    pub fn keep(self) {
        // What is dropped is ended.
        std::mem::forget(self.workloads);
        self.cluster.keep();
    }
}

/// A pod and what runs in it.
#[derive(Debug)]
struct Workload {
    _program: Option<Program>,
    pod: Pod,
}

#[derive(Debug)]
enum Program {
    Echo { _server: Server },
    Iperf { server: Child },
}

impl Workload {
    #[track_caller]
    fn start(node: &Node, samples: &Samples, name: &str) -> Self {
        let manifest = samples.object("Pod", name);
        let pod = node.pod_of(manifest.clone());
        let ports: Vec<_> = samples::container_ports(manifest).map(|(_, transport, port)| (transport, port)).collect();
        let place = Unattended { pod: &pod, log: node.run_dir().with_file_name(format!("{name}.log")) };
        let program = match samples::image(manifest) {
            "echo" => Some(Program::Echo { _server: Server::start(&place, &ports) }),
            "iperf3" => Some(Program::Iperf { server: iperf3(&place, &ports) }),
            _ => None,
        };
        Self { _program: program, pod }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Self::Iperf { server } = self {
            // It may have ended with its pod.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Starts an iperf3 server on the one port, and waits until it listens.
#[track_caller]
fn iperf3(place: &Unattended<'_>, ports: &[(Transport, u16)]) -> Child {
    let port = ports.first().map_or(5201, |(_, port)| *port).to_string();
    let mut command = place.command("iperf3");
    command.args(["--server", "--port", &port]).stdout(Stdio::null());
    let server = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    wait::until("the iperf3 server listens (is iperf3 installed?)", PATIENCE, || {
        let sockets = place.pod.namespace().command("ss").args(["-Hltn", &format!("sport = :{port}")]).output();
        sockets.is_ok_and(|output| !output.stdout.is_empty()).then_some(())
    });
    server
}

/// A pod for programs that outlive this process: nothing of its terminal stays open in them.
struct Unattended<'a> {
    pod: &'a Pod,
    log: PathBuf,
}

impl Place for Unattended<'_> {
    fn name(&self) -> &str {
        self.pod.name()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.pod.command(program);
        command.stdin(Stdio::null());
        match fs::File::create(&self.log) {
            Ok(log) => command.stderr(log),
            Err(_) => command.stderr(Stdio::null()),
        };
        command
    }
}
