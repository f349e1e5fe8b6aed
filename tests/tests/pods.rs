//! Pods as CNI ADD leaves them: they reach each other and their node, and nobody else reaches them
//! before their Pod object is known.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tests::{
    cluster::{Cluster, CniCall, Pod},
    on_both_paths,
    sandbox::run,
    traffic::{Dial, Outcome, Place, Transport},
};

on_both_paths!(
    pods_reach_each_other,
    pods_and_their_node_reach_each_other,
    a_closed_port_of_a_pod_is_refused,
    the_interface_is_as_promised,
    an_unknown_pod_is_shut,
    a_pod_without_a_name_is_open,
    packets_of_full_size_pass,
);

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const SHORT: Duration = Duration::from_millis(300);

/// Asserts that the client reaches the server at that address, and is seen by its own.
#[track_caller]
fn assert_reaches(client: &dyn Place, server: &str, address: IpAddr, seen: IpAddr) {
    for (transport, port) in LISTEN {
        let attempt = Dial::new(client, transport, SocketAddr::new(address, port)).once();
        assert_eq!((attempt.server(), attempt.client()), (server, seen), "{} to {transport} {address}", client.name());
    }
}

fn pods_reach_each_other(cluster: &Cluster) {
    let pods = cluster.node().pods("peer", 2);
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0]), (&pods[0], &pods[0])] {
        for &address in server.addresses() {
            assert_reaches(client, server.name(), address, client.like(address));
            // ICMP goes the same way; ping waits until the answer is there.
            run(client.command("ping").args(["-c1", "-W2", &address.to_string()]), "");
        }
    }
}

fn pods_and_their_node_reach_each_other(cluster: &Cluster) {
    let pod = cluster.node().pod("pod");
    let _servers = [pod.serve(&LISTEN), tests::traffic::Server::start(cluster.node(), &LISTEN)];
    for &address in pod.addresses() {
        for (transport, port) in LISTEN {
            let attempt = Dial::new(cluster.node(), transport, SocketAddr::new(address, port)).once();
            assert_eq!(attempt.server(), pod.name());
        }
        run(cluster.node().command("ping").args(["-c1", "-W2", &address.to_string()]), "");
    }
    for address in cluster.node().addresses() {
        assert_reaches(&pod, cluster.node().name(), address, pod.like(address));
        run(pod.command("ping").args(["-c1", "-W2", &address.to_string()]), "");
    }
}

fn a_closed_port_of_a_pod_is_refused(cluster: &Cluster) {
    let pods = cluster.node().pods("closed", 2);
    for &address in pods[1].addresses() {
        for transport in [Transport::Tcp, Transport::Udp] {
            Dial::new(&pods[0], transport, SocketAddr::new(address, 9)).times(1).assert_refused();
            Dial::new(cluster.node(), transport, SocketAddr::new(address, 9)).times(1).assert_refused();
        }
    }
}

fn the_interface_is_as_promised(cluster: &Cluster) {
    let pod = cluster.node().pod("pod");
    let addresses = pod.namespace().show("address show dev eth0");
    assert!(addresses.contains(&format!("{}/32", pod.v4())), "{addresses}");
    assert!(addresses.contains(&format!("{}/128", pod.v6())), "{addresses}");
    // The uplink's 1500 less what VXLAN takes.
    assert!(addresses.contains("mtu 1450"), "{addresses}");
    for family in ["-4", "-6"] {
        let routes = pod.namespace().show(&format!("{family} route show default"));
        assert!(routes.contains("default") && routes.contains("dev eth0"), "{family}: {routes}");
    }
    let result = pod.cni("CHECK").run();
    assert!(result.is_ok(), "{result:?}");
}

fn an_unknown_pod_is_shut(cluster: &Cluster) {
    let known = cluster.node().pod("known");
    let unknown = cluster.node().unknown_pod("unknown");
    let _servers = [known.serve(&LISTEN), unknown.serve(&LISTEN)];
    // The outcomes towards each address and transport of a pod.
    let reach = |client: &dyn Place, server: &Pod| -> Vec<_> {
        let targets = server.addresses().iter().flat_map(|&ip| LISTEN.map(|(transport, port)| (transport, ip, port)));
        let dial =
            |(transport, ip, port)| Dial::new(client, transport, SocketAddr::new(ip, port)).timeout(SHORT).once();
        targets.map(|target| (target, dial(target).outcome)).collect()
    };
    let assert_open = |client: &dyn Place, server: &Pod| {
        for (target, outcome) in reach(client, server) {
            assert!(matches!(outcome, Outcome::Ok(_)), "{} to {target:?}: {outcome:?}", client.name());
        }
    };
    for (client, server) in [(&known, &unknown), (&unknown, &known)] {
        for (target, outcome) in reach(client, server) {
            assert_eq!(outcome, Outcome::Timeout, "{} to {target:?}", client.name());
        }
    }
    assert!(cluster.node().drops("pod-not-ready") > 0);
    // The node is let through even then: the kubelet probes what it starts.
    assert_open(cluster.node(), &unknown);

    unknown.announce();
    cluster.wait_for_sync();
    assert_open(&known, &unknown);
    assert_open(&unknown, &known);
}

fn a_pod_without_a_name_is_open(cluster: &Cluster) {
    let known = cluster.node().pod("known");
    let _server = known.serve(&LISTEN);
    let namespace = cluster.node().pod_namespace("nameless");
    let call = |command| CniCall::new(cluster.node(), command, namespace.name()).namespace(&namespace.path());
    call("ADD").run().expect("ADD needs no Pod");
    for &address in known.addresses() {
        run(namespace.command("ping").args(["-c1", "-W2", &address.to_string()]), "");
    }
    call("DEL").run().expect("DEL needs no Pod");
    namespace.remove();
}

fn packets_of_full_size_pass(cluster: &Cluster) {
    let pods = cluster.node().pods("pod", 2);
    for (address, headers) in [(pods[1].v4(), 28), (pods[1].v6(), 48)] {
        let (address, payload) = (address.to_string(), (1450 - headers).to_string());
        run(pods[0].command("ping").args(["-c1", "-W2", "-Mdo", "-s", &payload, &address]), "");
        // Larger ones are fragmented, and arrive whole.
        run(pods[0].command("ping").args(["-c1", "-W2", "-Mdont", "-s", "4000", &address]), "");
    }
}
