//! XDP on a node's uplink, met with real sockets: where it runs, what it forwards, and
//! what it must leave alone.
//!
//! The uplink is a veth whose other end is a port of a bridge outside. That end polls
//! when GRO is on there, and only then can XDP send. What sockets outside send over it
//! has no finished checksum unless the port computes none.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tests::{
    cluster::{Cluster, Node, Outside, Plan, Pod},
    manifest::Service,
    sandbox::{Namespace, run},
    traffic::{Dial, Place, Server, Transport},
    wait,
};

const TCP: (Transport, u16) = (Transport::Tcp, 8080);
const UDP: (Transport, u16) = (Transport::Udp, 5353);
const NODE_PORT_TCP: u16 = 30_080;
const NODE_PORT_UDP: u16 = 30_053;
/// How long the agent may take to follow what happens to an interface.
const PATIENCE: Duration = Duration::from_secs(5);

/// Switches features of an interface.
fn ethtool(namespace: &Namespace, interface: &str, features: &str) {
    run(namespace.command("ethtool").args(["-K", interface]).args(features.split(' ')), "");
}

/// The uplink's other end polls, or doesn't.
fn gro(cluster: &Cluster, on: bool) {
    ethtool(cluster.outside().namespace(), "uplink-1", if on { "gro on" } else { "gro off" });
}

/// How XDP stands on the node's uplink.
fn state(node: &Node) -> (String, String) {
    let status = node.cli_json(&["status"]);
    let xdp = &status["xdp"][0];
    let text = |field: &str| xdp[field].as_str().unwrap_or_else(|| panic!("no {field} in {status}")).to_owned();
    assert_eq!(text("interface"), "eth0");
    (text("mode"), text("reason"))
}

#[track_caller]
fn wait_for(node: &Node, mode: &str, reason: &str) {
    wait::until(&format!("XDP {mode} ({reason})"), PATIENCE, || {
        let (found, why) = state(node);
        (found == mode && why.contains(reason)).then_some(())
    });
}

/// The id of the XDP program that the kernel has on the uplink.
fn program_id(node: &Node) -> Option<u64> {
    let shown: Value = serde_json::from_str(&node.namespace().show("-json -details link show dev eth0")).unwrap();
    shown[0]["xdp"]["prog"]["id"].as_u64()
}

