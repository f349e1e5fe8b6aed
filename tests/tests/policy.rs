//! NetworkPolicy as pods feel it: real sockets on two nodes, on one node and between them, through
//! Services and past them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Outside, Plan, Pod},
    policed::{LISTEN, Probe, Request, answers, apply, assert_all, block, delete, label_namespace, label_pod, pod},
    traffic::{Dial, Outcome, Place, Server, Transport},
};

fn two() -> Plan {
    Plan::default().node("node-a").node("node-b")
}

/// A client at a port of each of these addresses, over TCP and UDP.
fn probes<'a>(client: &'a (dyn Place + Sync), to: &[IpAddr], port: u16, expected: bool) -> Vec<Probe<'a>> {
    let of = |&ip: &IpAddr| {
        [Transport::Tcp, Transport::Udp].map(|transport| Probe {
            what: client.name().to_owned(),
            client,
            request: Request::To(transport, SocketAddr::new(ip, port)),
            expected,
        })
    };
    to.iter().flat_map(of).collect()
}

#[track_caller]
fn check(client: &(dyn Place + Sync), server: &Pod, port: u16, expected: bool) {
    assert_all(probes(client, server.addresses(), port, expected));
}

#[test]
fn ingress_is_judged_on_one_node_between_nodes_and_from_outside() {
    for mode in ["--routing-mode=native", "--routing-mode=vxlan"] {
        let cluster = two().flag(mode).start();
        let _log = LogOnFailure(&cluster);
        let [a, b] = cluster.nodes() else { panic!() };
        let server = pod(&cluster, a, "x", "server", &json!({"app": "server"}));
        let near = pod(&cluster, a, "x", "near", &json!({"app": "near"}));
        let far = pod(&cluster, b, "x", "far", &json!({"app": "far"}));
        cluster.wait_for_sync();
        let _servers = [server.serve(&LISTEN), near.serve(&LISTEN), far.serve(&LISTEN)];
        // By the node's address, which hides the client from the pod, not from its policies.
        let service = cluster.service("s").tcp(7001, 80).udp(7001, 80).backends([server.endpoint()]);
        for mut manifest in service.manifests() {
            if manifest["kind"] == "Service" {
                manifest["spec"]["externalIPs"] = json!(a.addresses());
            }
            cluster.directory().put(&manifest);
        }
        cluster.wait_for_sync();
        let reaches = |who: [bool; 4]| {
            let all = [
                probes(&near, server.addresses(), 80, who[0]),
                probes(&far, server.addresses(), 80, who[1]),
                probes(cluster.outside(), &a.addresses(), 7001, who[2]),
                probes(b, server.addresses(), 80, who[3]),
                // Its own node, itself, and whom it asks.
                probes(a, server.addresses(), 80, true),
                probes(&server, server.addresses(), 80, true),
                probes(&server, near.addresses(), 80, true),
                probes(&server, far.addresses(), 80, true),
            ];
            assert_all(all.into_iter().flatten());
        };
        reaches([true; 4]);
        let spec = |ingress: Value| json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": ingress});
        apply(&cluster, "x", "p", &spec(json!([])));
        reaches([false; 4]);
        assert!(a.drops("ingress-policy-denied") > 0);
        apply(
            &cluster,
            "x",
            "p",
            &spec(json!([{"from": [{"podSelector": {"matchLabels": {"app": "far"}}}], "ports": [
                {"port": 80}, {"port": "serve-80-udp", "protocol": "UDP"},
            ]}])),
        );
        reaches([false, true, false, false]);
        check(&far, &server, 81, false);
        let outside: Vec<Value> = Outside::ADDRESSES.iter().map(block).collect();
        let nodes: Vec<Value> = b.addresses().iter().map(block).collect();
        apply(&cluster, "x", "p", &spec(json!([{"from": outside}])));
        reaches([false, false, true, false]);
        apply(
            &cluster,
            "x",
            "p",
            &spec(json!([{"from": nodes}, {"from": [{"podSelector": {"matchLabels": {"app": "near"}}}]}])),
        );
        reaches([true, false, false, true]);
        delete(&cluster, "x", "p");
        reaches([true; 4]);
    }
}

