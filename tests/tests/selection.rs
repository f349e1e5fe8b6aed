//! Which backend a connection gets where a Service says how, or a flag says it for all: Maglev,
//! least connections, random.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use tests::{
    cluster::{Cluster, LogOnFailure, Node, Plan, Pod},
    manifest::Service,
    on_both_paths,
    traffic::{Dial, Place, Server, Session, Transport},
};

on_both_paths!(the_less_connected_get_more, affinity_comes_before_connections);

const ANNOTATION: &str = "fairlead.io/load-balancer-algorithm";
const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
/// The NodePorts of both, in that order.
const NODE_PORTS: [u16; 2] = [30_080, 30_053];
/// The ports that a client outside dials from.
const CLIENT_PORTS: std::ops::Range<u16> = 20_000..20_016;

struct Bed {
    cluster: Cluster,
    pods: Vec<Pod>,
    _servers: Vec<Server>,
}

/// Two nodes with three backends each.
fn two_nodes(flag: Option<&str>) -> Bed {
    let plan = Plan::default().node("node-a").node("node-b");
    let cluster = flag.into_iter().fold(plan, Plan::flag).start();
    let pods: Vec<_> = cluster.nodes().iter().flat_map(|node| node.pods("backend", 3)).collect();
    let servers = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    cluster.wait_for_sync();
    Bed { cluster, pods, _servers: servers }
}

impl Bed {
    fn service(&self) -> Service {
        let service = self.cluster.service("web").tcp(80, 8080).udp(53, 5353).node_ports(&NODE_PORTS);
        service.backends(self.pods.iter().map(Pod::endpoint))
    }

    /// Who answers outside's dials from those ports at the node's NodePort, in the ports' order.
    fn answers(&self, node: &Node, transport: Transport, ipv6: bool, ports: impl Iterator<Item = u16>) -> Vec<String> {
        let address = at(node, transport, ipv6);
        let dial = |port| Dial::new(self.cluster.outside(), transport, address).port(port).once().server().to_owned();
        ports.map(dial).collect()
    }

    /// Whether a client outside has the same backend at both nodes, for each of its ports.
    #[track_caller]
    fn nodes_agree(&self, transport: Transport, ipv6: bool) -> bool {
        let [a, b] = self.cluster.nodes() else { panic!("there are two nodes") };
        let at_a = self.answers(a, transport, ipv6, CLIENT_PORTS);
        let at_b = self.answers(b, transport, ipv6, CLIENT_PORTS);
        let chosen: BTreeSet<_> = at_a.iter().collect();
        // That sixteen choices all fall on one or two of six is less likely than one in a million.
        assert!(chosen.len() > 2, "{transport}: all connections go to {chosen:?}");
        at_a == at_b
    }
}

/// The node's NodePort for the transport.
fn at(node: &Node, transport: Transport, ipv6: bool) -> SocketAddr {
    let address = node.addresses().into_iter().find(|address| address.is_ipv6() == ipv6);
    let port = NODE_PORTS[if transport == Transport::Tcp { 0 } else { 1 }];
    SocketAddr::new(address.expect("nodes have both families"), port)
}

fn all() -> impl Iterator<Item = (Transport, bool)> {
    [Transport::Tcp, Transport::Udp].into_iter().flat_map(|transport| [(transport, false), (transport, true)])
}

#[test]
fn with_maglev_a_client_finds_its_backend_at_every_node() {
    let bed = two_nodes(None);
    let _log = LogOnFailure(&bed.cluster);
    let mut service = bed.service().annotation(ANNOTATION, "maglev");
    bed.cluster.apply(&service);
    for (transport, ipv6) in all() {
        assert!(bed.nodes_agree(transport, ipv6), "{transport}, IPv6: {ipv6}");
    }

    // One of six backends goes: the others' clients stay, but for a few.
    let [a, b] = bed.cluster.nodes() else { panic!("there are two nodes") };
    let ports = || 21_000..21_060;
    let before = bed.answers(a, Transport::Tcp, false, ports());
    let gone = &bed.pods[4];
    service.set_backends(bed.pods.iter().filter(|pod| pod.name() != gone.name()).map(Pod::endpoint));
    bed.cluster.apply(&service);
    let after = bed.answers(b, Transport::Tcp, false, ports());
    let stayed = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    let had_to_go = before.iter().filter(|name| *name == gone.name()).count();
    // With a random choice about ten of sixty would stay.
    assert!(stayed + had_to_go > 50, "{stayed} stayed and {had_to_go} had to go:\n{before:?}\n{after:?}");
    assert!(!after.iter().any(|name| name == gone.name()));
    bed.cluster.delete(&service);

    // With affinity the client's port doesn't count, only its address.
    let service = bed.service().annotation(ANNOTATION, "maglev").affinity(3600);
    bed.cluster.apply(&service);
    let outside = bed.cluster.outside();
    let sources: Vec<IpAddr> = (101..=112).map(|host| IpAddr::from([192, 0, 2, host])).collect();
    for source in &sources {
        outside.namespace().ip(&format!("address add {source}/24 dev nodes"));
    }
    let mut chosen = BTreeSet::new();
    for source in sources {
        let dial = |node| Dial::new(outside, Transport::Tcp, at(node, Transport::Tcp, false)).source(source).times(5);
        let servers = [dial(a).only_server(), dial(b).only_server()];
        assert_eq!(servers[0], servers[1], "{source}");
        chosen.extend(servers);
    }
    assert!(chosen.len() > 1, "all clients have {chosen:?}");
    bed.cluster.delete(&service);
}

