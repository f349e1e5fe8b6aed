//! `--cni=false`: Services for pods that another CNI plugin wired, with a veth pair each or on one bridge.

use std::{net::IpAddr, time::Duration};

use serde_json::json;
use tests::{
    cluster::{Cluster, LogOnFailure, Node, Outside, Plan, Pod},
    manifest::{Endpoint, Service},
    traffic::{Dial, Place, Server, Style, Transport},
    wait,
};

const TCP: (Transport, u16) = (Transport::Tcp, 8080);
const UDP: (Transport, u16) = (Transport::Udp, 5353);
const NODE_PORTS: [(Transport, u16); 2] = [(Transport::Tcp, 30080), (Transport::Udp, 30053)];
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the agent has found so many pods' interfaces.
fn wait_for_interfaces(node: &Node, count: usize) {
    wait::until("programs at the pods' interfaces", PATIENCE, || {
        let status = node.cli_json(&["status"]);
        let hooks = status["hooks"].as_array().expect("status has hooks").iter();
        let ingress = hooks.filter(|hook| hook.as_str().is_some_and(|hook| hook.ends_with("-ingress"))).count();
        // The uplink has one too.
        (ingress == count + 1).then_some(())
    });
}

fn check(plugin: &str, flag: &str) {
    let cluster = Cluster::of_one(&["--cni=false", flag]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    assert!(!node.cni_conf_dir().join("10-fairlead.conflist").exists(), "no plugin of ours is installed");
    node.use_other_plugin(plugin);
    let pods = node.pods("backend", 3);
    let client = node.pod("client");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&[TCP, UDP])).collect();
    let service = cluster.service("web").tcp(80, TCP.1).udp(53, UDP.1).backends(pods.iter().map(Pod::endpoint));
    cluster.apply(&service);
    wait_for_interfaces(node, 4);

    // Far more requests than backends: each is asked many times.
    for place in [&client as &dyn Place, node] {
        for (transport, address) in frontends(&service) {
            for style in styles(transport) {
                let attempts = Dial::new(place, transport, address).style(*style).times(30);
                let servers = attempts.servers();
                let what = format!("{plugin} {flag}: {} to {transport} {address} {style}", place.name());
                assert!(!servers.is_empty() && (*style != Style::Fresh || servers.len() == 3), "{what}: {servers:?}");
                assert!(attempts.0.iter().all(|attempt| attempt.peer == Some(address)), "{what}: {attempts:?}");
            }
        }
    }
    for (transport, address) in frontends(&service) {
        let seen = Dial::new(&client, transport, address).once().client();
        assert_eq!(seen, client.like(address.ip()), "{plugin} {flag}: {transport} {address}: the client's own address");
    }

    // A pod that is a backend of its own Service.
    let alone = cluster.service("alone").tcp(80, TCP.1).udp(53, UDP.1).backends([pods[0].endpoint()]);
    cluster.apply(&alone);
    for (transport, address) in frontends(&alone) {
        let server = Dial::new(&pods[0], transport, address).times(5).only_server();
        assert_eq!(server, pods[0].name(), "{plugin} {flag}: {transport} {address} from itself");
        let unused = std::net::SocketAddr::new(address.ip(), 81);
        Dial::new(&client, transport, unused).times(2).assert_refused();
    }
    for address in pods[0].addresses() {
        let direct = Dial::new(&client, Transport::Tcp, (*address, TCP.1).into()).times(3).only_server();
        assert_eq!(direct, pods[0].name(), "pods still talk to each other");
    }

    // Pods come and go, and so do the programs.
    drop(client);
    wait_for_interfaces(node, 3);
    let later = node.pod("later");
    wait_for_interfaces(node, 4);
    node.kill_agent();
    for (transport, address) in frontends(&service) {
        assert_eq!(Dial::new(&later, transport, address).times(30).servers().len(), 3, "without an agent");
    }
    node.spawn_agent();
    node.wait_for_sync();
    wait_for_interfaces(node, 4);
    for (transport, address) in frontends(&service) {
        assert_eq!(Dial::new(&later, transport, address).times(30).servers().len(), 3, "after a restart");
    }
    let routes = node.namespace().show("route show proto 197");
    assert!(!routes.contains("10.244."), "no routes to pods are ours: {routes}");
}

fn frontends(service: &Service) -> Vec<(Transport, std::net::SocketAddr)> {
    let tcp = service.both(80).into_iter().map(|address| (Transport::Tcp, address));
    tcp.chain(service.both(53).into_iter().map(|address| (Transport::Udp, address))).collect()
}

fn styles(transport: Transport) -> &'static [Style] {
    match transport {
        Transport::Tcp | Transport::Sctp => &[Style::Fresh, Style::Kept],
        Transport::Udp => &[Style::Fresh, Style::Kept, Style::Addressed],
    }
}

#[test]
fn beside_ptp_at_sockets() {
    check("ptp", "--socket-lb=true");
}

#[test]
fn beside_ptp_per_packet() {
    check("ptp", "--socket-lb=false");
}

#[test]
fn beside_a_bridge_at_sockets() {
    check("bridge", "--socket-lb=true");
}

#[test]
fn beside_a_bridge_per_packet() {
    check("bridge", "--socket-lb=false");
}

/// Applies a Service of TCP port 80 and UDP port 53 with NodePorts of these numbers.
fn put_with_node_ports(cluster: &Cluster, service: &Service) {
    for mut manifest in service.manifests() {
        if manifest["kind"] == "Service" {
            manifest["spec"]["type"] = json!("NodePort");
            for (port, (_, number)) in NODE_PORTS.iter().enumerate() {
                manifest["spec"]["ports"][port]["nodePort"] = json!(number);
            }
        }
        cluster.directory().put(&manifest);
    }
    cluster.wait_for_sync();
}