#[test]
fn egress_is_judged_on_the_backend_behind_a_service() {
    for balancing in ["--socket-lb=true", "--socket-lb=false"] {
        let cluster = two().flag(balancing).start();
        let _log = LogOnFailure(&cluster);
        let [a, b] = cluster.nodes() else { panic!() };
        let client = pod(&cluster, a, "x", "client", &json!({"app": "client"}));
        let near = pod(&cluster, a, "x", "near", &json!({"app": "near"}));
        let far = pod(&cluster, b, "y", "far", &json!({"app": "far"}));
        cluster.wait_for_sync();
        let _servers = [near.serve(&LISTEN), far.serve(&LISTEN), client.serve(&LISTEN)];
        let _outside = Server::start(cluster.outside(), &LISTEN);
        let services = [&near, &far].map(|pod| {
            let service = cluster.service("s").tcp(7000, 80).udp(7000, 80).backends([pod.endpoint()]);
            cluster.apply(&service);
            service
        });
        let reaches = |who: [bool; 3]| {
            let all = [
                probes(&client, near.addresses(), 80, who[0]),
                probes(&client, &services[0].addresses, 7000, who[0]),
                probes(&client, far.addresses(), 80, who[1]),
                probes(&client, &services[1].addresses, 7000, who[1]),
                probes(&client, &Outside::ADDRESSES, 80, who[2]),
                probes(&near, client.addresses(), 80, true),
                probes(&far, client.addresses(), 80, true),
            ];
            assert_all(all.into_iter().flatten());
        };
        reaches([true; 3]);
        let spec = |egress: Value| json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"], "egress": egress});
        apply(&cluster, "x", "p", &spec(json!([])));
        reaches([false; 3]);
        assert!(a.drops("egress-policy-denied") > 0);
        apply(&cluster, "x", "p", &spec(json!([{"to": [{"podSelector": {}}]}])));
        reaches([true, false, false]);
        let far_away = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}});
        apply(
            &cluster,
            "x",
            "p",
            &spec(json!([{"to": [far_away], "ports": [{"port": 80}, {"port": "serve-80-udp", "protocol": "UDP"}]}])),
        );
        reaches([false, true, false]);
        let all = [
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"]}}),
            json!({"ipBlock": {"cidr": "2001:db8::/32"}}),
        ];
        apply(&cluster, "x", "p", &spec(json!([{"to": all}])));
        reaches([false, false, true]);
    }
}

/// How a session ends that is cut without a word.
fn is_silent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Timeout | Outcome::Reset | Outcome::Error(_))
}

#[test]
fn what_changes_takes_effect_on_established_flows_and_survives_the_agent() {
    let cluster = two().start();
    let _log = LogOnFailure(&cluster);
    let [a, b] = cluster.nodes() else { panic!() };
    let server = pod(&cluster, a, "x", "server", &json!({"app": "server"}));
    let friend = pod(&cluster, b, "x", "friend", &json!({"app": "friend"}));
    let other = pod(&cluster, a, "x", "other", &json!({"app": "other"}));
    cluster.wait_for_sync();
    let _server = server.serve(&LISTEN);
    let open = |client: &Pod| {
        Dial::new(client, Transport::Tcp, SocketAddr::new(server.v4(), 80)).timeout(Duration::from_secs(1)).open()
    };
    // Older than any policy.
    let (mut kept, mut cut) = (open(&friend), open(&other));
    for session in [&mut kept, &mut cut] {
        assert!(matches!(session.ask().outcome, Outcome::Ok(_)));
    }
    let spec = json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [
        {"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["friend"]}]}}]},
    ]});
    apply(&cluster, "x", "p", &spec);
    assert!(matches!(kept.ask().outcome, Outcome::Ok(_)), "an allowed connection goes on");
    let outcome = cut.ask().outcome;
    assert!(is_silent(&outcome), "a denied connection ends: {outcome:?}");
    // While the agent is away, what was in force is.
    drop(a.agent().take());
    check(&friend, &server, 80, true);
    check(&other, &server, 80, false);
    assert!(matches!(kept.ask().outcome, Outcome::Ok(_)));
    a.spawn_agent();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        assert!(!answers(&other, Transport::Tcp, SocketAddr::new(server.v4(), 80)), "it is never open");
        assert!(answers(&friend, Transport::Tcp, SocketAddr::new(server.v4(), 80)), "and never closed");
    }
    cluster.wait_for_sync();
    assert!(matches!(kept.ask().outcome, Outcome::Ok(_)));
    assert_eq!(a.problems(), Vec::<String>::new());
    // The friend is one no more.
    let mut session = open(&friend);
    assert!(matches!(session.ask().outcome, Outcome::Ok(_)));
    label_pod(&cluster, &friend, "x", "friend", &json!({"app": "stranger"}));
    cluster.wait_for_sync();
    let outcome = session.ask().outcome;
    assert!(is_silent(&outcome), "{outcome:?}");
    delete(&cluster, "x", "p");
    check(&other, &server, 80, true);
}

