//! What is wrong with the node itself, or stands in its way, is told, the rest goes on, and it heals
//! when the cause is gone.

use std::{net::SocketAddr, time::Duration};

use tests::{
    cluster::{LogOnFailure, Node, Plan, Pod, assert_soon_reached, assert_soon_reported, assert_soon_well, is_reached},
    manifest,
    sandbox::output,
    traffic::{Dial, Load, Outcome, Place, Style, Transport},
    wait,
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const PATIENCE: Duration = Duration::from_secs(20);

fn two() -> Plan {
    Plan::default().node("node-a").node("node-b")
}

fn loads<'a>(client: &'a Pod, server: &'a Pod) -> Vec<Load> {
    let of = |address: &_| {
        let dial = Dial::new(client, Transport::Udp, SocketAddr::new(*address, 5353));
        dial.style(Style::Fresh).pause(Duration::from_millis(1)).load()
    };
    server.addresses().iter().map(of).collect()
}

fn answers(from: &dyn Place, transport: Transport, address: SocketAddr) -> bool {
    let dial = Dial::new(from, transport, address).timeout(Duration::from_millis(200));
    matches!(dial.once().outcome, Outcome::Ok(_))
}

/// Our unreachable routes.
fn unreachable(node: &Node) -> Vec<String> {
    let of = |family: &str| node.namespace().show(&format!("{family} route show proto 197 type unreachable"));
    let all = [of("-4"), of("-6")].concat();
    all.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
}

#[test]
fn a_device_of_that_name_that_is_anothers() {
    let cluster = two().without_agents();
    let _log = LogOnFailure(&cluster);
    let a = cluster.node();
    a.namespace().ip("link add fairlead0 type bridge");
    for node in cluster.nodes() {
        node.start_agent(&[]);
    }
    let pods = cluster.pod_on_each("pod");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    let service = cluster.service("service").tcp(80, 8080).udp(53, 5353).backends([pods[1].endpoint()]);
    cluster.apply(&service);
    assert_soon_reported(a, &["fairlead0", "isn't Fairlead's"]);
    assert_soon_reached(&pods[0], &pods[1]);
    let clients: [&dyn Place; 2] = [&pods[0], a];
    for client in clients {
        assert!(answers(client, Transport::Tcp, service.v4(80)), "{}: the rest goes on", client.name());
    }
    assert!(answers(&pods[0], Transport::Udp, service.v4(53)));

    a.namespace().ip("link del fairlead0");
    assert_soon_well(a);
    // Connected UDP of the node's own is led through the device.
    wait::until("the node's own packets", PATIENCE, || answers(a, Transport::Udp, service.v4(53)).then_some(()));
    a.namespace().ip("link del fairlead0");
    wait::until("it comes back", PATIENCE, || answers(a, Transport::Udp, service.v4(53)).then_some(()));
}

#[test]
fn an_uplink_that_is_nobodys_by_name() {
    let cluster = two().start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    let a = cluster.node();
    assert_soon_reached(&pods[0], &pods[1]);

    // It is found by what it carries, so its name is its own affair.
    let loads = loads(&pods[0], &pods[1]);
    a.namespace().ip("link set eth0 name wan0");
    loads.iter().for_each(|load| load.wait_for_more(500));
    for load in loads {
        load.stop().assert_lossless();
    }
    assert_eq!(a.problems(), Vec::<String>::new());

    a.namespace().ip("link set wan0 down");
    assert_soon_reported(a, &["uplink wan0", "down"]);
    let up = "link set wan0 up\naddress replace 2001:db8::11/64 dev wan0\n\
              route replace default via 192.0.2.1\nroute replace ::/0 via 2001:db8::1";
    a.namespace().ip(up);
    assert_soon_well(a);
    assert_soon_reached(&pods[0], &pods[1]);

    // Another interface takes its place, and says so: else node-b would believe for half a minute
    // in the MAC address that it knows.
    a.namespace().sysctl("net.ipv6.conf.all.ndisc_notify", "1");
    a.namespace().ip("link del wan0");
    assert_soon_reported(a, &["uplinks", "none"]);
    let peer = format!(
        "link add uplink-9 type veth peer name lan0 netns {}\nlink set uplink-9 master nodes up",
        a.namespace().name()
    );
    cluster.outside().namespace().ip(&peer);
    a.namespace().ip("link set lan0 up\naddress add 192.0.2.11/24 dev lan0\naddress add 2001:db8::11/64 dev lan0\n\
         route add default via 192.0.2.1\nroute add ::/0 via 2001:db8::1");
    assert_soon_well(a);
    assert_soon_reached(&pods[0], &pods[1]);
    assert_soon_reached(&pods[1], &pods[0]);
}

