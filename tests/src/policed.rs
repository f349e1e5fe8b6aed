//! Labelled pods, namespaces and NetworkPolicies of a cluster, and who reaches whom.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Pod},
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

/// A dial that is denied takes so long, and is tried once; one that should be answered gets some more tries.
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
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, transport, port)| {
            json!({"name": name, "containerPort": port, "protocol": transport.manifest_name()})
        })
        .collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": format!("{namespace}-{name}"), "labels": labels},
        "spec": {"nodeName": node.name(), "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": "Running"},
    });
    let pod = node.pod_of(object);
    label_pod(cluster, &pod, namespace, name, labels);
    pod
}

/// Writes a pod's labels, which are in force with what is synced next.
pub fn label_pod(cluster: &Cluster, pod: &Pod, namespace: &str, name: &str, labels: &Value) {
    let mut object = pod.manifest().clone();
    object["metadata"]["labels"] = labels.clone();
    object["status"]["podIPs"] = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
    cluster.directory().write(&format!("pod.{namespace}.{name}.json"), &object.to_string());
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

/// Removes a NetworkPolicy; gone when this returns.
#[track_caller]
pub fn delete(cluster: &Cluster, namespace: &str, name: &str) {
    cluster.directory().remove(&policy_file(namespace, name));
    cluster.wait_for_sync();
}

fn policy_file(namespace: &str, name: &str) -> String {
    format!("policy.{namespace}.{name}.json")
}

/// A peer that is one address.
pub fn block(ip: &IpAddr) -> Value {
    json!({"ipBlock": {"cidr": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })}})
}

/// Whether somebody is answered there.
pub fn answers(client: &dyn Place, transport: Transport, address: SocketAddr) -> bool {
    let attempt = Dial::new(client, transport, address).timeout(SHORT).once();
    matches!(attempt.outcome, Outcome::Ok(_))
}

/// One attempt, and whether it should succeed.
pub struct Probe<'a> {
    /// What is tried, in words.
    pub what: String,
    /// Who dials.
    pub client: &'a (dyn Place + Sync),
    /// How.
    pub transport: Transport,
    /// Whom.
    pub address: SocketAddr,
    /// Whether an answer should come.
    pub expected: bool,
}

impl Probe<'_> {
    fn goes_wrong(&self) -> bool {
        // A packet may be lost, but none may come through.
        let tries = if self.expected { TRIES } else { 1 };
        (0..tries).any(|_| answers(self.client, self.transport, self.address)) != self.expected
    }
}

/// Makes all attempts at once.
///
/// # Panics
/// If one goes otherwise than it should.
#[track_caller]
pub fn assert_all(probes: &[Probe<'_>]) {
    let wrong: Vec<String> = thread::scope(|scope| {
        let tried: Vec<_> = probes.iter().map(|probe| scope.spawn(move || probe.goes_wrong())).collect();
        let results = tried.into_iter().map(|dial| dial.join().expect("a dial doesn't panic"));
        let wrong = probes.iter().zip(results).filter(|(_, wrong)| *wrong);
        wrong
            .map(|(probe, _)| {
                format!("{} at {} {}, expected {}", probe.what, probe.transport, probe.address, probe.expected)
            })
            .collect()
    });
    assert!(wrong.is_empty(), "{} of {} went wrong:\n{}", wrong.len(), probes.len(), wrong.join("\n"));
}
