//! Which rule is named for what it allows, and what several pods with one address are.

use datapath::{
    abi::{PolicyDenial, direction},
    policy::DEFAULT_DENY,
};
use node_agent::model::objects::Kind;
use serde_json::{Value, json};

use crate::{oracle::Packet, product::Product, world::Event};

pub fn pod(name: &str, node: &str, ip: &str, labels: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
            {"name": "http", "containerPort": 8080}, {"name": "http", "containerPort": 9090},
        ]}]},
        "status": {"podIPs": [{"ip": ip}]},
    })
}

pub fn policy(name: &str, spec: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

pub fn tcp(src: &str, dst: &str, port: u16) -> Packet<'static> {
    Packet { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol: "TCP", port }
}

#[test]
fn the_first_rule_that_allows_is_named() {
    let mut node = Product::new("own");
    for object in [
        pod("x/server", "own", "10.0.0.1", json!({"app": "server"})),
        pod("x/client", "other", "10.0.0.2", json!({"app": "client"})),
        policy(
            "x/b",
            json!({"podSelector": {}, "ingress": [
                {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]},
                {"ports": [{"port": 443}]},
                {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
            ]}),
        ),
        policy(
            "x/a",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "http"}]}]}),
        ),
        policy("x/c", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]})),
    ] {
        assert_eq!(node.apply(object), "");
    }
    let name =
        |rule: Option<u32>| rule.map(|rule| node.engine.rule_name(rule).map_or("default".into(), ToString::to_string));
    for (src, port, expected) in [
        ("10.0.0.2", 80, "x/b ingress[0]"),
        ("10.0.0.2", 443, "x/b ingress[1]"),
        ("10.0.0.2", 8080, "x/a ingress[0]"),
        ("10.0.0.2", 9090, "default"),
        ("192.0.2.7", 443, "x/b ingress[1]"),
        ("192.0.2.7", 444, "x/b ingress[2]"),
        ("198.51.100.1", 443, "x/b ingress[1]"),
        ("198.51.100.1", 444, "default"),
    ] {
        assert_eq!(name(node.ingress(tcp(src, "10.0.0.1", port))).as_deref(), Some(expected), "{src} {port}");
    }
    for (dst, port, expected) in
        [("10.0.0.2", 8080, "x/c egress[0]"), ("10.0.0.2", 80, "default"), ("192.0.2.7", 8080, "default")]
    {
        assert_eq!(name(node.egress(tcp("10.0.0.1", dst, port))).as_deref(), Some(expected), "{dst} {port}");
    }
    assert_eq!(name(node.ingress(tcp("10.0.0.1", "10.0.0.2", 80))), None, "the other node's concern");
}

#[test]
fn an_address_of_two_pods_is_allowed_what_both_are() {
    let mut node = Product::new("own");
    let from = |app: &str| json!({"from": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"port": 80}]});
    for object in [
        pod("x/server", "own", "10.0.0.1", json!({"app": "server"})),
        policy("x/a", json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [from("old")]})),
        pod("x/old", "other", "10.0.0.2", json!({"app": "old"})),
    ] {
        node.apply(object);
    }
    let packet = tcp("10.0.0.2", "10.0.0.1", 80);
    assert!(node.lets_in(packet));
    node.apply(pod("x/new", "other", "10.0.0.2", json!({"app": "new"})));
    assert!(!node.lets_in(packet), "the address may be the new pod's by now");
    let gone = ("x".to_owned(), "new".to_owned());
    node.take_in(&Event::Delete(Kind::Pod, gone));
    node.commit();
    assert!(node.lets_in(packet));
}

#[test]
fn what_denies_is_named_until_it_is_gone() {
    let mut node = Product::new("own");
    let both = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    for object in [
        pod("x/server", "own", "10.0.0.1", json!({"app": "server"})),
        policy("x/b", both),
        policy("x/a", json!({"podSelector": {}, "ingress": []})),
    ] {
        assert_eq!(node.apply(object), "");
    }
    let set = node.pods[&"10.0.0.1".parse::<std::net::IpAddr>().unwrap().into()].set;
    let name = |node: &Product, direction| {
        let denied = node.engine.denied_by(&PolicyDenial::by(DEFAULT_DENY, set, direction));
        denied.map(|denied| denied.to_string())
    };
    assert_eq!(name(&node, direction::INGRESS).as_deref(), Some("default deny of ingress by x/a, x/b"));
    assert_eq!(name(&node, direction::EGRESS).as_deref(), Some("default deny of egress by x/b"));
    let counted = |direction| PolicyDenial::by(DEFAULT_DENY, set, direction);
    node.denials = [direction::INGRESS, direction::EGRESS].map(counted).into();
    for policy in ["a", "b"] {
        node.take_in(&Event::Delete(Kind::NetworkPolicy, ("x".to_owned(), policy.to_owned())));
    }
    node.commit();
    assert_eq!(node.denials.len(), 2, "a program run may still count");
    node.settle();
    assert!(node.denials.is_empty());
    assert_eq!(name(&node, direction::INGRESS), None);
}
