//! Other plugins behind ours in one conflist.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Node, Pod},
    sandbox,
    traffic::{Dial, Place, Transport},
    wait,
};

/// Megabits a second that the limited pods may have.
const LIMIT: f64 = 20.0;

fn limited(node: &Node, name: &str, direction: &str) -> Pod {
    let bits = LIMIT * 1e6;
    // The other direction is left out, which means no limit.
    let limit = json!({ format!("{direction}Rate"): bits as u64, format!("{direction}Burst"): 1_000_000 });
    node.pod_with(name, &[("bandwidth", limit)])
}

struct Server(Child);

impl Server {
    fn start(place: &dyn Place) -> Self {
        let mut command = place.command("iperf3");
        let child = command.arg("--server").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("iperf3 is there: `cargo xtask setup` installs it"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Megabits a second over TCP for a second.
fn rate(from: &dyn Place, to: &str) -> f64 {
    let output = wait::until("iperf3", Duration::from_secs(20), || {
        let mut command = from.command("iperf3");
        let output = sandbox::output(command.args(["--client", to, "--time", "2", "--omit", "1", "--json"]), "");
        output.status.success().then_some(output)
    });
    let report: Value = serde_json::from_slice(&output.stdout).expect("iperf3 prints JSON");
    report["end"]["sum_received"]["bits_per_second"].as_f64().expect("a report has a rate") / 1e6
}

#[test]
fn the_bandwidth_plugins_limits_act() {
    let cluster = Cluster::of_one(&["--socket-lb=false"]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    node.chain_bandwidth();
    let free = node.pod("free");
    let other = node.pod("other");
    let slow_in = limited(node, "slow-in", "ingress");
    let slow_out = limited(node, "slow-out", "egress");
    let _servers = [&free as &dyn Place, &other, &slow_in, &slow_out].map(Server::start);
    let address = |pod: &Pod| pod.v4().to_string();

    let service = cluster.service("slow").tcp(5201, 5201).backends([slow_in.endpoint()]);
    let fast = cluster.service("fast").tcp(5201, 5201).backends([free.endpoint()]);
    cluster.apply(&service);
    cluster.apply(&fast);
    for (from, to, is_limited) in [
        (&free, address(&other), false),
        (&other, address(&slow_in), true),
        (&slow_out, address(&free), true),
        (&slow_in, address(&free), false),
        (&other, address(&slow_out), false),
        (&free, service.v4(5201).ip().to_string(), true),
        (&slow_out, fast.v4(5201).ip().to_string(), true),
        (&slow_in, fast.v6(5201).ip().to_string(), false),
    ] {
        let rate = rate(from, &to);
        let is_slow = rate < 1.5 * LIMIT;
        assert_eq!(is_slow, is_limited, "{} to {to}: {rate} Mbit/s", from.name());
        assert!(rate > LIMIT / 3.0, "{} to {to}: {rate} Mbit/s", from.name());
    }

    node.kill_agent();
    node.spawn_agent();
    node.wait_for_sync();
    assert!(rate(&other, &address(&slow_in)) < 1.5 * LIMIT, "after a restart");
    let result = slow_in.cni("CHECK").run();
    result.expect("all is as it should be");
    slow_out.cni("DEL").run().unwrap();
    slow_in.cni("DEL").run().unwrap();
    let devices = node.namespace().show("-brief link show");
    assert!(!devices.contains("bwp"), "the plugin's devices are gone: {devices}");
}

#[test]
fn nothing_else_is_needed_in_the_list() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    node.chain_bandwidth();
    let mapping = json!([{ "hostPort": 9080, "containerPort": 8080, "protocol": "tcp" }]);
    let pod = node.pod_with("mapped", &[("portMappings", mapping)]);
    let _server = pod.serve(&[(Transport::Tcp, 8080)]);
    let address = (node.addresses()[0], 9080).into();
    assert_eq!(Dial::new(cluster.outside(), Transport::Tcp, address).once().server(), pod.name());
}
