//! A flood of SYNs from anywhere: connections live on though they are silent, and new ones are served
//! meanwhile.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tests::{
    cluster::{LogOnFailure, Plan},
    traffic::{Attempt, Crowd, Dial, Outcome, Style, Transport, forge},
};

const LISTEN: [(Transport, u16); 1] = [(Transport::Tcp, 8080)];
/// Of a backend here, which sees its clients, and of one on another node, from which they are hidden.
const NODE_PORTS: [u16; 2] = [31_080, 31_081];
const IDLE: usize = 100;

/// Asks once over each of a crowd's connections, all of which go on.
#[track_caller]
fn ask_all(crowd: &mut Crowd, when: &str) -> Vec<SocketAddr> {
    let answers: Vec<Attempt> = crowd.ask();
    let lost: Vec<_> = answers.iter().filter(|attempt| !matches!(attempt.outcome, Outcome::Ok(_))).collect();
    assert!(lost.is_empty(), "{} of {} lost {when}: {:?}", lost.len(), answers.len(), lost[0]);
    answers.iter().map(|attempt| attempt.answer().client).collect()
}

#[test]
fn silent_connections_outlive_a_flood_during_which_new_ones_are_served() {
    let cluster = Plan::default().node("node-a").node("node-b").start();
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let pods = cluster.pod_on_each("backend");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    for ((name, policy), (pod, port)) in
        [("seen", "Local"), ("hidden", "Cluster")].into_iter().zip(pods.iter().zip(NODE_PORTS))
    {
        let service = cluster.service(name).tcp(80, 8080).node_ports(&[port]);
        cluster.apply(&service.field("externalTrafficPolicy", json!(policy)).backends([pod.endpoint()]));
    }
    // Nobody is there to whom the flood is answered.
    cluster.outside().namespace().ip("route add blackhole 198.18.0.0/15");
    let ports = NODE_PORTS.map(|port| SocketAddr::new(node.addresses()[0], port));
    let dial = |to| Dial::new(cluster.outside(), Transport::Tcp, to);
    let mut idle = ports.map(|to| dial(to).crowd(IDLE));
    let before = idle.each_mut().map(|crowd| ask_all(crowd, "before the flood"));

    let loads = ports.map(|to| dial(to).style(Style::Fresh).pause(Duration::from_millis(2)).load());
    loads.iter().for_each(|load| load.wait_for_more(10));
    let served = loads.each_ref().map(|load| load.so_far().answered);
    let (_, capacity) = node.fill("FLOWS");
    forge(cluster.outside(), Transport::Tcp, None, ports[0], 3 * capacity);
    let served_since = loads.each_ref().map(|load| load.so_far().answered);
    for (before, after) in served.into_iter().zip(served_since) {
        assert!(after > before + 20, "hardly anybody was served during the flood: {before}, then {after}");
    }
    loads.into_iter().for_each(|load| drop(load.stop()));

    let (entries, capacity) = node.fill("FLOWS");
    assert!(entries < capacity / 3, "{entries} of {capacity}");
    for (crowd, before) in idle.iter_mut().zip(before) {
        assert_eq!(ask_all(crowd, "in the flood"), before, "their backends see them as they did");
    }
    // What the flood began made room, and that is told.
    let unopened = node.cli_json(&["status"])["unopenedFlows"].as_u64().expect("a number");
    assert!(unopened > capacity, "{unopened}");
    let told = String::from_utf8(node.cli(&["status"]).stdout).expect("it is text");
    assert!(told.contains(&format!("{unopened} flows made room")), "{told}");
}
