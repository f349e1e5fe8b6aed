//! `--load-balancer-mode=dsr`: a client outside dials one node, a backend on another sees the
//! client's true address, and its answers never pass the first.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Node, Outside, Plan, Pod},
    manifest::Service,
    traffic::{Dial, Outcome, Place, Server, Session, Style, Transport},
};

const DSR: &str = "--load-balancer-mode=dsr";
const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const NODE_PORTS: [u16; 2] = [30_080, 30_053];
const BALANCER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10)), 80);

struct Bed {
    cluster: Cluster,
    /// One on each node.
    pods: Vec<Pod>,
    _servers: Vec<Server>,
}

impl Bed {
    fn new(cluster: Cluster) -> Self {
        let pods = cluster.pod_on_each("backend");
        let servers = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
        let node = cluster.node().addresses()[0];
        cluster.outside().namespace().ip(&format!("route add {} via {node}", BALANCER.ip()));
        Self { cluster, pods, _servers: servers }
    }

    fn three_nodes(flags: &[&str]) -> Self {
        let plan = ["node-a", "node-b", "node-c"].into_iter().fold(Plan::default(), Plan::node);
        Self::new(flags.iter().fold(plan, |plan, flag| plan.flag(flag)).start())
    }

    /// The Service, with the pods of these nodes behind it.
    fn service(&self, backends: &[usize]) -> Service {
        let service = self.cluster.service("web").tcp(80, 8080).udp(53, 5353).node_ports(&NODE_PORTS);
        let service = service.load_balancer(&[BALANCER.ip()]);
        service.backends(backends.iter().map(|i| self.pods[*i].endpoint()))
    }

    fn dial(&self, transport: Transport, address: SocketAddr) -> Dial<'_> {
        Dial::new(self.cluster.outside(), transport, address)
    }

    fn sessions(&self) -> Vec<Session> {
        let open = |(transport, address)| self.dial(transport, address).open();
        node_ports(self.cluster.node()).into_iter().map(open).collect()
    }
}

/// The node's NodePorts in both families.
fn node_ports(node: &Node) -> Vec<(Transport, SocketAddr)> {
    let ports = [(Transport::Tcp, NODE_PORTS[0]), (Transport::Udp, NODE_PORTS[1])];
    let at = |(transport, port)| {
        node.addresses().into_iter().map(move |address| (transport, SocketAddr::new(address, port)))
    };
    ports.into_iter().flat_map(at).collect()
}

/// How many frames the nodes' link has sent to the first node.
fn frames_to_first(cluster: &Cluster) -> u64 {
    let shown = cluster.outside().namespace().show("-json -statistics link show dev uplink-1");
    let shown: Value = serde_json::from_str(&shown).expect("iproute2 prints JSON");
    shown[0]["stats64"]["tx"]["packets"].as_u64().expect("iproute2 counts packets")
}

/// Who is seen, and by which way answers come.
fn answers(flags: &[&str], direct: bool, xdp: bool) {
    const REQUESTS: usize = 200;
    let bed = Bed::three_nodes(flags);
    let _log = LogOnFailure(&bed.cluster);
    if xdp {
        bed.cluster.let_xdp_send();
    }
    bed.cluster.apply(&bed.service(&[1]));
    let node = bed.cluster.node();
    if xdp {
        node.wait_for_xdp();
    }
    let mut ways = node_ports(node);
    ways.push((Transport::Tcp, BALANCER));
    for (transport, address) in ways {
        let ipv6 = address.is_ipv6();
        let client = Outside::ADDRESSES.into_iter().find(|client| client.is_ipv6() == ipv6).expect("there are both");
        let hides = node.addresses().into_iter().find(|own| own.is_ipv6() == ipv6).expect("nodes have both families");
        for style in [Style::Fresh, Style::Kept] {
            for attempt in bed.dial(transport, address).style(style).times(5).0 {
                let seen = attempt.client();
                assert_eq!(seen, if direct { client } else { hides }, "{transport} {address}, {style}");
                assert_eq!(attempt.server(), bed.pods[1].name());
            }
        }
        if transport == Transport::Udp {
            let before = frames_to_first(&bed.cluster);
            bed.dial(transport, address).style(Style::Kept).times(REQUESTS).only_server();
            // Neighbours are asked for, too.
            let frames = (frames_to_first(&bed.cluster) - before) as usize;
            let expected = if direct { REQUESTS..REQUESTS * 3 / 2 } else { REQUESTS * 2..REQUESTS * 3 };
            assert!(expected.contains(&frames), "{address}: {frames} frames for {REQUESTS} requests");
        }
    }
}

