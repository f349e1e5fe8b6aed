//! Nodes come, go and change while traffic runs; the agent restarts; what is wrong with one node is
//! told and harms no other.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::json;
use tests::{
    cluster::{
        Cluster, LogOnFailure, Node, Plan, Pod, assert_soon_reached, assert_soon_reported, assert_soon_well, is_reached,
    },
    manifest,
    sandbox::run,
    traffic::{Dial, Load, Place, Server, Style, Transport},
    wait,
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const PATIENCE: Duration = Duration::from_secs(20);

fn three() -> Plan {
    Plan::default().node("node-a").node("node-b").node("node-c")
}

fn serve(pods: &[Pod]) -> Vec<Server> {
    pods.iter().map(|pod| pod.serve(&LISTEN)).collect()
}

/// Requests of both transports and families without end.
fn loads<'a>(client: &'a Pod, server: &'a Pod) -> Vec<Load> {
    let of = |address: IpAddr| {
        LISTEN.map(|(transport, port)| {
            let dial = Dial::new(client, transport, SocketAddr::new(address, port));
            dial.style(Style::Fresh).pause(Duration::from_millis(1)).load()
        })
    };
    server.addresses().iter().flat_map(|address| of(*address)).collect()
}

/// Our routes to other nodes' pods.
fn routes(node: &Node) -> Vec<String> {
    let of = |family: &str| node.namespace().show(&format!("{family} route show proto 197"));
    let all = [of("-4"), of("-6")].concat();
    let to_peers = all.lines().filter(|line| line.contains(" via ") || line.contains("fairlead-vxlan"));
    to_peers.map(|line| line.trim().to_owned()).collect()
}

fn put_node(cluster: &Cluster, node: &Node, cidrs: &[&str], addresses: &[IpAddr]) {
    let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    cluster.directory().put(&manifest::node(node.name(), "zone", &cidrs, addresses));
    cluster.wait_for_sync();
}

#[test]
fn others_notice_nothing_when_a_node_comes_goes_and_changes() {
    let cluster = three().start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers = serve(&pods);
    let [a, _, c] = cluster.nodes() else { panic!("there are three") };
    let loads = loads(&pods[0], &pods[1]);
    assert_soon_reached(&pods[0], &pods[2]);
    let before = routes(a);
    assert_eq!(before.len(), 4, "{before:?}");

    cluster.directory().delete(&c.manifest());
    cluster.wait_for_sync();
    assert_eq!(routes(a).len(), 2, "{:?}", routes(a));
    assert!(!is_reached(&pods[0], &pods[2]));
    cluster.directory().put(&c.manifest());
    cluster.wait_for_sync();
    assert_eq!(routes(a), before);
    assert_soon_reached(&pods[0], &pods[2]);

    // Another podCIDR: the old one is nobody's any more.
    put_node(&cluster, c, &["10.244.99.0/24", "fd00:10:244:99::/64"], &c.addresses());
    assert!(routes(a).iter().any(|route| route.starts_with("10.244.99.0/24 via 192.0.2.13")), "{:?}", routes(a));
    assert!(!routes(a).iter().any(|route| route.starts_with("10.244.3.0/24")), "{:?}", routes(a));

    // An address on another link, and back.
    let far = "203.0.113.3".parse().unwrap();
    put_node(&cluster, c, &["10.244.3.0/24", "fd00:10:244:3::/64"], &[far]);
    assert!(routes(a).iter().any(|route| route.starts_with("10.244.3.0/24 dev fairlead-vxlan")), "{:?}", routes(a));
    cluster.directory().put(&c.manifest());
    cluster.wait_for_sync();
    assert_eq!(routes(a), before);
    assert!(!a.namespace().show("link show").contains("fairlead-vxlan"), "nobody needs it any more");
    assert_soon_reached(&pods[0], &pods[2]);

    for load in loads {
        load.wait_for_more(10);
        load.stop().assert_lossless();
    }
}