#[test]
fn a_node_without_podcidrs_or_addresses() {
    let cluster = two().start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    let [a, b] = cluster.nodes() else { panic!("there are two") };
    let before = unreachable(a);
    assert_eq!(before.len(), 2, "{before:?}");

    cluster.directory().put(&manifest::node(a.name(), "zone", &[], &a.addresses()));
    cluster.wait_for_sync();
    assert_soon_reported(a, &["CNI", "no spec.podCIDRs"]);
    assert_soon_reported(b, &["Node node-a", "no spec.podCIDRs"]);
    assert!(unreachable(a).is_empty(), "{:?}", unreachable(a));
    cluster.directory().put(&a.manifest());
    cluster.wait_for_sync();
    assert_soon_well(a);
    assert_soon_well(b);
    assert_eq!(unreachable(a), before);
    assert_soon_reached(&pods[1], &pods[0]);

    // Its own addresses are on its uplinks whether its Node says so or not.
    cluster.directory().put(&manifest::node(a.name(), "zone", a.pod_cidrs(), &[]));
    cluster.wait_for_sync();
    assert_soon_reported(b, &["Node node-a", "status.addresses"]);
    assert_eq!(a.problems(), Vec::<String>::new());
    cluster.directory().put(&a.manifest());
    cluster.wait_for_sync();
    assert_soon_well(b);
    assert_soon_reached(&pods[0], &pods[1]);
}

#[test]
fn addresses_of_no_pod_are_unreachable() {
    for flag in ["--routing-mode=auto", "--routing-mode=vxlan"] {
        let cluster = two().flag(flag).start();
        let _log = LogOnFailure(&cluster);
        let pods = cluster.pod_on_each("pod");
        let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
        let a = cluster.node();
        let before = unreachable(a);
        assert_eq!(before, a.pod_cidrs(), "{flag}");
        let ask = || {
            for address in ["10.244.1.200", "fd00:10:244:1::200"] {
                for client in &pods {
                    let ping = output(client.command("ping").args(["-c1", "-W2", address]), "");
                    let said = String::from_utf8_lossy(&ping.stdout).into_owned();
                    assert!(
                        said.to_lowercase().contains("unreachable"),
                        "{flag}: {} to {address}: {said}",
                        client.name()
                    );
                }
            }
        };
        ask();
        // Whoever takes it away, or whoever restarts.
        a.namespace().ip("route del unreachable 10.244.1.0/24 proto 197 metric 1073741824");
        wait::until("it comes back", PATIENCE, || (unreachable(a) == before).then_some(()));
        let loads = loads(&pods[0], &pods[1]);
        a.kill_agent();
        assert_eq!(unreachable(a), before, "{flag}");
        a.spawn_agent();
        a.wait_for_sync();
        ask();
        for load in loads {
            load.stop().assert_lossless();
        }
        // Somebody else's route to there stays, and comes first.
        a.namespace().ip("route add 10.244.1.0/24 dev eth0 proto static");
        cluster.wait_for_sync();
        assert!(is_reached(&pods[1], &pods[0]), "{flag}: each pod has a route of its own");
        a.kill_agent();
        assert!(a.cli(&["cleanup"]).status.success());
        assert!(unreachable(a).is_empty(), "{flag}");
        assert!(a.namespace().show("route show 10.244.1.0/24").contains("proto static"), "{flag}");
    }
}