#[test]
fn the_flag_is_for_services_without_the_annotation() {
    let bed = two_nodes(Some("--load-balancer-algorithm=maglev"));
    let _log = LogOnFailure(&bed.cluster);
    let service = bed.service();
    bed.cluster.apply(&service);
    assert!(bed.nodes_agree(Transport::Udp, false));
    // What isn't understood is random, and told.
    for (annotation, problems) in [("random", 0), ("fastest", 2)] {
        bed.cluster.apply(&service.clone().annotation(ANNOTATION, annotation));
        assert!(!bed.nodes_agree(Transport::Tcp, true), "{annotation}");
        let told = bed.cluster.nodes().iter().flat_map(Node::problems).filter(|problem| problem.contains(annotation));
        assert_eq!(told.count(), problems, "{annotation}");
    }
    bed.cluster.delete(&service);
}

/// Six backends on a node and a Service in front of them, and how to dial it.
struct Six {
    pods: Vec<Pod>,
    service: Service,
    node_port: u16,
    _servers: Vec<Server>,
}

impl Six {
    fn new(cluster: &Cluster, node_port: u16, change: impl Fn(Service) -> Service) -> Self {
        let pods = cluster.node().pods("backend", 6);
        let servers = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
        let service = cluster.service("least").tcp(80, 8080).node_ports(&[node_port]);
        let service = change(service.annotation(ANNOTATION, "least-connections"));
        Self { pods, service, node_port, _servers: servers }
    }

    /// Where a client dials the Service: its ClusterIP, from outside its NodePort.
    fn address(&self, cluster: &Cluster, client: &dyn Place, ipv6: bool) -> SocketAddr {
        if client.name() != cluster.outside().name() {
            return if ipv6 { self.service.v6(80) } else { self.service.v4(80) };
        }
        let address = cluster.node().addresses().into_iter().find(|address| address.is_ipv6() == ipv6);
        SocketAddr::new(address.expect("the node has both"), self.node_port)
    }

    /// Makes ten connections that stay open to that backend.
    fn hold(&mut self, cluster: &Cluster, client: &dyn Place, ipv6: bool, backend: usize) -> Vec<Session> {
        self.service.set_backends([self.pods[backend].endpoint()]);
        cluster.apply(&self.service);
        let address = self.address(cluster, client, ipv6);
        let mut sessions: Vec<_> = (0..10).map(|_| Dial::new(client, Transport::Tcp, address).open()).collect();
        for session in &mut sessions {
            assert_eq!(session.ask().server(), self.pods[backend].name());
        }
        self.service.set_backends(self.pods.iter().map(Pod::endpoint));
        cluster.apply(&self.service);
        sessions
    }
}

fn the_less_connected_get_more(cluster: &Cluster) {
    let mut six = Six::new(cluster, 30_100, |service| service);
    let pod = cluster.node().pod("client");
    let clients: [&dyn Place; 3] = [&pod, cluster.node(), cluster.outside()];
    for (client, ipv6) in clients.into_iter().flat_map(|client| [(client, false), (client, true)]) {
        for loaded in [0, 1] {
            let held = six.hold(cluster, client, ipv6, loaded);
            let address = six.address(cluster, client, ipv6);
            let servers = Dial::new(client, Transport::Tcp, address).times(300).servers();
            let share = |backend: usize| servers.get(six.pods[backend].name()).copied().unwrap_or(0);
            let what = format!("{} to {address}: {servers:?}", client.name());
            // Only both of two choices bring one to it: 1 in 36 rather than 1 in 6, 8 of 300 rather than 50.
            assert!(share(loaded) < 25, "{what}: {} is loaded", six.pods[loaded].name());
            // The connections that the first one held are over.
            assert!(share(1 - loaded) >= 25, "{what}: {} is not", six.pods[1 - loaded].name());
            drop(held);
        }
    }
    cluster.delete(&six.service);
}

fn affinity_comes_before_connections(cluster: &Cluster) {
    let six = Six::new(cluster, 30_101, |service| service.affinity(3600));
    let service = six.service.clone().backends(six.pods.iter().map(Pod::endpoint));
    cluster.apply(&service);
    let pod = cluster.node().pod("client");
    let clients: [&dyn Place; 3] = [&pod, cluster.node(), cluster.outside()];
    for client in clients {
        let address = six.address(cluster, client, false);
        let mut held: Vec<_> = (0..10).map(|_| Dial::new(client, Transport::Tcp, address).open()).collect();
        let servers: BTreeSet<_> = held.iter_mut().map(|session| session.ask().server().to_owned()).collect();
        assert_eq!(servers.len(), 1, "{}: {servers:?}", client.name());
        let server = Dial::new(client, Transport::Tcp, address).times(20).only_server();
        assert!(servers.contains(&server), "{}: {server}, before {servers:?}", client.name());
    }
    cluster.delete(&service);
}
