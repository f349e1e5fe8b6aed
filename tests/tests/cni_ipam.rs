//! Addresses from another IPAM plugin, as Debian ships it.

use std::{fs, net::IpAddr, path::PathBuf};

use serde_json::{Value, json};
use tests::{
    cluster::{Balancing, Cluster, CniCall, CniError, LogOnFailure, Node, shared},
    sandbox::{self, Namespace},
};

/// Two networks that hold two pods each, with the plugin's memory in a directory of the test's own.
struct Pool<'a> {
    node: &'a Node,
    config: Value,
    memory: PathBuf,
}

impl<'a> Pool<'a> {
    /// `number` tells its networks from those of other tests on the same node.
    fn new(node: &'a Node, network: &str, number: u8, version: &str) -> Self {
        node.add_plugin("host-local");
        let memory = node.run_dir().join("host-local");
        let range = |prefix: &str, length: u8| {
            let [start, end] = ["10", "11"].map(|host| format!("{prefix}{host}"));
            json!([{ "subnet": format!("{prefix}0/{length}"), "rangeStart": start, "rangeEnd": end }])
        };
        let config = json!({
            "cniVersion": version, "name": network, "type": "fairlead", "runDir": node.run_dir(),
            "ipam": {
                "type": "host-local",
                "dataDir": memory,
                "ranges": [
                    range(&format!("10.77.{number}."), 24),
                    range(&format!("fd00:77:{number}::"), 64),
                ],
                "routes": [{ "dst": "10.0.0.0/8" }, { "dst": "192.0.2.0/24" }],
            },
        });
        Self { node, config, memory: memory.join(network) }
    }

    fn call(&self, command: &str, namespace: &Namespace) -> CniCall<'a> {
        self.call_with(command, namespace, &self.config)
    }

    fn call_with(&self, command: &str, namespace: &Namespace, config: &Value) -> CniCall<'a> {
        CniCall::new(self.node, command, namespace.name()).namespace(&namespace.path()).config(&config.to_string())
    }

    /// What the plugin believes to be in use.
    fn in_use(&self) -> Vec<String> {
        let names = fs::read_dir(&self.memory).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut addresses: Vec<_> = names.filter(|name| name.parse::<IpAddr>().is_ok()).collect();
        addresses.sort();
        addresses
    }
}

fn cluster() -> (&'static Cluster, LogOnFailure<'static>) {
    let cluster = shared(Balancing::AtSockets);
    (cluster, LogOnFailure(cluster))
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("an ADD's result has addresses");
    ips.iter().map(|ip| ip["address"].as_str().expect("an address is text").to_owned()).collect()
}

fn ping(from: &Namespace, to: &str) {
    sandbox::run(from.command("ping").args(["-c1", "-W2", to.split('/').next().unwrap()]), "");
}

#[test]
fn a_pod_has_what_the_ipam_plugin_gave() {
    let (cluster, _log) = cluster();
    // The second is a version that Debian's plugin doesn't speak.
    for (network, version) in [("then", "1.0.0"), ("now", "1.1.0"), ("long-ago", "0.3.1")] {
        let pool = Pool::new(cluster.node(), network, 0, version);
        let pods = ["one", "two"].map(|name| cluster.node().pod_namespace(&format!("ipam-{network}-{name}")));
        let results = pods.each_ref().map(|pod| pool.call("ADD", pod).run().unwrap());
        assert_eq!(addresses(&results[0]), ["10.77.0.10/32", "fd00:77::10/128"], "{version}");
        assert_eq!(addresses(&results[1]), ["10.77.0.11/32", "fd00:77::11/128"], "{version}");
        assert_eq!(results[0]["cniVersion"], version);
        assert_eq!(pool.call("ADD", &pods[0]).run().unwrap(), results[0], "the same again");
        for address in addresses(&results[1]) {
            ping(&pods[0], &address);
        }

        let destinations: Vec<_> = results[0]["routes"].as_array().unwrap().iter().map(|r| r["dst"].clone()).collect();
        assert_eq!(destinations, ["10.0.0.0/8", "192.0.2.0/24", "::/0"], "no IPv6 route was given: the default one");
        let routes = pods[0].show("route");
        assert!(routes.contains("10.0.0.0/8 via 169.254.1.1") && !routes.contains("default"), "{routes}");
        ping(&pods[0], "192.0.2.11");

        if version != "0.3.1" {
            pool.call("CHECK", &pods[0]).config(&with_previous(&pool.config, &results[0])).run().unwrap();
            pods[0].ip("route del 10.0.0.0/8");
            let check = pool.call("CHECK", &pods[0]).config(&with_previous(&pool.config, &results[0]));
            assert!(check.run().unwrap_err().message.contains("10.0.0.0/8"));
        }
        for pod in &pods {
            pool.call("DEL", pod).run().unwrap();
            pool.call("DEL", pod).run().expect("a second DEL is no error");
            pod.remove();
        }
        assert_eq!(pool.in_use(), [] as [String; 0]);
    }
}

