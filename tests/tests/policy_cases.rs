//! Every conformance case of NetworkPolicy against real pods on two nodes: to their addresses and
//! to one-pod Services by turns.
//!
//! Not here: cases that hold for their own addresses only. They are judged by the tables' own
//! decision in `node-agent/tests/policy`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use conformance_cases::policy::{self, pair, text};
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Plan, Pod},
    manifest::Service,
    policed::LISTEN,
    traffic::{Dial, Outcome, Place, Server, Transport},
};

/// A dial that is denied takes so long, and is tried once; one that should be answered gets some more tries.
const SHORT: Duration = Duration::from_millis(200);
const TRIES: usize = 10;

/// A pod of a case, which serves, and the Service that has it alone.
struct Member {
    pod: Pod,
    service: Service,
    _server: Server,
}

struct Stage<'a> {
    cluster: &'a Cluster,
    members: BTreeMap<String, Member>,
}

impl Stage<'_> {
    fn namespace(&self, name: &str, labels: &Value) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.cluster.directory().write(&format!("namespace.{name}.json"), &object.to_string());
    }

    fn manifest(name: &str, node: &str, labels: &Value, pod: Option<&Pod>) -> Value {
        let (namespace, short) = pair(name);
        let ports = LISTEN.map(|(transport, port)| {
            let name = format!("serve-{port}-{transport}");
            json!({"containerPort": port, "protocol": transport.manifest_name(), "name": name})
        });
        let ips: Vec<Value> = pod.into_iter().flat_map(Pod::addresses).map(|ip| json!({"ip": ip})).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": format!("{namespace}-{short}"), "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "main", "ports": ports}]},
            "status": {"phase": "Running", "podIPs": ips},
        })
    }

    fn announce(&self, name: &str, node: &str, labels: &Value, pod: &Pod) {
        let (namespace, short) = pair(name);
        let object = Self::manifest(name, node, labels, Some(pod));
        self.cluster.directory().write(&format!("pod.{namespace}.{short}.json"), &object.to_string());
    }

    fn node_of(&self, name: &str) -> usize {
        // By turns, so that pods of a namespace and pods of a name are on both.
        name.bytes().map(usize::from).sum::<usize>() % self.cluster.nodes().len()
    }

    fn pod(&mut self, name: &str, labels: &Value) {
        let node = &self.cluster.nodes()[self.node_of(name)];
        let pod = node.pod_of(Self::manifest(name, node.name(), labels, None));
        self.announce(name, node.name(), labels, &pod);
        let service =
            self.cluster.service("s").tcp(80, 80).udp(80, 80).sctp(80, 80).tcp(81, 81).udp(81, 81).sctp(81, 81);
        let service = service.backends([pod.endpoint()]);
        for manifest in service.manifests() {
            self.cluster.directory().put(&manifest);
        }
        let server = pod.serve(&LISTEN);
        self.members.insert(name.to_owned(), Member { pod, service, _server: server });
    }

    fn delete_pod(&mut self, name: &str) {
        let (namespace, short) = pair(name);
        self.cluster.directory().remove(&format!("pod.{namespace}.{short}.json"));
        let member = self.members.remove(name).unwrap();
        member.service.manifests().iter().for_each(|manifest| self.cluster.directory().delete(manifest));
    }

    fn fill_in(&self, value: &Value) -> Value {
        policy::fill_in(value, |pod| self.members[pod].pod.v4())
    }

    fn policy_file(namespace: &str, name: &str) -> String {
        format!("policy.{namespace}.{name}.json")
    }

    fn act(&mut self, action: &Value, files: &mut Vec<String>) {
        let (verb, what) = policy::verb(action);
        match verb {
            "create" | "update" => {
                let object = self.fill_in(what);
                let metadata = &object["metadata"];
                let file = Self::policy_file(text(metadata, "namespace"), text(metadata, "name"));
                self.cluster.directory().write(&file, &object.to_string());
                files.push(file);
            }
            "delete" => {
                let (namespace, name) = pair(what.as_str().unwrap());
                self.cluster.directory().remove(&Self::policy_file(namespace, name));
            }
            "labelNamespace" | "createNamespace" => self.namespace(text(what, "namespace"), &what["labels"]),
            "deleteNamespace" => {
                let name = what.as_str().unwrap();
                let gone: Vec<String> = self.members.keys().filter(|pod| pair(pod).0 == name).cloned().collect();
                gone.iter().for_each(|pod| self.delete_pod(pod));
                self.cluster.directory().remove(&format!("namespace.{name}.json"));
            }
            "labelPod" => {
                let name = text(what, "pod");
                let node = self.cluster.nodes()[self.node_of(name)].name();
                self.announce(name, node, &what["labels"], &self.members[name].pod);
            }
            "createPod" => self.pod(text(what, "pod"), &what["labels"]),
            "deletePod" => self.delete_pod(what.as_str().unwrap()),
            other => panic!("{other}"),
        }
    }

    /// What differs from what a probe says, and how many pairs there were.
    fn probe(&self, probe: &Value, by_service: bool) -> (Vec<String>, usize) {
        let transport = [Transport::Tcp, Transport::Udp, Transport::Sctp];
        let transport = transport.into_iter().find(|one| one.manifest_name() == text(probe, "protocol")).unwrap();
        let port = probe["port"].as_u64().unwrap() as u16;
        let all = self.members.iter().flat_map(|from| self.members.iter().map(move |to| (from, to)));
        let pairs: Vec<_> = all.filter(|((from, _), (to, _))| from != to).collect();
        let dial = |((from, client), (to, server)): ((&String, &Member), (&String, &Member))| {
            let address = match by_service {
                true => server.service.v4(port),
                false => SocketAddr::new(server.pod.v4(), port),
            };
            let expected = policy::is_allowed(probe, from, to);
            // A packet may be lost, but none may come through.
            let tries = if expected { TRIES } else { 1 };
            let is_answered = || {
                let attempt = Dial::new(&client.pod, transport, address).timeout(SHORT).once();
                matches!(attempt.outcome, Outcome::Ok(_))
            };
            let answered = (0..tries).any(|_| is_answered());
            (answered != expected)
                .then(|| format!("{} to {to} at {transport} {address}, expected {expected}", client.pod.name()))
        };
        let wrong = thread::scope(|scope| {
            let dials: Vec<_> = pairs.iter().map(|pair| scope.spawn(|| dial(*pair))).collect();
            dials.into_iter().filter_map(|dial| dial.join().unwrap()).collect()
        });
        (wrong, pairs.len())
    }
}

