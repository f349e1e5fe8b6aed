//! What other nodes cost: a node that joins a thousand, and one more that joins it.

use std::fs;

use serde_json::{Value, json};
use tests::{
    cluster::{LogOnFailure, Node, Plan},
    manifest,
};

const NODES: u32 = 1000;
/// What joining may cost, in CPU time and memory.
const MILLISECONDS: f64 = 50.0;
const MEBIBYTES: f64 = 10.0;

/// The CPU time of all threads of a node's agent so far, in milliseconds.
fn cpu(node: &Node) -> f64 {
    let pid = node.agent().as_ref().expect("it runs").pid();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let of = |task: fs::DirEntry| -> f64 {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0.0)
    };
    tasks.map(of).sum::<f64>() / 1e6
}

/// The memory of a node's agent that is its own, in MiB.
fn memory(node: &Node) -> f64 {
    let pid = node.agent().as_ref().expect("it runs").pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

fn node(number: u32, near: bool) -> Value {
    let (high, low) = (number / 250, number % 250);
    let cidrs = [format!("10.{}.{low}.0/24", high + 1), format!("fd00:20:{number:x}::/64")];
    // Near ones are on the node's own link.
    let address = if near { format!("2001:db8::1:{number:x}") } else { format!("203.0.{high}.{low}") };
    manifest::node(&format!("other-{number}"), "zone", &cidrs, &[address.parse().expect("an address")])
}

fn thousand(near: bool) -> String {
    let items: Vec<Value> = (1..=NODES).map(|number| node(number, near)).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

fn routes(node: &Node) -> usize {
    ["-4", "-6"]
        .map(|family| node.namespace().show(&format!("{family} route show proto 197")).lines().count())
        .iter()
        .sum()
}

fn joining_costs_little(near: bool) {
    let cluster = Plan::default().node("node-a").start();
    let _log = LogOnFailure(&cluster);
    let a = cluster.node();
    let (routes_before, memory_before, before) = (routes(a), memory(a), cpu(a));
    cluster.directory().write("thousand.json", &thousand(near));
    cluster.wait_for_sync();
    let (all, grown) = (cpu(a) - before, memory(a) - memory_before);
    assert_eq!(routes(a) - routes_before, 2 * NODES as usize);
    assert_eq!(a.problems(), Vec::<String>::new());

    let before = cpu(a);
    cluster.directory().put(&node(NODES + 1, near));
    cluster.wait_for_sync();
    let one = cpu(a) - before;
    assert_eq!(routes(a) - routes_before, 2 * NODES as usize + 2);
    println!(
        "{} nodes {}: {all:.1} ms and {grown:.1} MiB to learn of them all, {one:.1} ms of one more",
        NODES,
        if near { "on the link" } else { "in VXLAN" },
    );
    // All of it at once, reading the manifests included, in a cluster that was there first.
    assert!(all < 4.0 * MILLISECONDS, "{all} ms");
    assert!(one < MILLISECONDS, "{one} ms");
    assert!(grown < MEBIBYTES, "{grown} MiB");
}

#[test]
fn joining_a_thousand_nodes_on_the_link() {
    joining_costs_little(true);
}

#[test]
fn joining_a_thousand_nodes_in_vxlan() {
    joining_costs_little(false);
}