#[test]
fn a_new_pod_is_judged_from_its_first_packet() {
    let cluster = two().start();
    let _log = LogOnFailure(&cluster);
    let [a, b] = cluster.nodes() else { panic!() };
    label_namespace(&cluster, "x", &json!({}));
    apply(
        &cluster,
        "x",
        "p",
        &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []}),
    );
    let peer = pod(&cluster, b, "y", "peer", &json!({}));
    cluster.wait_for_sync();
    let _peer = peer.serve(&LISTEN);
    let fresh = pod(&cluster, a, "x", "fresh", &json!({}));
    let _fresh = fresh.serve(&LISTEN);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        for (client, server) in [(&fresh, &peer), (&peer, &fresh)] {
            let dial = Dial::new(client, Transport::Udp, SocketAddr::new(server.v4(), 80));
            let outcome = dial.timeout(Duration::from_millis(20)).once().outcome;
            assert!(!matches!(outcome, Outcome::Ok(_)), "{} to {}", client.name(), server.name());
        }
    }
    cluster.wait_for_sync();
    check(a, &fresh, 80, true);
}

#[test]
fn policies_of_the_cluster_come_before_and_behind_those_of_namespaces() {
    let cluster = two().start();
    let _log = LogOnFailure(&cluster);
    let [a, b] = cluster.nodes() else { panic!() };
    let server = pod(&cluster, a, "x", "server", &json!({"app": "server"}));
    let near = pod(&cluster, a, "x", "near", &json!({"app": "near"}));
    let far = pod(&cluster, b, "y", "far", &json!({"app": "far"}));
    cluster.wait_for_sync();
    let _servers = [server.serve(&LISTEN), near.serve(&LISTEN), far.serve(&LISTEN)];
    let reaches = |who: [bool; 2], at_81: bool| {
        let all = [
            probes(&near, server.addresses(), 80, who[0]),
            probes(&far, server.addresses(), 80, who[1]),
            probes(&near, server.addresses(), 81, at_81),
            probes(a, server.addresses(), 80, true),
            probes(&server, far.addresses(), 80, true),
        ];
        assert_all(all.into_iter().flatten());
    };
    let of_cluster = |name: &str, tier: &str, ingress: Value| {
        let subject = json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "server"}}}});
        let object = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name},
            "spec": {"tier": tier, "priority": 10, "subject": subject, "ingress": ingress},
        });
        cluster.directory().write(&format!("cluster-policy.{name}.json"), &object.to_string());
        cluster.wait_for_sync();
    };
    let everybody = json!({"namespaces": {}});
    let named = |name: &str| json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
    reaches([true; 2], true);
    of_cluster("base", "Baseline", json!([{"action": "Deny", "from": [everybody]}]));
    reaches([false; 2], false);
    let spec = json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [
        {"from": [{"namespaceSelector": {}}], "ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]},
    ]});
    apply(&cluster, "x", "p", &spec);
    reaches([true; 2], false);
    of_cluster(
        "first",
        "Admin",
        json!([
            {"action": "Accept", "from": [named("x")], "protocols": [
                {"tcp": {"destinationPort": {"number": 81}}}, {"destinationNamedPort": "serve-81-udp"},
            ]},
            {"action": "Pass", "from": [named("x")]},
            {"action": "Deny", "from": [everybody]},
        ]),
    );
    reaches([true, false], true);
    let policy = |arguments: &[&str]| a.cli_json(&[&["policy"], arguments].concat());
    let report = policy(&["--pod", "x/x-server"]);
    let names: Vec<&str> =
        report["policies"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["first", "p", "base"], "in the order in which they are asked");
    let rules = &report["policies"][0]["ingress"]["rules"];
    assert!(rules[2]["denied"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(rules[0]["denied"], json!(null));
    let defaults = || policy(&["--namespace", "x", "p"])["policies"][0]["ingress"]["deniedByDefault"].as_u64().unwrap();
    let before = defaults();
    delete_of_cluster(&cluster, "first");
    reaches([true; 2], false);
    assert!(defaults() > before);
    assert_eq!(b.cli_json(&["policy", "p"])["policies"][0]["pods"], json!([]), "it has no pod there");
    let shown = a.cli(&["policy", "base"]);
    let table = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(table.starts_with("POLICY") && table.contains("Baseline 10"), "{table}");
    assert!(!a.cli(&["policy", "nobody"]).status.success());
    delete(&cluster, "x", "p");
    delete_of_cluster(&cluster, "base");
    reaches([true; 2], true);
}

fn delete_of_cluster(cluster: &Cluster, name: &str) {
    cluster.directory().remove(&format!("cluster-policy.{name}.json"));
    cluster.wait_for_sync();
}
