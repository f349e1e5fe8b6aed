//! A node: a network namespace with an uplink, a cgroup, the agent and its directories.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use super::{Agent, Families, Link, Pod, agent::binary};
use crate::{
    manifest::{self, Directory},
    sandbox::{self, Namespace, Sandbox, make_directory, mount_filesystem},
    traffic::Place,
    wait,
};

/// How long an agent may take to be in sync: loading its programs is most of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a node is made.
pub(super) struct Site<'a> {
    pub sandbox: &'a Sandbox,
    /// The namespace of the router that joins the links.
    pub router: &'a Namespace,
    /// Whether there are nodes on more than one link.
    pub joined: bool,
    pub source: &'a Arc<Directory>,
}

/// What tells one node from another.
pub(super) struct Spot {
    pub link: Link,
    /// From 1; it tells the node's addresses.
    pub number: u8,
    pub families: Families,
    pub pod_prefix: u8,
}

/// A node. Cheap to clone: clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    addresses: Vec<IpAddr>,
    pod_cidrs: Vec<String>,
    sandbox_name: String,
    namespace: Namespace,
    directory: PathBuf,
    source: Arc<Directory>,
    cgroup: PathBuf,
    agent: Mutex<Option<Agent>>,
    flags: Mutex<Vec<String>>,
    /// The agent's binary, if it isn't the usual one.
    binary: Mutex<Option<PathBuf>>,
}

impl Node {
    /// Makes the node's namespace, with an uplink into the router's bridge, and its Node object.
    pub(super) fn new(site: &Site<'_>, name: &str, spot: &Spot) -> Self {
        let Site { sandbox, router, joined, source } = site;
        let Spot { link, number, families, pod_prefix } = *spot;
        let namespace = sandbox.namespace(name);
        router.ip(&format!(
            "link add uplink-{number} type veth peer name eth0 netns {}
             link set uplink-{number} master {} up",
            namespace.name(),
            link.bridge(*joined)
        ));
        let addresses = link.addresses_of(10 + number, families);
        let routes = link.addresses_of(1, families).into_iter().map(|router| match router.is_ipv4() {
            true => format!("route add default via {router}\n"),
            false => format!("route add ::/0 via {router}\n"),
        });
        let routes: String = routes.collect();
        namespace.ip(&format!("link set eth0 up\n{}{routes}", Link::assign(&addresses, "eth0")));
        let pod_cidrs = vec![format!("10.244.{number}.0/{pod_prefix}"), format!("fd00:10:244:{number}::/64")];

        let inner = Inner {
            name: name.to_owned(),
            number,
            addresses,
            pod_cidrs,
            sandbox_name: sandbox.directory().file_name().expect("it has a name").to_string_lossy().into_owned(),
            namespace,
            directory: sandbox.directory().join(name),
            source: Arc::clone(source),
            cgroup: sandbox.cgroup().join(name),
            agent: Mutex::new(None),
            flags: Mutex::new(Vec::new()),
            binary: Mutex::new(None),
        };
        let node = Self { inner: Arc::new(inner) };
        for directory in [node.run_dir(), node.cni_conf_dir(), node.cni_bin_dir(), node.bpf_mount()] {
            make_directory(&directory);
        }
        make_directory(&node.host_cgroup());
        mount_filesystem("bpf", &node.bpf_mount(), None);
        source.put(&node.manifest());
        node
    }

    /// Its Node object.
    pub fn manifest(&self) -> Value {
        let Inner { name, number, addresses, pod_cidrs, .. } = &*self.inner;
        manifest::node(name, &format!("zone-{number}"), pod_cidrs, addresses)
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.inner.addresses.clone()
    }

    /// Its podCIDRs, IPv4 first.
    pub fn pod_cidrs(&self) -> &[String] {
        &self.inner.pod_cidrs
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// The agent's `--run-dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.inner.directory.join("run")
    }

    /// Where bpffs is mounted for this node alone.
    pub fn bpf_mount(&self) -> PathBuf {
        self.inner.directory.join("bpf")
    }

    /// The agent's `--bpffs`.
    pub fn bpffs(&self) -> PathBuf {
        self.bpf_mount().join("fairlead")
    }