#[test]
fn a_node_that_moves_to_another_address_is_found_there() {
    let cluster = Plan::default().node("node-a").node("node-b").start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers = serve(&pods);
    let b = &cluster.nodes()[1];
    assert_soon_reached(&pods[0], &pods[1]);
    b.namespace().ip("address add 192.0.2.99/24 dev eth0\naddress add 2001:db8::99/64 dev eth0");
    let addresses = ["192.0.2.99", "2001:db8::99"].map(|text| text.parse().unwrap());
    put_node(&cluster, b, &b.pod_cidrs().iter().map(String::as_str).collect::<Vec<_>>(), &addresses);
    // With the first address of a network its others go too, unless they are promoted.
    b.namespace().sysctl("net.ipv4.conf.eth0.promote_secondaries", "1");
    b.namespace().ip("address del 192.0.2.12/24 dev eth0\naddress del 2001:db8::12/64 dev eth0");
    for node in cluster.nodes() {
        assert_soon_well(node);
    }
    assert_soon_reached(&pods[0], &pods[1]);
    assert_soon_reached(&pods[1], &pods[0]);
    let seen = routes(&cluster.nodes()[0]);
    assert!(seen.iter().all(|route| route.contains("::99") || route.contains("192.0.2.99")), "{seen:?}");
}

fn a_restarted_agent_finds_its_routes(mode: &str) {
    let cluster = three().flag(mode).start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers = serve(&pods);
    let [a, _, c] = cluster.nodes() else { panic!("there are three") };
    let before = routes(a);
    assert_eq!(before.len(), 4, "{before:?}");
    let loads = loads(&pods[0], &pods[1]);
    a.kill_agent();
    assert_eq!(routes(a), before);
    cluster.directory().delete(&c.manifest());
    a.spawn_agent();
    a.wait_for_sync();
    wait::until("the routes to the node that is gone go", PATIENCE, || (routes(a).len() == 2).then_some(()));
    assert!(routes(a).iter().all(|route| before.contains(route)), "{:?}", routes(a));
    cluster.directory().put(&c.manifest());
    cluster.wait_for_sync();
    assert_eq!(routes(a), before);
    assert_soon_reached(&pods[0], &pods[2]);
    for load in loads {
        load.wait_for_more(10);
        load.stop().assert_lossless();
    }

    a.kill_agent();
    let cleaned = a.cli(&["cleanup"]);
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    assert!(routes(a).is_empty() && !a.namespace().show("link show").contains("fairlead"));
    assert_eq!(sysctl(a, "net/ipv4/ip_forward"), "0", "as it was");
    assert_eq!(sysctl(a, "net/ipv6/conf/all/forwarding"), "0", "as it was");
}

#[test]
fn a_restarted_agent_finds_its_routes_native() {
    a_restarted_agent_finds_its_routes("--routing-mode=native");
}

#[test]
fn a_restarted_agent_finds_its_routes_vxlan() {
    a_restarted_agent_finds_its_routes("--routing-mode=vxlan");
}

fn sysctl(node: &Node, key: &str) -> String {
    run(node.namespace().command("cat").arg(format!("/proc/sys/{key}")), "").trim().to_owned()
}

