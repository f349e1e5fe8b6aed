//! A node in a network namespace of its own: the real socket and the real CNI
//! service, over a datapath that does netlink's part and no more.

use std::{
    collections::BTreeSet,
    io::Cursor,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use ipnetwork::IpNetwork;
use node_agent::{
    api::{
        protocol::{Request, Response},
        server::Server,
    },
    cni::{
        attachment::Attachment,
        plugin,
        service::{CniService, NodeView, PodDatapath},
    },
    kernel::{
        netlink::{HostEnd, Netlink, NetlinkError},
        netns::{Netns, current_cookie},
        sysctl,
    },
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::namespace::Namespace;

/// The node's part of a pod's network without programs: routes and neighbours.
struct RoutedPods {
    netlink: Netlink,
    held: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Debug, thiserror::Error)]
enum DatapathError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("{0}")]
    Missing(String),
}

fn host_end(pod: &Attachment) -> HostEnd<'_> {
    HostEnd { name: &pod.host_ifname, peer_mac: pod.pod_mac.0, addresses: &pod.addresses }
}

impl PodDatapath for RoutedPods {
    type Error = DatapathError;

    async fn find(&mut self, pod: &Attachment) -> Result<Option<u32>, DatapathError> {
        Ok(self.netlink.link(&pod.host_ifname).await?.map(|link| link.index))
    }

    async fn attach(&mut self, pod: &Attachment) -> Result<(), DatapathError> {
        if pod.held {
            self.held.lock().unwrap().insert(pod.id.container_id.clone());
        }
        self.netlink.connect_host_end(&host_end(pod)).await?;
        Ok(())
    }

    async fn open(&mut self, pod: &Attachment) -> Result<(), DatapathError> {
        self.held.lock().unwrap().remove(&pod.id.container_id);
        Ok(())
    }

    async fn detach(&mut self, pod: &Attachment) -> Result<(), DatapathError> {
        self.netlink.delete_link(&pod.host_ifname).await?;
        Ok(())
    }

    async fn check(&mut self, pod: &Attachment) -> Result<(), DatapathError> {
        self.netlink.missing_of_host_end(&host_end(pod)).await?.map_or(Ok(()), |what| Err(DatapathError::Missing(what)))
    }
}

/// A node, with its agent running or not.
pub struct Node {
    pub namespace: Namespace,
    pub run_dir: PathBuf,
    pub held: Arc<Mutex<BTreeSet<String>>>,
    pod_cidrs: Vec<IpNetwork>,
    agent: Mutex<Option<Agent>>,
}

struct Agent {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Node {
    /// A node with these podCIDRs, addresses of its own and a running agent.
    pub fn new(run_dir: &Path, pod_cidrs: &[&str]) -> Self {
        let node = Self {
            namespace: Namespace::new(),
            run_dir: run_dir.to_owned(),
            held: Arc::default(),
            pod_cidrs: pod_cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            agent: Mutex::new(None),
        };
        node.namespace.netlink(async |netlink| {
            let lo = netlink.link("lo").await?.unwrap().index;
            netlink.set_up(lo).await?;
            netlink.add_address(lo, "192.0.2.1".parse().unwrap(), 32).await?;
            netlink.add_address(lo, "2001:db8::1".parse().unwrap(), 128).await?;
            sysctl::obstacles_to_local_reverse_path_filter().iter().for_each(|setting| setting.apply().unwrap());
            sysctl::obstacles_to_forwarding().iter().for_each(|setting| setting.apply().unwrap());
            Ok(())
        });
        node.start_agent();
        node
    }

    pub fn start_agent(&self) {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let netns = Netns::open(&self.namespace.path).unwrap();
        let run_dir = self.run_dir.clone();
        let pod_cidrs = self.pod_cidrs.clone();
        let held = self.held.clone();
        let thread = thread::spawn(move || {
            netns
                .run(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(run_agent(&run_dir, &pod_cidrs, held, stopped, move || ready.send(()).unwrap()));
                })
                .unwrap();
        });
        is_ready.recv().expect("the agent starts");
        *self.agent.lock().unwrap() = Some(Agent { stop, thread });
    }

    pub fn stop_agent(&self) {
        if let Some(agent) = self.agent.lock().unwrap().take() {
            agent.stop.send(()).unwrap();
            agent.thread.join().unwrap();
        }
    }

    pub fn config(&self) -> Value {
        json!({ "cniVersion": "1.1.0", "name": "pods", "type": "fairlead", "runDir": self.run_dir })
    }

    /// Runs the plugin in the node's namespace; the error's code if it fails.
    pub fn plugin(&self, variables: &[(&str, &str)], config: &str) -> Result<Value, (u64, String)> {
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let (code, output) = self.namespace.run(|| {
            let mut output = Vec::new();
            let code = plugin::run(&lookup, Cursor::new(config), &mut output);
            (code, output)
        });
        let value = if output.is_empty() { Value::Null } else { serde_json::from_slice(&output).unwrap() };
        if code == ExitCode::SUCCESS {
            return Ok(value);
        }
        let message = value["msg"].as_str().expect("an error has a message").to_owned();
        Err((value["code"].as_u64().expect("an error has a code"), message))
    }

    pub fn command(&self, command: &str, container: &str, netns: &Path) -> Result<Value, (u64, String)> {
        self.command_with(command, container, netns, &self.config())
    }

    pub fn command_with(
        &self,
        command: &str,
        container: &str,
        netns: &Path,
        config: &Value,
    ) -> Result<Value, (u64, String)> {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", netns.to_str().unwrap()),
        ];
        self.plugin(&variables, &config.to_string())
    }

    /// The names of the node's interfaces, without the loopback device.
    pub fn interfaces(&self) -> Vec<String> {
        let links = self.namespace.netlink(async |netlink| netlink.links().await);
        links.into_iter().filter(|link| !link.loopback).map(|link| link.name).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_agent();
    }
}

async fn run_agent(
    run_dir: &Path,
    pod_cidrs: &[IpNetwork],
    held: Arc<Mutex<BTreeSet<String>>>,
    mut stopped: oneshot::Receiver<()>,
    ready: impl FnOnce(),
) {
    let server = Server::bind(run_dir).unwrap();
    let mut service = CniService::load(run_dir).unwrap();
    let mut datapath = RoutedPods { netlink: Netlink::open().unwrap(), held };
    let in_force = |key: &node_agent::model::objects::ObjectKey| &*key.name == "known";
    let netns_cookie = current_cookie().unwrap();
    let view = NodeView { name: "test-node", pod_cidrs, mtu: 1450, netns_cookie, in_force: &in_force };
    assert_eq!(service.restore(&view, &mut datapath).await, []);
    let (sender, mut calls) = mpsc::channel(16);
    tokio::spawn(server.serve(sender, tokio::sync::mpsc::channel(1).0));
    ready();
    loop {
        let (request, answer) = tokio::select! {
            call = calls.recv() => call.unwrap(),
            _ = &mut stopped => return,
        };
        let response = match request {
            Request::Cni(request) => service.handle(request, &view, &mut datapath).await.into(),
            Request::Status { .. } => Response::Status(Box::default()),
            other => panic!("no plugin asks {other:?}"),
        };
        let _ = answer.send(response);
    }
}