    /// The agent's `--cgroup`: pods and the node's own processes are below it.
    pub fn cgroup(&self) -> &Path {
        &self.inner.cgroup
    }

    fn host_cgroup(&self) -> PathBuf {
        self.inner.cgroup.join("host")
    }

    /// The agent's `--cni-conf-dir`.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.inner.directory.join("cni-conf")
    }

    /// The agent's `--cni-bin-dir`.
    pub fn cni_bin_dir(&self) -> PathBuf {
        self.inner.directory.join("cni-bin")
    }

    /// Puts a plugin of Debian's containernetworking-plugins beside ours.
    ///
    /// # Panics
    /// If it isn't there: `cargo xtask setup` installs it.
    #[track_caller]
    pub fn add_plugin(&self, name: &str) {
        let plugin = Path::new("/usr/lib/cni").join(name);
        assert!(plugin.is_file(), "{} is missing: `cargo xtask setup` installs it", plugin.display());
        let place = self.cni_bin_dir().join(name);
        match symlink(&plugin, &place) {
            // Another test of the same cluster was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.unwrap_or_else(|error| panic!("{}: {error}", place.display())),
        }
    }

    /// Where the agent's stderr goes.
    pub fn log_path(&self) -> PathBuf {
        self.inner.directory.join("agent.log")
    }

    /// The agent's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The command that starts an agent on this node.
    pub fn agent_command(&self, flags: &[String]) -> Command {
        let binary = lock(&self.inner.binary).clone().unwrap_or_else(binary);
        let mut command = self.command(&binary.display().to_string());
        command.arg("agent").args(["--node-name", &self.inner.name]);
        command.arg(format!("--source=dir:{}", self.inner.source.path().display()));
        for (flag, path) in [
            ("run-dir", self.run_dir()),
            ("bpffs", self.bpffs()),
            ("cgroup", self.cgroup().to_owned()),
            ("cni-conf-dir", self.cni_conf_dir()),
            ("cni-bin-dir", self.cni_bin_dir()),
        ] {
            command.arg(format!("--{flag}={}", path.display()));
        }
        command.args(flags);
        command
    }

    /// Starts the agent and waits until it is in sync.
    #[track_caller]
    pub fn start_agent(&self, flags: &[String]) {
        *lock(&self.inner.flags) = flags.to_vec();
        self.spawn_agent();
        self.wait_for_sync();
    }

    /// Starts the agent with the flags it had before, without waiting for anything.
    #[track_caller]
    pub fn spawn_agent(&self) {
        let flags = lock(&self.inner.flags).clone();
        *self.agent() = Some(Agent::spawn(self.agent_command(&flags), &self.log_path()));
    }

    /// The next agent is of this binary.
    pub fn use_binary(&self, binary: PathBuf) {
        *lock(&self.inner.binary) = Some(binary);
    }

    /// Ends the agent by SIGKILL.
    pub fn kill_agent(&self) {
        *self.agent() = None;
    }

    /// The agent, if there is one.
    pub fn agent(&self) -> MutexGuard<'_, Option<Agent>> {
        lock(&self.inner.agent)
    }

    /// Waits until the agent is in sync with the manifests as they are now.
    ///
    /// # Panics
    /// If it ends instead, or takes too long; the message has its log.
    #[track_caller]
    pub fn wait_for_sync(&self) {
        let synced = wait::poll(PATIENCE, || {
            if let Some(status) = self.agent().as_mut().and_then(Agent::ended) {
                return Some(Err(format!("the agent ended with {status}")));
            }
            self.cli(&["status", "--wait", "2s"]).status.success().then_some(Ok(()))
        });
        if let Err(error) = synced.unwrap_or_else(|| Err(format!("not within {PATIENCE:?}"))) {
            panic!("{} isn't in sync: {error}; its log:\n{}", self.inner.name, self.log());
        }
    }

    /// Runs a subcommand of the CLI against this node's agent.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--run-dir").arg(self.run_dir());
        sandbox::output(&mut command, "")
    }

    /// What a subcommand of the CLI prints with `-o json`.
    ///
    /// # Panics
    /// If it fails, or prints something else.
    #[track_caller]
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?} printed {text:?}: {error}"))
    }

    /// A table's entries and capacity.
    #[track_caller]
    pub fn fill(&self, table: &str) -> (u64, u64) {
        let status = self.cli_json(&["status"]);
        let tables = status["tables"].as_array().expect("status lists tables");
        let table = tables.iter().find(|one| one["name"] == table).expect("status lists the table");
        (table["entries"].as_u64().expect("a number"), table["capacity"].as_u64().expect("a number"))
    }

    /// How many packets were dropped for this reason.
    ///
    /// # Panics
    /// If there is no such reason.
    #[track_caller]
    pub fn drops(&self, reason: &str) -> u64 {
        let status = self.cli_json(&["status"]);
        status["drops"][reason].as_u64().unwrap_or_else(|| panic!("no drops are called {reason}: {status}"))
    }

    /// The problems that its agent reports, each as `subject: message`.
    #[track_caller]
    pub fn problems(&self) -> Vec<String> {
        let status = self.cli_json(&["status"]);
        let text = |problem: &Value, field: &str| problem[field].as_str().unwrap_or_default().to_owned();
        let problems = status["problems"].as_array().into_iter().flatten();
        problems.map(|problem| format!("{}: {}", text(problem, "subject"), text(problem, "message"))).collect()
    }

    /// A pod on this node, made as the kubelet makes it: the Pod object, a namespace, CNI ADD. Its
    /// name is made unique.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod {
        let pod = self.unknown_pod(name);
        pod.announce();
        self.wait_for_sync();
        pod
    }

    /// A pod whose Pod object isn't there yet, as when CNI ADD beats the watch.
    #[track_caller]
    pub fn unknown_pod(&self, name: &str) -> Pod {
        Pod::start(self, name, &[])
    }

    /// A pod for whose interface the runtime asks for this by capability: `portMappings`, `bandwidth`.
    #[track_caller]
    pub fn pod_with(&self, name: &str, capabilities: &[(&str, Value)]) -> Pod {
        let pod = Pod::start(self, name, capabilities);
        pod.announce();
        self.wait_for_sync();
        pod
    }

    /// Puts a conflist of these plugins where runtimes find it before ours.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub fn use_conflist(&self, conflist: &Value) {
        let path = self.cni_conf_dir().join("00-first.conflist");
        fs::write(&path, conflist.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Has runtimes call Debian's plugin of this type, which wires pods by itself.
    ///
    /// # Panics
    /// If it isn't there, or can't be configured.
    #[track_caller]
    pub fn use_other_plugin(&self, plugin: &str) {
        self.add_plugin(plugin);
        self.add_plugin("host-local");
        let ranges: Vec<Value> = self.pod_cidrs().iter().map(|cidr| json!([{ "subnet": cidr }])).collect();
        let ipam = json!({
            "type": "host-local",
            "dataDir": self.run_dir().join("host-local"),
            "ranges": ranges,
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        });
        let plugin = json!({ "type": plugin, "bridge": "cni0", "isGateway": true, "ipMasq": false, "ipam": ipam });
        self.use_conflist(&json!({ "cniVersion": "1.0.0", "name": "other", "plugins": [plugin] }));
    }

    /// The pod of a Pod object that is in the source already, by that object's own name.
    #[track_caller]
    pub fn pod_of(&self, manifest: Value) -> Pod {
        Pod::of(self, manifest)
    }

    /// So many pods.
    #[track_caller]
    pub fn pods(&self, name: &str, count: usize) -> Vec<Pod> {
        let pods: Vec<_> = (0..count).map(|_| self.unknown_pod(name)).collect();
        pods.iter().for_each(Pod::announce);
        self.wait_for_sync();
        pods
    }

    /// A network namespace for a pod of this node.
    pub fn pod_namespace(&self, name: &str) -> Namespace {
        Namespace::create(&format!("{}-{}-{name}", self.inner.sandbox_name, self.inner.name))
    }

    pub(super) fn source(&self) -> &Directory {
        &self.inner.source
    }
}

impl Place for Node {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn command(&self, program: &str) -> Command {
        self.inner.namespace.command_in(&self.host_cgroup(), program)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked with the lock held left nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