#[test]
fn node_ports_beside_another_plugin() {
    for plugin in ["ptp", "bridge"] {
        let cluster = Cluster::of_one(&["--cni=false"]);
        let _log = LogOnFailure(&cluster);
        let node = cluster.node();
        node.use_other_plugin(plugin);
        let pods = node.pods("backend", 2);
        let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&[TCP, UDP])).collect();
        let service =
            cluster.service("nodeport").tcp(80, TCP.1).udp(53, UDP.1).backends(pods.iter().map(Pod::endpoint));
        put_with_node_ports(&cluster, &service);
        wait_for_interfaces(node, 2);
        for address in node.addresses() {
            for (transport, port) in NODE_PORTS {
                for client in [cluster.outside() as &dyn Place, &pods[0], node] {
                    let servers = Dial::new(client, transport, (address, port).into()).times(20).servers();
                    assert_eq!(servers.len(), 2, "{plugin}: {} to {transport} {address}", client.name());
                }
            }
        }
    }
}

/// Load balancers' addresses, external IPs, source ranges, and who sees the client's own address.
#[test]
fn outside_addresses_beside_another_plugin() {
    for plugin in ["ptp", "bridge"] {
        let cluster = Cluster::of_one(&["--cni=false", "--socket-lb=false"]);
        let _log = LogOnFailure(&cluster);
        let (node, outside) = (cluster.node(), cluster.outside());
        node.use_other_plugin(plugin);
        let pod = node.pod("backend");
        let _server = pod.serve(&[TCP, UDP]);
        wait_for_interfaces(node, 1);
        let [balancer, closed, external] = [10, 11, 12].map(|last| IpAddr::from([203, 0, 113, last]));
        outside.namespace().ip(&format!("route add 203.0.113.0/24 via {}", node.addresses()[0]));
        let service =
            |name: &str| cluster.service(name).only(false).tcp(80, TCP.1).udp(53, UDP.1).backends([pod.endpoint()]);
        cluster.apply(&service("open").load_balancer(&[balancer]).field("externalTrafficPolicy", json!("Local")));
        let ranges = json!(["198.51.100.0/24"]);
        cluster.apply(&service("closed").load_balancer(&[closed]).field("loadBalancerSourceRanges", ranges));
        cluster.apply(&service("external").field("externalIPs", json!([external])));
        // Answers of the node's own processes are met where they go into the pod.
        let own = node.addresses()[0];
        let at_own = [TCP, UDP].map(|(transport, port)| format!("{transport}:{own}:{port}"));
        let _own_server = Server::start_at(node, &at_own);
        let endpoint = Endpoint::new(&[own]).on(node.name());
        let host = cluster.service("host").only(false).tcp(80, TCP.1).udp(53, UDP.1).backends([endpoint]);
        cluster.apply(&host);
        for (transport, port) in [(Transport::Tcp, 80), (Transport::Udp, 53)] {
            let server = Dial::new(&pod, transport, host.v4(port)).times(3).only_server();
            assert_eq!(server, node.name(), "{plugin} {transport} to a process of the node");
            let ask = |ip: IpAddr| Dial::new(outside, transport, (ip, port).into());
            let own = Outside::ADDRESSES[0];
            assert_eq!(ask(balancer).once().client(), own, "{plugin} {transport}: Local keeps the client's address");
            assert_ne!(ask(external).once().client(), own, "{plugin} {transport}: Cluster hides it");
            ask(closed).timeout(Duration::from_millis(300)).times(1).assert_unanswered();
            for ip in [balancer, external] {
                let server = Dial::new(node, transport, (ip, port).into()).times(3).only_server();
                assert_eq!(server, pod.name(), "{plugin} {transport} {ip} from the node itself");
            }
        }
    }
}

#[test]
fn backends_on_another_node() {
    let cluster = Plan::default().node("node-a").node("node-b").flag("--cni=false").flag("--socket-lb=false").start();
    let _log = LogOnFailure(&cluster);
    let [near, far] = [0, 1].map(|i| &cluster.nodes()[i]);
    near.use_other_plugin("bridge");
    far.use_other_plugin("ptp");
    // What the other plugin's daemon would do.
    for (node, other) in [(near, far), (far, near)] {
        for (cidr, address) in other.pod_cidrs().iter().zip(other.addresses()) {
            node.namespace().ip(&format!("route add {cidr} via {address}"));
        }
    }
    let client = near.pod("client");
    let backend = far.pod("backend");
    let _server = backend.serve(&[TCP, UDP]);
    let service = cluster.service("far").tcp(80, TCP.1).udp(53, UDP.1).backends([backend.endpoint()]);
    put_with_node_ports(&cluster, &service);
    wait_for_interfaces(near, 1);
    wait_for_interfaces(far, 1);
    for (transport, address) in frontends(&service) {
        let attempts = Dial::new(&client, transport, address).times(10);
        assert_eq!(attempts.only_server(), backend.name(), "{transport} {address}");
        assert!(attempts.0.iter().all(|attempt| attempt.client() == client.like(address.ip())), "{attempts:?}");
        assert_eq!(
            Dial::new(near, transport, address).times(10).only_server(),
            backend.name(),
            "{transport} {address}"
        );
    }
    for address in near.addresses() {
        for (transport, port) in NODE_PORTS {
            for place in [cluster.outside() as &dyn Place, &client, far] {
                let name = Dial::new(place, transport, (address, port).into()).times(5).only_server();
                assert_eq!(name, backend.name(), "{} to {transport} {address}", place.name());
            }
        }
    }
}
