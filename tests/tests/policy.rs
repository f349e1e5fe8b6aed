//! NetworkPolicy as pods feel it: real sockets on two nodes, on one node and between them, through
//! Services and past them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Node, Outside, Plan, Pod},
    traffic::{Dial, Outcome, Place, Transport},
};

const LISTEN: [(Transport, u16); 4] =
    [(Transport::Tcp, 80), (Transport::Udp, 80), (Transport::Tcp, 81), (Transport::Udp, 81)];
const SHORT: Duration = Duration::from_millis(400);

fn two() -> Plan {
    Plan::default().node("node-a").node("node-b")
}

fn namespace(cluster: &Cluster, name: &str, labels: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    cluster.directory().write(&format!("namespace.{name}.json"), &object.to_string());
}

/// A pod of the Pod object that says what it is called, and later where it is.
fn pod(cluster: &Cluster, node: &Node, namespace: &str, name: &str, labels: &Value) -> Pod {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": format!("{namespace}-{name}"), "labels": labels},
        "spec": {"nodeName": node.name(), "containers": [{"name": "main", "ports": [
            {"name": "serve-80-tcp", "containerPort": 80}, {"name": "serve-80-udp", "containerPort": 80, "protocol": "UDP"},
            {"name": "serve-81-tcp", "containerPort": 81}, {"name": "serve-81-udp", "containerPort": 81, "protocol": "UDP"},
        ]}]},
        "status": {"phase": "Running"},
    });
    let pod = node.pod_of(object.clone());
    object["status"]["podIPs"] = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
    cluster.directory().write(&format!("pod.{namespace}.{name}.json"), &object.to_string());
    pod
}

fn apply(cluster: &Cluster, namespace: &str, name: &str, spec: &Value) {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    });
    cluster.directory().write(&format!("policy.{namespace}.{name}.json"), &object.to_string());
    cluster.wait_for_sync();
}

fn delete(cluster: &Cluster, namespace: &str, name: &str) {
    cluster.directory().remove(&format!("policy.{namespace}.{name}.json"));
    cluster.wait_for_sync();
}

fn answers(client: &dyn Place, transport: Transport, address: IpAddr, port: u16) -> bool {
    let attempt = Dial::new(client, transport, SocketAddr::new(address, port)).timeout(SHORT).once();
    matches!(attempt.outcome, Outcome::Ok(_))
}

#[track_caller]
fn check(client: &dyn Place, server: &Pod, port: u16, expected: bool) {
    for &address in server.addresses() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let found = answers(client, transport, address, port);
            assert_eq!(found, expected, "{} to {} at {transport} {address}:{port}", client.name(), server.name());
        }
    }
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
            check(&near, &server, 80, who[0]);
            check(&far, &server, 80, who[1]);
            for address in a.addresses() {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let found = answers(cluster.outside(), transport, address, 7001);
                    assert_eq!(found, who[2], "from outside to {transport} {address}");
                }
            }
            check(b, &server, 80, who[3]);
            // Its own node, itself, and whom it asks.
            check(a, &server, 80, true);
            check(&server, &server, 80, true);
            check(&server, &near, 80, true);
            check(&server, &far, 80, true);
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

fn block(ip: &IpAddr) -> Value {
    json!({"ipBlock": {"cidr": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })}})
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
        let _outside = tests::traffic::Server::start(cluster.outside(), &LISTEN);
        let services = [&near, &far].map(|pod| {
            let service = cluster.service("s").tcp(7000, 80).udp(7000, 80).backends([pod.endpoint()]);
            cluster.apply(&service);
            service
        });
        let reaches = |who: [bool; 3]| {
            for (service, (pod, expected)) in services.iter().zip([(&near, who[0]), (&far, who[1])]) {
                check(&client, pod, 80, expected);
                for address in service.both(7000) {
                    for transport in [Transport::Tcp, Transport::Udp] {
                        assert_eq!(answers(&client, transport, address.ip(), 7000), expected, "{transport} {address}");
                    }
                }
            }
            for address in Outside::ADDRESSES {
                assert_eq!(answers(&client, Transport::Tcp, address, 80), who[2], "{address}");
                assert_eq!(answers(&client, Transport::Udp, address, 80), who[2], "{address}");
            }
            check(&near, &client, 80, true);
            check(&far, &client, 80, true);
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
        assert!(!answers(&other, Transport::Tcp, server.v4(), 80), "it is never open");
        assert!(answers(&friend, Transport::Tcp, server.v4(), 80), "and never closed");
    }
    cluster.wait_for_sync();
    assert!(matches!(kept.ask().outcome, Outcome::Ok(_)));
    assert_eq!(a.problems(), Vec::<String>::new());
    // The friend is one no more.
    let mut session = open(&friend);
    assert!(matches!(session.ask().outcome, Outcome::Ok(_)));
    let mut object: Value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "x", "name": "x-friend", "labels": {"app": "stranger"}},
        "spec": {"nodeName": b.name(), "containers": [{"name": "main"}]}, "status": {"phase": "Running"},
    });
    object["status"]["podIPs"] = friend.addresses().iter().map(|ip| json!({"ip": ip})).collect();
    cluster.directory().write("pod.x.friend.json", &object.to_string());
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
    namespace(&cluster, "x", &json!({}));
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
        check(&near, &server, 80, who[0]);
        check(&far, &server, 80, who[1]);
        check(&near, &server, 81, at_81);
        check(a, &server, 80, true);
        check(&server, &far, 80, true);
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