#[test]
fn the_backends_node_answers() {
    answers(&[DSR, "--xdp=off"], true, false);
}

#[test]
fn the_backends_node_answers_what_xdp_forwards() {
    answers(&[DSR], true, true);
}

#[test]
fn without_the_mode_answers_come_back_as_they_went() {
    answers(&["--xdp=off"], false, false);
}

#[test]
fn flows_outlive_agents_and_leave_backends_that_are_gone() {
    let bed = Bed::three_nodes(&[DSR]);
    let _log = LogOnFailure(&bed.cluster);
    let mut service = bed.service(&[1]);
    bed.cluster.apply(&service);
    let mut sessions = bed.sessions();
    for session in &mut sessions {
        assert_eq!(session.ask().server(), bed.pods[1].name());
    }
    for node in &bed.cluster.nodes()[..2] {
        node.kill_agent();
    }
    for session in &mut sessions {
        assert_eq!(session.ask().server(), bed.pods[1].name(), "without agents");
    }
    for node in &bed.cluster.nodes()[..2] {
        node.spawn_agent();
        node.wait_for_sync();
    }
    for session in &mut sessions {
        assert_eq!(session.ask().server(), bed.pods[1].name(), "after a restart");
    }
    // Established connections go on to their end, datagrams to whom the Service has now.
    service.set_backends([bed.pods[2].endpoint()]);
    bed.cluster.apply(&service);
    let ports = node_ports(bed.cluster.node());
    for ((transport, address), session) in ports.into_iter().zip(&mut sessions) {
        let moved = transport == Transport::Udp;
        let attempt = session.ask();
        assert_eq!(attempt.server(), bed.pods[if moved { 2 } else { 1 }].name(), "{transport} {address}");
        assert!(Outside::ADDRESSES.contains(&attempt.client()), "{transport} {address}");
        assert_eq!(bed.dial(transport, address).once().server(), bed.pods[2].name());
    }
}

#[test]
fn what_cannot_be_answered_directly_is_masqueraded() {
    let plan = Plan::default().node("node-a").far_node("node-b").flag(DSR);
    let bed = Bed::new(plan.start());
    let _log = LogOnFailure(&bed.cluster);
    let node = bed.cluster.node();
    assert_eq!(node.cli_json(&["status"])["loadBalancerMode"], "dsr");
    let mut service = bed.service(&[1]);
    bed.cluster.apply(&service);
    for (transport, address) in node_ports(node) {
        let attempt = bed.dial(transport, address).once();
        assert_eq!(attempt.server(), bed.pods[1].name());
        assert!(node.addresses().contains(&attempt.client()), "{transport} {address}: {}", attempt.client());
    }
    // A backend on the node that was dialled sees its client too; not so other clients' of the cluster.
    service.set_backends([bed.pods[0].endpoint()]);
    bed.cluster.apply(&service);
    for (transport, address) in node_ports(node) {
        assert!(Outside::ADDRESSES.contains(&bed.dial(transport, address).once().client()), "{transport} {address}");
        let seen = Dial::new(&bed.cluster.nodes()[1], transport, address).once().client();
        assert!(node.addresses().contains(&seen), "{transport} {address}: another node is seen as {seen}");
    }
    // `Local` is as it was: nobody is sent on.
    let service = service.field("externalTrafficPolicy", json!("Local"));
    bed.cluster.apply(&service);
    for (transport, address) in node_ports(node) {
        assert!(Outside::ADDRESSES.contains(&bed.dial(transport, address).once().client()), "{transport} {address}");
    }
}

