//! A thousand other nodes: one that joins them touches nothing of the others'. What it costs in
//! time and memory is `cargo xtask bench joining`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Stdio},
};

use tests::{
    cluster::{LogOnFailure, Node, Plan},
    manifest::{CROWD, Where, crowd, other_node},
};

fn routes(node: &Node) -> usize {
    ["-4", "-6"]
        .map(|family| node.namespace().show(&format!("{family} route show proto 197")).lines().count())
        .iter()
        .sum()
}

/// Hears of each change of a route on a node.
struct Monitor<'a> {
    node: &'a Node,
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

/// A table in which nobody but this test has routes.
const MARK: &str = "198.51.100.99 dev lo table 99";

impl<'a> Monitor<'a> {
    fn start(node: &'a Node) -> Self {
        let mut command = node.namespace().command("stdbuf");
        let mut child =
            command.args(["-oL", "ip", "monitor", "route"]).stdout(Stdio::piped()).spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut monitor = Self { node, child, lines };
        // It may not listen yet.
        std::thread::sleep(std::time::Duration::from_millis(300));
        monitor.heard();
        monitor
    }

    /// What was heard of routes in the main table since the last call.
    fn heard(&mut self) -> Vec<String> {
        self.node.namespace().ip(&format!("route add {MARK}\nroute del {MARK}"));
        let mut heard = Vec::new();
        loop {
            let line = self.lines.next().expect("it runs").expect("it prints text");
            match line.contains("table 99") {
                true if line.starts_with("Deleted") => return heard,
                true => {}
                false => heard.push(line),
            }
        }
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn one_that_joins_touches_nothing_else(place: Where) {
    let cluster = Plan::default().node("node-a").start();
    let _log = LogOnFailure(&cluster);
    let a = cluster.node();
    let before = routes(a);
    cluster.directory().write("crowd.json", &crowd(place));
    cluster.wait_for_sync();
    assert_eq!(routes(a) - before, 2 * CROWD as usize);
    assert_eq!(a.problems(), Vec::<String>::new());

    let mut monitor = Monitor::start(a);
    for number in CROWD + 1..CROWD + 4 {
        let node = other_node(number, place);
        let cidrs: Vec<&str> =
            node["spec"]["podCIDRs"].as_array().expect("it has some").iter().flat_map(|cidr| cidr.as_str()).collect();
        let of_it = |heard: &[String], how: &str| {
            assert_eq!(heard.len(), cidrs.len(), "{heard:#?}");
            for cidr in &cidrs {
                assert!(heard.iter().any(|line| line.starts_with(&format!("{how}{cidr} "))), "{cidr}: {heard:#?}");
            }
        };
        cluster.directory().put(&node);
        cluster.wait_for_sync();
        of_it(&monitor.heard(), "");
        cluster.directory().delete(&node);
        cluster.wait_for_sync();
        of_it(&monitor.heard(), "Deleted ");
    }
    assert_eq!(routes(a) - before, 2 * CROWD as usize);
}

#[test]
fn a_node_that_joins_a_thousand_on_the_link() {
    one_that_joins_touches_nothing_else(Where::OnTheLink);
}

#[test]
fn a_node_that_joins_a_thousand_in_vxlan() {
    one_that_joins_touches_nothing_else(Where::Elsewhere);
}
