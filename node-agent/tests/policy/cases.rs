//! The conformance cases, through the oracle and through the product on two nodes.

use std::net::IpAddr;

use conformance_cases::policy::{self, text};
use node_agent::model::objects::Kind;
use serde_json::{Value, json};

use crate::{
    oracle::{self, Packet},
    product::Product,
    world::{Event, World},
};

fn owned(name: &str) -> (String, String) {
    let (namespace, name) = policy::pair(name);
    (namespace.to_owned(), name.to_owned())
}

/// The world of a case, with its pods on two nodes by turns.
struct Stage {
    world: World,
    nodes: [Product; 2],
    addresses: std::collections::BTreeMap<String, IpAddr>,
}

impl Stage {
    fn new(topology: &Value) -> Self {
        let nodes = ["one", "two"].map(Product::new);
        let mut stage = Self { world: World::default(), nodes, addresses: Default::default() };
        for (name, namespace) in topology["namespaces"].as_object().unwrap() {
            stage.namespace(name, &namespace["labels"]);
        }
        for (name, pod) in topology["pods"].as_object().unwrap() {
            stage.pod(name, &pod["labels"], text(pod, "ip"));
        }
        stage
    }

    fn happens(&mut self, event: &Event) {
        self.world.happens(event);
        for node in &mut self.nodes {
            assert_eq!(node.take_in(event), "", "{event:?}");
            node.commit();
        }
    }

    fn namespace(&mut self, name: &str, labels: &Value) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.happens(&Event::Apply(object));
    }

    fn pod(&mut self, name: &str, labels: &Value, ip: &str) {
        let node = ["one", "two"][self.addresses.len() % 2];
        self.addresses.insert(name.to_owned(), ip.parse().unwrap());
        let (namespace, pod) = policy::pair(name);
        let ports: Vec<Value> = [80, 81]
            .into_iter()
            .flat_map(|port| ["TCP", "UDP", "SCTP"].map(|protocol| (port, protocol)))
            .map(|(port, protocol)| {
                let name = format!("serve-{port}-{}", protocol.to_lowercase());
                json!({"containerPort": port, "protocol": protocol, "name": name})
            })
            .collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": pod, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": [{"ip": ip}], "phase": "Running"},
        });
        self.happens(&Event::Apply(object));
    }

    fn fill_in(&self, value: &Value) -> Value {
        policy::fill_in(value, |pod| self.addresses[pod])
    }

    fn act(&mut self, action: &Value) {
        let (verb, what) = policy::verb(action);
        match verb {
            "create" | "update" => self.happens(&Event::Apply(self.fill_in(what))),
            "delete" => self.happens(&Event::Delete(Kind::NetworkPolicy, owned(what.as_str().unwrap()))),
            "labelNamespace" | "createNamespace" => self.namespace(text(what, "namespace"), &what["labels"]),
            "deleteNamespace" => {
                let name = what.as_str().unwrap();
                let gone: Vec<String> =
                    self.addresses.keys().filter(|pod| policy::pair(pod).0 == name).cloned().collect();
                gone.iter().for_each(|pod| self.delete_pod(pod));
                self.happens(&Event::Delete(Kind::Namespace, (String::new(), name.to_owned())));
            }
            "labelPod" => {
                let mut pod = serde_json::to_value(&self.world.pods[&owned(text(what, "pod"))]).unwrap();
                pod["metadata"]["labels"] = what["labels"].clone();
                self.happens(&Event::Apply(pod));
            }
            "createPod" => self.pod(text(what, "pod"), &what["labels"], text(what, "ip")),
            "deletePod" => self.delete_pod(what.as_str().unwrap()),
            other => panic!("{other}"),
        }
    }

    fn delete_pod(&mut self, name: &str) {
        self.addresses.remove(name);
        self.happens(&Event::Delete(Kind::Pod, owned(name)));
    }

    /// Checks every pair of pods, and gives how many there were.
    fn probe(&self, probe: &Value, of: &str) -> usize {
        let mut count = 0;
        for (from, src) in &self.addresses {
            for (to, dst) in self.addresses.iter().filter(|(to, _)| *to != from) {
                let port = probe["port"].as_u64().unwrap() as u16;
                let packet = Packet { src: *src, dst: *dst, protocol: text(probe, "protocol"), port };
                let expected = policy::is_allowed(probe, from, to);
                let by_text = oracle::egress(&self.world, packet) && oracle::ingress(&self.world, packet);
                assert_eq!(by_text, expected, "the oracle: {of}: {from} to {to}: {packet:?}");
                let by_tables = self.nodes.iter().all(|node| node.lets_out(packet) && node.lets_in(packet));
                assert_eq!(by_tables, expected, "{of}: {from} to {to}: {packet:?}");
                count += 1;
            }
        }
        count
    }
}

#[test]
fn every_case_through_the_oracle_and_the_tables() {
    let file = policy::cases();
    let (mut probes, mut pairs) = (0, 0);
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let mut stage = Stage::new(&file["topology"]);
        for step in case["steps"].as_array().unwrap() {
            let of = format!("{}, {}", text(case, "id"), text(step, "name"));
            step["actions"].as_array().into_iter().flatten().for_each(|action| stage.act(action));
            for probe in step["probes"].as_array().unwrap() {
                pairs += stage.probe(probe, &of);
                probes += 1;
            }
            stage.nodes.iter_mut().for_each(Product::settle);
            step["probes"].as_array().unwrap().iter().for_each(|probe| _ = stage.probe(probe, &of));
        }
    }
    println!("{} cases, {probes} probes, {pairs} pairs of pods", cases.len());
    assert!(cases.len() >= 89 && probes >= 313, "{} cases, {probes} probes", cases.len());
}