/// Frames that came by the uplink and that XDP has sent.
fn sent_by_xdp(node: &Node) -> u64 {
    let shown = run(node.namespace().command("ethtool").args(["-S", "eth0"]), "");
    let counts = shown.lines().filter(|line| line.contains("_xdp_tx:") || line.contains("_xdp_redirect:"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A Service with NodePorts for TCP and UDP before these pods.
fn service(cluster: &Cluster, pods: &[Pod]) -> Service {
    let service = cluster.service("web").tcp(80, TCP.1).udp(53, UDP.1).node_ports(&[NODE_PORT_TCP, NODE_PORT_UDP]);
    service.backends(pods.iter().map(Pod::endpoint))
}

/// The node's NodePorts in both families.
fn node_ports(node: &Node) -> Vec<(Transport, SocketAddr)> {
    let ports = [(Transport::Tcp, NODE_PORT_TCP), (Transport::Udp, NODE_PORT_UDP)];
    let at = |(transport, port)| {
        node.addresses().into_iter().map(move |address| (transport, SocketAddr::new(address, port)))
    };
    ports.into_iter().flat_map(at).collect()
}

#[track_caller]
fn ping(from: &Outside, arguments: &str) {
    let mut command = from.command("ping");
    run(command.args(["-c", "3", "-i", "0.01", "-W", "2", "-q"]).args(arguments.split(' ')), "");
}

#[test]
fn on_a_veth_it_runs_while_it_can_send_and_has_something_to_do() {
    let cluster = Cluster::of_one(&[]);
    let node = cluster.node();
    wait_for(node, "off", "GRO is off");
    gro(&cluster, true);
    wait_for(node, "off", "no Service");
    let service = service(&cluster, &[]);
    cluster.apply(&service);
    wait_for(node, "native", "");
    assert!(program_id(node).is_some(), "the kernel has none");
    gro(&cluster, false);
    wait_for(node, "off", "GRO is off");
    assert_eq!(program_id(node), None, "the kernel has it still");
    gro(&cluster, true);
    wait_for(node, "native", "");
    cluster.delete(&service);
    wait_for(node, "off", "no Service");
}

#[test]
fn a_restart_leaves_it_where_it_is_and_the_flag_takes_it_off() {
    let cluster = Cluster::of_one(&["--xdp=native"]);
    let node = cluster.node();
    let before = program_id(node);
    assert!(before.is_some());
    node.kill_agent();
    assert_eq!(program_id(node), before, "it went with the agent");
    node.spawn_agent();
    node.wait_for_sync();
    assert_eq!(program_id(node), before, "the same binary has the same program");
    for (flag, mode) in [("--xdp=generic", "generic"), ("--xdp=off", "off"), ("--xdp=native", "native")] {
        node.kill_agent();
        node.start_agent(&[flag.to_owned()]);
        assert_eq!(state(node).0, mode);
        assert_eq!(program_id(node).is_some(), mode != "off", "{flag}");
    }
}

#[test]
fn a_driver_that_cannot_is_a_problem_only_if_it_was_demanded() {
    let cluster = Plan::default().node("node-a").without_agents();
    let node = cluster.node();
    node.namespace().ip("link add plain type bridge\nlink set plain up");
    node.start_agent(&["--devices=eth0,plain".to_owned(), "--xdp=native".to_owned()]);
    let problems = |node: &Node| node.cli_json(&["status"])["problems"].to_string();
    assert!(problems(node).contains("XDP on plain"), "{}", problems(node));
    assert_eq!(state(node).0, "native", "the other uplink has it all the same");
    node.kill_agent();
    node.start_agent(&["--devices=eth0,plain".to_owned()]);
    assert!(!problems(node).contains("XDP"), "{}", problems(node));
}

#[test]
fn what_is_no_services_passes() {
    for flag in ["--xdp=native", "--xdp=generic"] {
        passes(flag);
    }
}

fn passes(flag: &str) {
    let cluster = Cluster::of_one(&[flag]);
    let (node, outside) = (cluster.node(), cluster.outside());
    cluster.apply(&service(&cluster, &[]));
    gro(&cluster, true);
    let _server = Server::start(node, &[TCP, UDP]);
    for checksums in ["tx off", "tx on"] {
        ethtool(outside.namespace(), "uplink-1", checksums);
        for address in node.addresses() {
            ping(outside, &address.to_string());
            ping(outside, &format!("-s 4000 {address}"));
            for (transport, port) in [TCP, UDP] {
                let name = Dial::new(outside, transport, SocketAddr::new(address, port)).times(5).only_server();
                assert_eq!(name, node.name(), "{flag} {checksums} {transport} {address}");
            }
        }
        // Every router notes itself in the packet: an IP option.
        ping(outside, &format!("-R {}", node.addresses()[0]));
    }
}

/// NodePorts of the first node, dialled from outside, with a backend on the other node or on the first.
fn node_ports_work(flag: &str, polls: bool, checksums: &str, remote: bool) -> u64 {
    let cluster = Plan::default().node("node-a").node("node-b").flag(flag).start();
    let [a, b] = cluster.nodes() else { panic!("there are two nodes") };
    gro(&cluster, polls);
    // So that frames carry finished checksums, as over a wire, or none.
    let outside = cluster.outside();
    for port in ["uplink-1", "uplink-2"] {
        ethtool(outside.namespace(), port, &format!("tx {checksums}"));
    }
    ethtool(b.namespace(), "eth0", &format!("tx {checksums}"));
    let pods = if remote { b.pods("backend", 1) } else { a.pods("backend", 1) };
    let _server = pods[0].serve(&[TCP, UDP]);
    cluster.apply(&service(&cluster, &pods));
    if flag != "--xdp=generic" && polls {
        wait_for(a, "native", "");
    }
    let before = sent_by_xdp(a);
    for (transport, address) in node_ports(a) {
        let what = format!("{flag}, polls: {polls}, checksums {checksums}, {transport} {address}");
        let name = Dial::new(outside, transport, address).times(20).only_server();
        assert_eq!(name, pods[0].name(), "{what}");
        let mut session = Dial::new(outside, transport, address).open();
        for _ in 0..20 {
            assert_eq!(session.ask().server(), pods[0].name(), "{what}");
        }
    }
    sent_by_xdp(a) - before
}

#[test]
fn a_backend_elsewhere_is_reached_straight_out_of_xdp() {
    let sent = node_ports_work("--xdp=auto", true, "off", true);
    // Two ways, twenty requests in each of eight runs, two packets at least for a request and its answer.
    assert!(sent >= 8 * 20 * 2, "XDP has sent {sent} frames only");
}

#[test]
fn unfinished_checksums_are_left_to_tc() {
    let sent = node_ports_work("--xdp=auto", true, "on", true);
    assert_eq!(sent, 0, "XDP has sent frames with half a checksum");
}

#[test]
fn where_xdp_cannot_send_tc_does() {
    let sent = node_ports_work("--xdp=native", false, "off", true);
    assert_eq!(sent, 0, "what XDP sent was lost");
}

#[test]
fn a_backend_on_the_node_is_reached_through_xdp() {
    node_ports_work("--xdp=native", true, "off", false);
}

#[test]
fn where_the_driver_is_left_alone_the_stack_runs_it() {
    for remote in [false, true] {
        node_ports_work("--xdp=generic", false, "off", remote);
    }
}

#[test]
fn a_large_transfer_goes_through() {
    let cluster = Plan::default().node("node-a").node("node-b").flag("--xdp=native").start();
    let [a, b] = cluster.nodes() else { panic!("there are two nodes") };
    gro(&cluster, true);
    for port in ["uplink-1", "uplink-2"] {
        ethtool(cluster.outside().namespace(), port, "tx off");
    }
    let pods = b.pods("backend", 1);
    let mut server = pods[0].command("iperf3").args(["-s", "-p", &TCP.1.to_string()]).spawn().unwrap();
    cluster.apply(&service(&cluster, &pods));
    for address in a.addresses() {
        for direction in [&["-b", "0"][..], &["-R"]] {
            let mut client = cluster.outside().command("iperf3");
            client.args(["-c", &address.to_string(), "-p", &NODE_PORT_TCP.to_string(), "-t", "1", "-J"]);
            let report: Value = serde_json::from_str(&run(client.args(direction), "")).unwrap();
            let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
            assert!(received > 10 << 20, "{address} {direction:?}: {received} bytes in a second");
        }
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
