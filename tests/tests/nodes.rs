//! Several nodes: their pods, processes and Services reach each other in every routing mode, in
//! packets of full size.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Child, Stdio},
};

use tests::{
    cluster::{Cluster, Families, LogOnFailure, Node, Plan, Pod},
    sandbox::{output, run},
    traffic::{Dial, Outcome, Place, Server, Transport},
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const PER_PACKET: &str = "--socket-lb=false";

fn two() -> Plan {
    Plan::default().node("node-a").node("node-b")
}

/// Two on one link, one behind the router.
fn mixed() -> Plan {
    two().far_node("node-c")
}

macro_rules! in_every_mode {
    ($($name:ident: $plan:expr, $mtu:literal;)+) => {$(
        #[test]
        fn $name() {
            everything_is_reached($plan, $mtu);
        }
    )+};
}

in_every_mode! {
    native: two().flag("--routing-mode=native"), 1500;
    native_per_packet: two().flag("--routing-mode=native").flag(PER_PACKET), 1500;
    native_over_ipv6: two().flag("--routing-mode=native").underlay(Families::V6), 1500;
    vxlan: mixed().flag("--routing-mode=vxlan"), 1450;
    vxlan_per_packet: two().flag("--routing-mode=vxlan").flag(PER_PACKET), 1450;
    vxlan_over_ipv6: two().flag("--routing-mode=vxlan").underlay(Families::V6), 1430;
    auto: mixed(), 1450;
    auto_per_packet: mixed().flag(PER_PACKET), 1450;
    auto_over_ipv4: mixed().underlay(Families::V4), 1450;
    auto_over_ipv6: mixed().underlay(Families::V6), 1430;
}

fn everything_is_reached(plan: Plan, mtu: u32) {
    let cluster = plan.start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    for node in cluster.nodes() {
        assert_eq!(node.problems(), Vec::<String>::new(), "{}", node.name());
    }
    for (client, server) in pairs(&pods) {
        pod_reaches_pod(client, server);
        full_size_passes(client, server, mtu);
    }
    for (node, pod) in cluster.nodes().iter().flat_map(|node| pods.iter().map(move |pod| (node, pod))) {
        node_and_pod_reach_each_other(node, pod);
    }
    services_are_reached(&cluster, &pods);
    for pod in &pods[1..] {
        stream(&pods[0], pod);
    }
}

fn pairs(pods: &[Pod]) -> impl Iterator<Item = (&Pod, &Pod)> {
    let all = pods.iter().flat_map(|client| pods.iter().map(move |server| (client, server)));
    all.filter(|(client, server)| client.name() != server.name())
}

#[track_caller]
fn pod_reaches_pod(client: &Pod, server: &Pod) {
    for &address in server.addresses() {
        for (transport, port) in LISTEN {
            let attempt = Dial::new(client, transport, SocketAddr::new(address, port)).once();
            let expected = (server.name(), client.like(address));
            assert_eq!((attempt.server(), attempt.client()), expected, "{} to {transport} {address}", client.name());
            Dial::new(client, transport, SocketAddr::new(address, 9)).times(1).assert_refused();
        }
    }
}

#[track_caller]
fn full_size_passes(client: &Pod, server: &Pod, mtu: u32) {
    let link = client.namespace().show("link show dev eth0");
    assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
    for (address, headers) in [(server.v4(), 28), (server.v6(), 48)] {
        let (address, payload) = (address.to_string(), (mtu - headers).to_string());
        run(client.command("ping").args(["-c1", "-W2", "-Mdo", "-s", &payload, &address]), "");
        run(client.command("ping").args(["-c1", "-W2", "-Mdont", "-s", "4000", &address]), "");
    }
}

/// Whether the node has an address of the family of that one.
fn has_family(node: &Node, address: IpAddr) -> bool {
    node.addresses().iter().any(|own| own.is_ipv6() == address.is_ipv6())
}

#[track_caller]
fn node_and_pod_reach_each_other(node: &Node, pod: &Pod) {
    for &address in pod.addresses().iter().filter(|address| has_family(node, **address)) {
        for (transport, port) in LISTEN {
            let attempt = Dial::new(node, transport, SocketAddr::new(address, port)).once();
            assert_eq!(attempt.server(), pod.name(), "{} to {transport} {address}", node.name());
            assert!(node.addresses().contains(&attempt.client()), "from {}", attempt.client());
        }
    }
    let _server = Server::start(node, &LISTEN);
    for address in node.addresses() {
        for (transport, port) in LISTEN {
            let attempt = Dial::new(pod, transport, SocketAddr::new(address, port)).once();
            let expected = (node.name(), pod.like(address));
            assert_eq!((attempt.server(), attempt.client()), expected, "{} to {transport} {address}", pod.name());
        }
    }
}

/// Services with their one backend on each of the nodes in turn, from pods and nodes.
#[track_caller]
fn services_are_reached(cluster: &Cluster, pods: &[Pod]) {
    for backend in pods {
        let service = cluster.service("service").tcp(80, 8080).udp(53, 5353).backends([backend.endpoint()]);
        cluster.apply(&service);
        let places = pods.iter().map(|pod| pod as &dyn Place).chain(cluster.nodes().iter().map(|n| n as &dyn Place));
        for place in places {
            let node = cluster.nodes().iter().find(|node| node.name() == place.name());
            let dials = [
                (Transport::Tcp, service.v4(80)),
                (Transport::Tcp, service.v6(80)),
                (Transport::Udp, service.v4(53)),
                (Transport::Udp, service.v6(53)),
            ];
            for (transport, address) in dials {
                if node.is_none_or(|node| has_family(node, address.ip())) {
                    let attempts = Dial::new(place, transport, address).times(2);
                    assert_eq!(attempts.only_server(), backend.name(), "{} to {transport} {address}", place.name());
                }
            }
        }
        cluster.delete(&service);
    }
}

/// A running iperf3 server.
struct Iperf(Child);

impl Iperf {
    fn start(place: &dyn Place) -> Self {
        let mut command = place.command("iperf3");
        let child = command.args(["-s", "-p", "5201"]).stdout(Stdio::null()).spawn().expect("iperf3 is installed");
        Self(child)
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends and receives some megabytes in full segments.
#[track_caller]
fn stream(client: &Pod, server: &Pod) {
    let _server = Iperf::start(server);
    for address in server.addresses() {
        for direction in [&[][..], &["-R"]] {
            let mut command = client.command("iperf3");
            command.args(["-c", &address.to_string(), "-p", "5201", "-n", "16M", "-J", "--connect-timeout", "2000"]);
            command.args(direction);
            let result = tests::wait::poll(std::time::Duration::from_secs(10), || {
                let result = output(&mut command, "");
                // The server may not listen yet.
                let refused = String::from_utf8_lossy(&result.stdout).contains("refused");
                (!refused).then_some(result)
            });
            let result = result.expect("iperf3 listens");
            assert!(result.status.success(), "{address}: {}", String::from_utf8_lossy(&result.stdout));
        }
    }
}

#[test]
fn path_mtu_errors_reach_the_pod() {
    // Pods that believe in more than the tunnel takes.
    let cluster = two().flag("--routing-mode=vxlan").flag("--mtu=1500").start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    for (address, headers) in [(pods[1].v4(), 28), (pods[1].v6(), 48)] {
        let payload = (1500 - headers).to_string();
        let ping = |payload: &str| {
            let mut command = pods[0].command("ping");
            let result = output(command.args(["-c1", "-W2", "-Mdo", "-s", payload, &address.to_string()]), "");
            let text = String::from_utf8_lossy(&result.stdout).into_owned() + &String::from_utf8_lossy(&result.stderr);
            (result.status.success(), text)
        };
        let (passed, text) = ping(&payload);
        assert!(!passed && text.contains("1450"), "{address}: {text}");
        let (passed, text) = ping(&(1450 - headers).to_string());
        assert!(passed, "{address}: {text}");
    }
    stream(&pods[0], &pods[1]);
}

#[test]
fn another_link_is_reached_by_the_networks_own_routes() {
    let cluster = Plan::default().node("node-a").far_node("node-b").flag("--routing-mode=native").start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    let to = |transport| Dial::new(&pods[0], transport, SocketAddr::new(pods[1].v4(), 8080));
    assert!(!matches!(to(Transport::Tcp).once().outcome, Outcome::Ok(_)), "the network has no route yet");
    for node in cluster.nodes() {
        for (cidr, address) in node.pod_cidrs().iter().zip(node.addresses()) {
            cluster.outside().namespace().ip(&format!("route add {cidr} via {address}"));
        }
    }
    for (client, server) in pairs(&pods) {
        pod_reaches_pod(client, server);
        full_size_passes(client, server, 1500);
    }
    // The network narrows, and tells the pod so.
    cluster.outside().namespace().ip("link set far mtu 1400");
    for (address, headers) in [(pods[1].v4(), 28), (pods[1].v6(), 48)] {
        let payload = (1500 - headers).to_string();
        let mut command = pods[0].command("ping");
        let result = output(command.args(["-c1", "-W2", "-Mdo", "-s", &payload, &address.to_string()]), "");
        let text = String::from_utf8_lossy(&result.stdout) + String::from_utf8_lossy(&result.stderr);
        assert!(!result.status.success() && text.contains("1400"), "{address}: {text}");
    }
    stream(&pods[0], &pods[1]);
}