fn with_previous(config: &Value, result: &Value) -> String {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    config.to_string()
}

#[test]
fn what_the_ipam_plugin_says_is_passed_on() {
    let (cluster, _log) = cluster();
    let pool = Pool::new(cluster.node(), "passed-on", 1, "1.0.0");
    let pods = ["one", "two", "three"].map(|name| cluster.node().pod_namespace(&format!("full-{name}")));
    pool.call("ADD", &pods[0]).run().unwrap();
    pool.call("ADD", &pods[1]).run().unwrap();
    let CniError { code, message } = pool.call("ADD", &pods[2]).run().unwrap_err();
    assert_eq!(code, 999, "host-local's own: {message}");
    assert!(message.contains("host-local") && message.contains("no IP addresses available"), "{message}");
    assert!(!pods[2].show("-brief link show").contains("eth0"));

    let mut absent = pool.config.clone();
    absent["ipam"]["type"] = json!("not-here");
    let error = pool.call_with("ADD", &pods[2], &absent).run().unwrap_err();
    assert_eq!(error.code, 7);
    assert!(error.message.contains("not-here"), "{error:?}");

    for pod in &pods {
        pool.call("DEL", pod).run().unwrap();
        pod.remove();
    }
}

#[test]
fn an_add_that_fails_halfway_gives_its_addresses_back() {
    let (cluster, _log) = cluster();
    let pool = Pool::new(cluster.node(), "halfway", 2, "1.1.0");
    let pod = cluster.node().pod_namespace("halfway");
    pod.ip("link add eth0 type bridge");
    assert_eq!(pool.call("ADD", &pod).run().unwrap_err().code, 101, "the interface is another's");
    assert_eq!(pool.in_use(), [] as [String; 0]);
    pod.ip("link del eth0");

    // An address that the agent has given to another already.
    let other = cluster.node().pod("other");
    let mut clash = pool.config.clone();
    let v4 = other.v4().to_string();
    clash["ipam"]["ranges"] = json!([[{ "subnet": "10.244.1.0/24", "rangeStart": v4, "rangeEnd": v4 }]]);
    let error = pool.call_with("ADD", &pod, &clash).run().unwrap_err();
    assert!(error.message.contains(&v4), "{error:?}");
    assert_eq!(pool.in_use(), [] as [String; 0]);
    ping(&cluster.node().pod("third").namespace().clone(), &v4);

    pool.call("ADD", &pod).run().unwrap();
    assert_eq!(pool.in_use().len(), 2);
    pool.call("DEL", &pod).run().unwrap();
    pod.remove();
}

#[test]
fn gc_and_status_reach_the_ipam_plugin() {
    let (cluster, _log) = cluster();
    let pool = Pool::new(cluster.node(), "collected", 3, "1.1.0");
    let pods = ["kept", "stale"].map(|name| cluster.node().pod_namespace(&format!("gc-{name}")));
    for pod in &pods {
        pool.call("ADD", pod).run().unwrap();
    }
    let mut config = pool.config.clone();
    let valid = json!([{ "containerID": pods[0].name(), "ifname": "eth0" }]);
    config["cni.dev/valid-attachments"] = valid.clone();
    config["cni.dev/attachments"] = valid;
    let call = |command: &str, config: &Value| CniCall::new(pool.node, command, "").config(&config.to_string()).run();
    call("GC", &config).unwrap();
    assert_eq!(pool.in_use(), ["10.77.3.10", "fd00:77:3::10"]);
    assert!(!pods[1].show("-brief link show").contains("eth0"));
    ping(&pods[0], "192.0.2.11");

    call("STATUS", &pool.config).unwrap();
    config["ipam"]["type"] = json!("not-here");
    assert_eq!(call("STATUS", &config).unwrap_err().code, 50);
    for pod in &pods {
        pool.call("DEL", pod).run().unwrap();
        pod.remove();
    }
}

#[test]
fn addresses_outlive_the_agent() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let pool = Pool::new(node, "kept", 0, "1.1.0");
    let pod = node.pod_namespace("kept");
    let result = pool.call("ADD", &pod).run().unwrap();
    node.kill_agent();
    let other = node.pod_namespace("other");
    assert_eq!(pool.call("ADD", &other).run().unwrap_err().code, 11);
    assert_eq!(pool.in_use().len(), 2, "without an agent nothing is taken");
    node.spawn_agent();
    node.wait_for_sync();
    pool.call("CHECK", &pod).config(&with_previous(&pool.config, &result)).run().unwrap();
    assert_eq!(pool.call("ADD", &pod).run().unwrap(), result);
    ping(&node.pod("peer").namespace().clone(), "10.77.0.10");
}