#[test]
fn policies_of_the_backend_see_the_true_client() {
    let bed = Bed::three_nodes(&[DSR]);
    let _log = LogOnFailure(&bed.cluster);
    bed.cluster.apply(&bed.service(&[1]));
    let isolate = |sources: &[IpAddr]| {
        // A rule without peers would allow everybody.
        let rules = |from: Vec<Value>| if from.is_empty() { json!([]) } else { json!([{"from": from}]) };
        let block = |ip: &IpAddr| json!({"ipBlock": {"cidr": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })}});
        let ingress = rules(sources.iter().map(block).collect());
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "default", "name": "isolate"},
            // Who may come is all that is said: answers are nobody's own traffic.
            "spec": {
                "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": [],
            },
        });
        bed.cluster.directory().write("policy.isolate.json", &policy.to_string());
        bed.cluster.wait_for_sync();
    };
    let [dialled, serving, _] = bed.cluster.nodes() else { panic!("there are three nodes") };
    let denied = || serving.drops("ingress-policy-denied");
    let is_served = |(transport, address): (Transport, SocketAddr)| {
        let attempt = bed.dial(transport, address).timeout(Duration::from_millis(400)).once();
        matches!(attempt.outcome, Outcome::Ok(_))
    };
    // The node that was dialled is nobody whom the policy would know.
    isolate(&dialled.addresses());
    for way in node_ports(dialled) {
        let before = denied();
        assert!(!is_served(way), "{way:?}");
        assert!(denied() > before, "{way:?}: it is the backend's node that denies");
    }
    isolate(&Outside::ADDRESSES);
    for way in node_ports(dialled) {
        assert!(is_served(way), "{way:?}");
    }
    let mut sessions = bed.sessions();
    for session in &mut sessions {
        assert_eq!(session.ask().server(), bed.pods[1].name());
    }
    // What was allowed is judged again when that changes.
    isolate(&[]);
    for (session, way) in sessions.iter_mut().zip(node_ports(dialled)) {
        assert!(!matches!(session.ask().outcome, Outcome::Ok(_)), "{way:?}");
    }
}

#[test]
fn with_maglev_a_connection_goes_on_through_another_node() {
    let bed = Bed::three_nodes(&[DSR, "--load-balancer-algorithm=maglev"]);
    let _log = LogOnFailure(&bed.cluster);
    bed.cluster.apply(&bed.service(&[0, 1, 2]));
    let mut sessions: Vec<Session> = (0..12).map(|_| bed.dial(Transport::Tcp, BALANCER).open()).collect();
    let mut ask = |when: &str| -> Vec<String> {
        let answer = |session: &mut Session| {
            let attempt = session.ask();
            assert!(matches!(attempt.outcome, Outcome::Ok(_)), "{when}: {attempt:?}");
            assert_eq!(attempt.client(), Outside::ADDRESSES[0], "{when}");
            attempt.server().to_owned()
        };
        sessions.iter_mut().map(answer).collect()
    };
    let before = ask("at first");
    let backends: BTreeSet<&String> = before.iter().collect();
    assert!(backends.len() > 1, "all have {backends:?}");
    // One node after another takes the address over, the last one twice.
    for node in [2, 1, 0, 2] {
        let next = bed.cluster.nodes()[node].addresses()[0];
        bed.cluster.outside().namespace().ip(&format!("route replace {} via {next}", BALANCER.ip()));
        for time in ["at once", "and again"] {
            assert_eq!(ask(&format!("by node {node}, {time}")), before);
        }
    }
}