#[test]
fn a_node_that_makes_no_sense_is_told_and_harms_nobody() {
    let cluster = Plan::default().node("node-a").node("node-b").start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers = serve(&pods);
    let a = cluster.node();
    let before = routes(a);
    let loads = loads(&pods[0], &pods[1]);
    let near: IpAddr = "192.0.2.77".parse().unwrap();
    let cases: [(&[&str], &[IpAddr], &[&str]); 5] = [
        (&["10.244.77.0/24"], &[], &["Node bad", "10.244.77.0/24", "status.addresses"]),
        (&[], &[near], &["Node bad", "spec.podCIDRs"]),
        (&["10.244.2.128/25"], &[near], &["Node bad", "10.244.2.128/25", "10.244.2.0/24", "node-b"]),
        (&["192.0.0.0/8"], &[near], &["Node bad", "192.0.0.0/8", "node network"]),
        (&["10.244.300.0/24"], &[near], &["Node bad", "10.244.300.0/24"]),
    ];
    for (cidrs, addresses, words) in cases {
        let node = |cidrs: &[&str], addresses: &[IpAddr]| {
            let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            let mut node = manifest::node("bad", "zone", &cidrs, addresses);
            // The younger of two that overlap is the one that is left out.
            node["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            node
        };
        cluster.directory().put(&node(cidrs, addresses));
        cluster.wait_for_sync();
        assert_soon_reported(a, words);
        assert_eq!(routes(a), before);
        cluster.directory().put(&node(&["10.244.77.0/24"], &[near]));
        cluster.wait_for_sync();
        assert_soon_well(a);
        assert_eq!(routes(a).len(), before.len() + 1, "it heals by itself: {:?}", routes(a));
        cluster.directory().delete(&node(&[], &[]));
        cluster.wait_for_sync();
        assert_eq!(routes(a), before);
    }
    for load in loads {
        load.stop().assert_lossless();
    }
}

#[test]
fn what_somebody_else_made_stays() {
    let cluster = three().without_agents();
    let _log = LogOnFailure(&cluster);
    let a = cluster.node();
    a.namespace().ip("route add 10.244.2.0/24 via 192.0.2.1\nlink add fairlead-vxlan type bridge");
    for node in cluster.nodes() {
        node.start_agent(&[]);
    }
    let pods = cluster.pod_on_each("pod");
    let _servers = serve(&pods);
    assert_soon_reported(a, &["route to 10.244.2.0/24", "isn't Fairlead's"]);
    assert!(a.namespace().show("route show 10.244.2.0/24").contains("via 192.0.2.1"));
    assert_soon_reached(&pods[0], &pods[2]);
    a.namespace().ip("route del 10.244.2.0/24 via 192.0.2.1");
    assert_soon_reached(&pods[0], &pods[1]);
    assert_soon_well(a);

    // The device is in the way only when one is needed.
    let far = manifest::node("far", "zone", &["10.244.77.0/24".to_owned()], &["203.0.113.7".parse().unwrap()]);
    cluster.directory().put(&far);
    cluster.wait_for_sync();
    assert_soon_reported(a, &["fairlead-vxlan", "isn't Fairlead's"]);
    assert!(is_reached(&pods[0], &pods[1]), "the rest goes on");
    a.namespace().ip("link del fairlead-vxlan");
    assert_soon_well(a);
    assert!(routes(a).iter().any(|route| route.starts_with("10.244.77.0/24 dev fairlead-vxlan")), "{:?}", routes(a));

    // One of our own that somebody deletes comes back.
    a.namespace().ip("route del 10.244.2.0/24");
    assert_soon_reached(&pods[0], &pods[1]);
    a.namespace().ip("link del fairlead-vxlan");
    let back = || routes(a).iter().any(|route| route.starts_with("10.244.77.0/24 dev fairlead-vxlan")).then_some(());
    wait::until("the device and its routes come back", PATIENCE, back);
}

#[test]
fn uplinks_go_down_come_back_and_get_other_names() {
    let cluster = Plan::default().node("node-a").node("node-b").flag("--devices=eth0").start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers = serve(&pods);
    let a = cluster.node();
    let before = routes(a);
    assert_soon_reached(&pods[0], &pods[1]);

    a.namespace().ip("link set eth0 down");
    assert_soon_reported(a, &["uplink eth0", "down"]);
    assert!(!a.namespace().show("link show").contains("fairlead-vxlan"), "no way around is tried");
    // The kernel gives the IPv6 addresses back to nobody.
    a.namespace().ip("link set eth0 up\naddress add 2001:db8::11/64 dev eth0");
    assert_soon_well(a);
    assert_soon_reached(&pods[0], &pods[1]);
    assert_eq!(routes(a), before);

    let loads = loads(&pods[0], &pods[1]);
    a.namespace().ip("link set eth0 name wan0");
    assert_soon_reported(a, &["--devices eth0", "wan0"]);
    assert!(is_reached(&pods[0], &pods[1]), "the rest goes on");
    a.namespace().ip("link set wan0 name eth0");
    assert_soon_well(a);
    for load in loads {
        load.stop().assert_lossless();
    }
    assert_eq!(fs::read_to_string(a.log_path()).unwrap().matches("panicked").count(), 0);
}
