//! Traffic that nobody sends who means well: floods of SYNs, and packets with a Service's address, or
//! the node's own, as their source. What is established lives on, and what is new comes through again.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Node, Pod, SERVICE_CIDRS},
    manifest::Service,
    traffic::{Dial, Outcome, Place, Server, Session, Style, Transport, forge},
    wait,
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const BALANCER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));
const NODE_PORTS: [u16; 2] = [31_080, 31_053];

struct Bed {
    cluster: Cluster,
    client: Pod,
    service: Service,
    _servers: Vec<Server>,
    _pods: Vec<Pod>,
}

impl Bed {
    fn new(external_policy: &str) -> Self {
        let cluster = Cluster::of_one(&["--socket-lb=false"]);
        let node = cluster.node();
        let pods = node.pods("backend", 2);
        let servers = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
        let client = node.pod("client");
        let service = cluster.service("flooded").tcp(80, 8080).udp(53, 5353).node_ports(&NODE_PORTS);
        let service = service.load_balancer(&[BALANCER]).field("externalTrafficPolicy", json!(external_policy));
        let service = service.backends(pods.iter().map(Pod::endpoint));
        cluster.apply(&service);
        let outside = cluster.outside().namespace();
        for to in [&BALANCER.to_string(), SERVICE_CIDRS[0], &node.pod_cidrs()[0]] {
            outside.ip(&format!("route add {to} via {}", node.addresses()[0]));
        }
        // Nobody is there to whom forged packets are answered.
        outside.ip("route add blackhole 198.18.0.0/15");
        Self { cluster, client, service, _servers: servers, _pods: pods }
    }

    /// Every way to the Service: who asks whom.
    fn ways(&self) -> [(&dyn Place, SocketAddr); 4] {
        let outside: &dyn Place = self.cluster.outside();
        let node_port = SocketAddr::new(self.cluster.node().addresses()[0], NODE_PORTS[0]);
        [
            (outside, node_port),
            (outside, SocketAddr::new(BALANCER, 80)),
            (&self.client, self.service.v4(80)),
            (self.cluster.node(), self.service.v4(80)),
        ]
    }

    fn sessions(&self) -> Vec<Session> {
        let open = |(place, address)| Dial::new(place, Transport::Tcp, address).open();
        let mut sessions: Vec<_> = self.ways().into_iter().map(open).collect();
        sessions.iter_mut().for_each(|session| drop(session.ask().answer().clone()));
        sessions
    }

    /// New connections come through on every way, at the latest soon.
    #[track_caller]
    fn assert_soon_served(&self) {
        for (place, address) in self.ways() {
            wait::until(&format!("{} reaches {address}", place.name()), Duration::from_secs(15), || {
                let dial = Dial::new(place, Transport::Tcp, address).timeout(Duration::from_millis(300));
                matches!(dial.once().outcome, Outcome::Ok(_)).then_some(())
            });
        }
    }
}

/// Twice as many SYNs as the table of flows has entries.
fn flood(policy: &str) {
    let bed = Bed::new(policy);
    let _log = LogOnFailure(&bed.cluster);
    let node = bed.cluster.node();
    let mut idle = bed.sessions();
    let loads = [
        Dial::new(&bed.client, Transport::Tcp, bed.service.v6(80)).style(Style::Kept),
        Dial::new(&bed.client, Transport::Udp, bed.service.v4(53)).style(Style::Kept),
        Dial::new(bed.cluster.outside(), Transport::Tcp, bed.ways()[1].1).style(Style::Kept),
    ];
    let loads = loads.map(|dial| dial.pause(Duration::from_millis(5)).load());
    let (_, capacity) = node.fill("FLOWS");
    for to in [bed.ways()[0].1, bed.ways()[1].1] {
        forge(bed.cluster.outside(), Transport::Tcp, None, to, capacity);
    }
    let (entries, capacity) = node.fill("FLOWS");
    assert!(entries < capacity / 3, "{entries} of {capacity}");
    for load in loads {
        load.wait_for_more(10);
        load.stop().assert_lossless();
    }
    for (session, (place, address)) in idle.iter_mut().zip(bed.ways()) {
        let attempt = session.ask();
        assert!(matches!(attempt.outcome, Outcome::Ok(_)), "{} to {address}: {attempt:?}", place.name());
    }
    bed.assert_soon_served();
}

#[test]
fn what_is_established_outlives_a_flood_of_masqueraded_clients() {
    flood("Cluster");
}

#[test]
fn what_is_established_outlives_a_flood_of_clients_that_are_seen() {
    flood("Local");
}

/// Packets that the node has received and sent on all of its interfaces.
fn packets(node: &Node) -> u64 {
    let shown: Value = serde_json::from_str(&node.namespace().show("-json -statistics link show")).unwrap();
    let links = shown.as_array().expect("a list of links").iter();
    let count = |link: &Value, way: &str| link["stats64"][way]["packets"].as_u64().expect("a number");
    links.map(|link| count(link, "rx") + count(link, "tx")).sum()
}

#[test]
fn forged_sources_do_no_harm() {
    let bed = Bed::new("Cluster");
    let _log = LogOnFailure(&bed.cluster);
    let node = bed.cluster.node();
    let mut sessions = bed.sessions();
    let [cluster_ip, own] = [bed.service.v4(80), SocketAddr::new(node.addresses()[0], NODE_PORTS[0])];
    let balancer = SocketAddr::new(BALANCER, 80);
    let pod = SocketAddr::new(bed.client.v4(), 8080);
    let udp = |address: SocketAddr, port| SocketAddr::new(address.ip(), port);
    let places: [&dyn Place; 2] = [bed.cluster.outside(), &bed.client];
    for place in places {
        for (from, to) in [
            (cluster_ip, pod),
            (cluster_ip, cluster_ip),
            (cluster_ip, own),
            (balancer, balancer),
            (balancer, own),
            (own, own),
            (own, cluster_ip),
            (pod, cluster_ip),
            ("127.0.0.1:80".parse().unwrap(), own),
            ("127.0.0.1:80".parse().unwrap(), cluster_ip),
        ] {
            let before = packets(node);
            forge(place, Transport::Tcp, Some(from), to, 50);
            // The server answers a datagram that it doesn't understand with nothing, and this one with a datagram.
            forge(place, Transport::Udp, Some(udp(from, 53)), udp(to, if to == own { NODE_PORTS[1] } else { 53 }), 50);
            std::thread::sleep(Duration::from_millis(20));
            // SYNs are answered, and answers refused; nothing goes round and round.
            let seen = packets(node) - before;
            assert!(seen < 100 * 12, "{seen} packets for a hundred from {from} to {to} ({})", place.name());
        }
    }
    for session in &mut sessions {
        session.ask().answer();
    }
    bed.assert_soon_served();
    assert_eq!(node.problems(), Vec::<String>::new());
}
