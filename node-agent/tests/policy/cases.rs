//! The conformance cases, through the oracle and through the product on two nodes.

use std::{net::IpAddr, path::PathBuf};

use node_agent::model::objects::Kind;
use serde_json::{Value, json};

use crate::{
    oracle::{self, Packet},
    product::Product,
    world::{Event, World},
};

fn cases() -> Value {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let shared = std::env::var_os("FAIRLEAD_SHARED").map(PathBuf::from);
    let path = shared.unwrap_or_else(|| workspace.join("../shared/conformance")).join("netpol-cases.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; the cases stand in shared/conformance beside the project, or in the directory that \
             FAIRLEAD_SHARED names",
            path.display()
        )
    });
    serde_norway::from_str(&yaml).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key}: {value}"))
}

fn pair(name: &str) -> (String, String) {
    let (namespace, name) = name.split_once('/').unwrap_or_else(|| panic!("{name}"));
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
        let (namespace, pod) = pair(name);
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

    /// Puts addresses in the place of `${ip:x/b}` and networks in that of `${net:x/b/24}`.
    fn fill_in(&self, value: &Value) -> Value {
        let mut yaml = value.to_string();
        while let Some(start) = yaml.find("${") {
            let end = start + yaml[start..].find('}').unwrap();
            let address = |pod: &str| self.addresses[pod].to_string();
            let filled = match yaml[start + 2..end].split_once(':').unwrap() {
                ("ip", pod) => address(pod),
                ("net", rest) => {
                    let (pod, bits) = rest.rsplit_once('/').unwrap();
                    let network: ipnetwork::IpNetwork = format!("{}/{bits}", address(pod)).parse().unwrap();
                    format!("{}/{bits}", network.network())
                }
                other => panic!("{other:?}"),
            };
            yaml.replace_range(start..=end, &filled);
        }
        serde_json::from_str(&yaml).unwrap()
    }

    fn act(&mut self, action: &Value) {
        let (verb, what) = action.as_object().unwrap().iter().next().unwrap();
        match verb.as_str() {
            "create" | "update" => self.happens(&Event::Apply(self.fill_in(what))),
            "delete" => self.happens(&Event::Delete(Kind::NetworkPolicy, pair(what.as_str().unwrap()))),
            "labelNamespace" | "createNamespace" => self.namespace(text(what, "namespace"), &what["labels"]),
            "deleteNamespace" => {
                let name = what.as_str().unwrap();
                let gone: Vec<String> = self.addresses.keys().filter(|pod| pair(pod).0 == name).cloned().collect();
                gone.iter().for_each(|pod| self.delete_pod(pod));
                self.happens(&Event::Delete(Kind::Namespace, (String::new(), name.to_owned())));
            }
            "labelPod" => {
                let mut pod = serde_json::to_value(&self.world.pods[&pair(text(what, "pod"))]).unwrap();
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
        self.happens(&Event::Delete(Kind::Pod, pair(name)));
    }

    /// Checks every pair of pods, and gives how many there were.
    fn probe(&self, probe: &Value, of: &str) -> usize {
        let mut count = 0;
        for (from, src) in &self.addresses {
            for (to, dst) in self.addresses.iter().filter(|(to, _)| *to != from) {
                let port = probe["port"].as_u64().unwrap() as u16;
                let packet = Packet { src: *src, dst: *dst, protocol: text(probe, "protocol"), port };
                let expected = expected(probe, from, to) == "allow";
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

fn expected<'a>(probe: &'a Value, from: &str, to: &str) -> &'a str {
    let mut verdict = text(probe, "default");
    for except in probe["except"].as_array().unwrap() {
        let (word, ends) = except.as_object().unwrap().iter().next().unwrap();
        if matches(ends[0].as_str().unwrap(), from) && matches(ends[1].as_str().unwrap(), to) {
            verdict = word;
        }
    }
    verdict
}

fn matches(pattern: &str, pod: &str) -> bool {
    let (namespace, name) = pod.split_once('/').unwrap();
    match pattern.split_once('/') {
        None => pattern == "*",
        Some((of, which)) => (of == "*" || of == namespace) && (which == "*" || which == name),
    }
}

#[test]
fn every_case_through_the_oracle_and_the_tables() {
    let file = cases();
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