#[test]
fn every_case_between_real_pods() {
    let file = policy::cases();
    let only = std::env::var("FAIRLEAD_POLICY_CASE").unwrap_or_default();
    let cluster = Plan::default().node("node-a").node("node-b").start();
    let _log = LogOnFailure(&cluster);
    let mut stage = Stage { cluster: &cluster, members: BTreeMap::new() };
    let topology = &file["topology"];
    for (name, namespace) in topology["namespaces"].as_object().unwrap() {
        stage.namespace(name, &namespace["labels"]);
    }
    for (name, pod) in topology["pods"].as_object().unwrap() {
        stage.pod(name, &pod["labels"]);
    }
    let began = Instant::now();
    let (mut judged, mut pairs, mut left_out) = (0, 0, 0);
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().unwrap().iter().filter(|case| text(case, "id").contains(&only)) {
        if case["tags"].as_array().unwrap().iter().any(|tag| tag == "fixed-ips") {
            left_out += 1;
            continue;
        }
        let mut files = Vec::new();
        for step in case["steps"].as_array().unwrap() {
            step["actions"].as_array().into_iter().flatten().for_each(|action| stage.act(action, &mut files));
            cluster.wait_for_sync();
            for probe in step["probes"].as_array().unwrap() {
                judged += 1;
                let (found, count) = stage.probe(probe, judged % 2 == 0);
                pairs += count;
                wrong.extend(
                    found.into_iter().map(|what| format!("{}, {}: {what}", text(case, "id"), text(step, "name"))),
                );
            }
        }
        files.iter().for_each(|file| cluster.directory().remove(file));
        for (name, namespace) in topology["namespaces"].as_object().unwrap() {
            stage.namespace(name, &namespace["labels"]);
        }
        for (name, pod) in topology["pods"].as_object().unwrap() {
            let node = cluster.nodes()[stage.node_of(name)].name();
            stage.announce(name, node, &pod["labels"], &stage.members[name].pod);
        }
        cluster.wait_for_sync();
    }
    println!("{judged} probes, {pairs} pairs, {left_out} cases left out, {:?}", began.elapsed());
    assert!(wrong.is_empty(), "{} of {pairs} pairs:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged > 0);
}
