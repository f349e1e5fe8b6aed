//! Labelled pods, namespaces and NetworkPolicies of a cluster, and who reaches whom.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Pod},
    sandbox,
    traffic::{Dial, Outcome, Place, Transport},
};

/// What labelled pods listen on, if they serve.
pub const LISTEN: [(Transport, u16); 6] = [
    (Transport::Tcp, 80),
    (Transport::Udp, 80),
    (Transport::Sctp, 80),
    (Transport::Tcp, 81),
    (Transport::Udp, 81),
    (Transport::Sctp, 81),
];

/// Every transport.
pub const TRANSPORTS: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Sctp];

/// A request that is denied takes so long, and is made once; one that should be answered gets some more tries.
const SHORT: Duration = Duration::from_millis(400);
const TRIES: usize = 5;

/// Writes a namespace's labels, which are in force with what is synced next.
pub fn label_namespace(cluster: &Cluster, name: &str, labels: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    cluster.directory().write(&format!("namespace.{name}.json"), &object.to_string());
}

/// A pod of a namespace. What its ports are called: `serve-<number>-<protocol>`.
#[track_caller]
pub fn pod(cluster: &Cluster, node: &Node, namespace: &str, name: &str, labels: &Value) -> Pod {
    let ports = LISTEN.map(|(transport, port)| (format!("serve-{port}-{transport}"), transport, port));
    pod_with_ports(cluster, node, namespace, name, labels, &ports)
}

/// The same with other names of ports.
#[track_caller]
pub fn pod_with_ports(
    cluster: &Cluster,
    node: &Node,
    namespace: &str,
    name: &str,
    labels: &Value,
    ports: &[(String, Transport, u16)],
) -> Pod {
    let ports: Vec<_> = ports.iter().map(|(name, transport, port)| container_port(name, *transport, *port)).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": format!("{namespace}-{name}"), "labels": labels},
        "spec": {"nodeName": node.name(), "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": "Running"},
    });
    let pod = node.pod_of(object);
    rewrite_pod(cluster, &pod, |_| ());
    pod
}

/// A port of a container, and what it is called.
pub fn container_port(name: &str, transport: Transport, port: u16) -> Value {
    json!({"name": name, "containerPort": port, "protocol": transport.manifest_name()})
}

/// Writes a pod's labels, which are in force with what is synced next.
pub fn label_pod(cluster: &Cluster, pod: &Pod, namespace: &str, name: &str, labels: &Value) {
    let metadata = json!({"namespace": namespace, "name": format!("{namespace}-{name}"), "labels": labels});
    rewrite_pod(cluster, pod, |object| object["metadata"] = metadata);
}

/// Writes a pod's object as it was made but for this change, which is in force with what is synced next. It is
/// gone with the pod.
pub fn rewrite_pod(cluster: &Cluster, pod: &Pod, change: impl FnOnce(&mut Value)) {
    let mut object = pod.manifest().clone();
    object["status"]["podIPs"] = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
    change(&mut object);
    cluster.directory().put(&object);
}

/// Writes a NetworkPolicy, which is in force with what is synced next.
pub fn write_policy(cluster: &Cluster, namespace: &str, name: &str, spec: &Value) {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    });
    cluster.directory().write(&policy_file(namespace, name), &object.to_string());
}

/// The same, in force when this returns.
#[track_caller]
pub fn apply(cluster: &Cluster, namespace: &str, name: &str, spec: &Value) {
    write_policy(cluster, namespace, name, spec);
    cluster.wait_for_sync();
}

/// Removes a NetworkPolicy, which is gone with what is synced next.
pub fn remove_policy(cluster: &Cluster, namespace: &str, name: &str) {
    cluster.directory().remove(&policy_file(namespace, name));
}

/// The same, gone when this returns.
#[track_caller]
pub fn delete(cluster: &Cluster, namespace: &str, name: &str) {
    remove_policy(cluster, namespace, name);
    cluster.wait_for_sync();
}

/// The file in which a NetworkPolicy is written.
pub fn policy_file(namespace: &str, name: &str) -> String {
    format!("policy.{namespace}.{name}.json")
}

/// A peer that is one address.
pub fn block(ip: &IpAddr) -> Value {
    json!({"ipBlock": {"cidr": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })}})
}

/// Whether somebody is answered there.
pub fn answers(client: &dyn Place, transport: Transport, address: SocketAddr) -> bool {
    Request::To(transport, address).is_answered(client)
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// A request to a server.
    To(Transport, SocketAddr),
    /// An ICMP echo.
    Echo(IpAddr),
}

impl Request {
    fn is_answered(self, client: &dyn Place) -> bool {
        match self {
            Self::To(transport, address) => {
                let attempt = Dial::new(client, transport, address).timeout(SHORT).once();
                matches!(attempt.outcome, Outcome::Ok(_))
            }
            Self::Echo(address) => {
                let mut ping = client.command("ping");
                ping.args(["-q", "-c1", "-W", &SHORT.as_secs_f64().to_string(), &address.to_string()]);
                sandbox::output(&mut ping, "").status.success()
            }
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(transport, address) => write!(f, "{transport} {address}"),
            Self::Echo(address) => write!(f, "echo {address}"),
        }
    }
}

/// One attempt, and whether it should succeed.
pub struct Probe<'a> {
    /// What is tried, in words.
    pub what: String,
    /// Who asks.
    pub client: &'a (dyn Place + Sync),
    /// What.
    pub request: Request,
    /// Whether an answer should come.
    pub expected: bool,
}

impl Probe<'_> {
    fn goes_wrong(&self) -> bool {
        // A packet may be lost, but none may come through.
        let tries = if self.expected { TRIES } else { 1 };
        (0..tries).any(|_| self.request.is_answered(self.client)) != self.expected
    }
}

/// Makes all attempts at once.
///
/// # Panics
/// If one goes otherwise than it should.
#[track_caller]
pub fn assert_all<'a>(probes: impl IntoIterator<Item = Probe<'a>>) {
    let probes: Vec<Probe<'_>> = probes.into_iter().collect();
    assert!(!probes.is_empty(), "nothing is tried");
    let wrong: Vec<String> = thread::scope(|scope| {
        let tried: Vec<_> = probes.iter().map(|probe| scope.spawn(move || probe.goes_wrong())).collect();
        let results = tried.into_iter().map(|dial| dial.join().expect("a dial doesn't panic"));
        let wrong = probes.iter().zip(results).filter(|(_, wrong)| *wrong);
        wrong
            .map(|(Probe { what, request, expected, .. }, _)| format!("{what}, {request}, expected {expected}"))
            .collect()
    });
    assert!(wrong.is_empty(), "{} of {} went wrong:\n{}", wrong.len(), probes.len(), wrong.join("\n"));
}
