//! What is wrong with a policy is said with its field, allows nothing, and costs nothing else.

use serde_json::{Value, json};

use crate::{
    naming::{pod, policy, tcp},
    product::Product,
};

/// Of a policy with these rules for what comes to a server: what is said, and whether the
/// client may come to ports 80 and 81.
fn check(spec: Value, message: &str, at_80: bool, at_81: bool) {
    let mut node = Product::new("own");
    node.apply(pod("x/server", "own", "10.0.0.1", json!({"app": "server"})));
    node.apply(pod("x/client", "other", "10.0.0.2", json!({"app": "client"})));
    let said = node.apply(policy("x/p", spec.clone()));
    assert_eq!(said.is_empty(), message.is_empty(), "{spec}: {said}");
    assert!(said.contains(message), "{spec}: {said}");
    for (port, expected) in [(80, at_80), (81, at_81)] {
        assert_eq!(node.lets_in(tcp("10.0.0.2", "10.0.0.1", port)), expected, "{spec}: port {port}");
    }
}

#[test]
fn a_bad_part_allows_nothing_and_the_rest_holds() {
    let good = json!({"port": 80});
    let from = |peer: Value| json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
    let and_80 = |port: Value| json!({"podSelector": {}, "ingress": [{"ports": [port, good]}]});
    let only = |port: Value| json!({"podSelector": {}, "ingress": [{"ports": [port]}]});
    let anybody = json!({"ipBlock": {"cidr": "0.0.0.0/0"}});
    let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "app", "operator": operator, "values": values}]});
    for (spec, message, at_80, at_81) in [
        (from(anybody.clone()), "", true, true),
        (
            from(json!({"ipBlock": {"cidr": "10.0.0.0/40"}})),
            "spec.ingress[0].from[0].ipBlock.cidr: \"10.0.0.0/40\"",
            false,
            false,
        ),
        (from(json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["no"]}})), "ipBlock.except[0]: \"no\"", false, false),
        (from(json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["192.0.2.0/24"]}})), "is not within", true, true),
        (from(json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.0/16"]}})), "leaves nothing", false, false),
        (from(json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.0/24"]}})), "leaves nothing", false, false),
        (from(json!({})), "spec.ingress[0].from[0]: has none of", false, false),
        (
            from(json!({"ipBlock": {"cidr": "0.0.0.0/0"}, "podSelector": {}})),
            "has an ipBlock and a selector",
            false,
            false,
        ),
        (
            from(json!({"podSelector": expression("Is", json!(["client"]))})),
            "matchExpressions[0].operator: \"Is\"",
            false,
            false,
        ),
        (from(json!({"podSelector": expression("NotIn", json!([]))})), "matchExpressions[0].values", false, false),
        (
            from(json!({"podSelector": expression("Exists", json!(["client"]))})),
            "matchExpressions[0].values",
            false,
            false,
        ),
        (from(json!({"podSelector": "client"})), "spec.ingress[0].from[0].podSelector: invalid type", false, false),
        (
            and_80(json!({"port": 81, "protocol": "XYZ"})),
            "spec.ingress[0].ports[0].protocol: protocol \"XYZ\"",
            true,
            false,
        ),
        (only(json!({"port": 80, "protocol": "XYZ"})), "ports[0].protocol", false, false),
        (and_80(json!({"port": 90, "endPort": 81})), "ports[0].endPort: 81 is below port 90", true, false),
        (only(json!({"port": 90, "endPort": 81})), "ports[0].endPort: 81 is below port 90", false, false),
        (and_80(json!({"endPort": 81})), "ports[0].endPort: 81 goes with a port number only", true, false),
        (and_80(json!({"port": "http", "endPort": 81})), "goes with a port number only", true, false),
        (and_80(json!({"port": 0})), "ports[0].port: 0 is not between", true, false),
        (and_80(json!({"port": 65536})), "ports[0].port: 65536 is not between", true, false),
        (and_80(json!({"port": 99999999999_i64})), "ports[0].port", true, false),
        (and_80(json!({"port": true})), "ports[0].port", true, false),
        (and_80(json!({"port": "nobody-has-it"})), "", true, false),
        (only(json!({"port": "nobody-has-it"})), "", false, false),
        (from(json!({"podSelector": {"matchLabels": {"app": "nobody"}}})), "", false, false),
        (from(json!({"namespaceSelector": {"matchLabels": {"team": "nobody"}}})), "", false, false),
        (from(json!({"podSelector": {}, "namespaceSelector": {"matchLabels": {"team": "nobody"}}})), "", false, false),
        (json!({"podSelector": {"matchLabels": {"app": "nobody"}}, "ingress": []}), "", true, true),
        (from(json!({"ipBlock": {"cidr": "2001:db8::/129"}})), "ipBlock.cidr: \"2001:db8::/129\"", false, false),
        (from(json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["::/0"]}})), "is not within", true, true),
        (json!({"podSelector": {}, "ingress": [7, {"ports": [good]}]}), "spec.ingress[0]: invalid type", true, false),
        (
            json!({"podSelector": {}, "ingress": [{"from": 7}, {"ports": [good]}]}),
            "spec.ingress[0].from: invalid type",
            true,
            false,
        ),
        (json!({"podSelector": {}, "ingress": "all"}), "spec.ingress: invalid type", false, false),
        (
            json!({"podSelector": {}, "ingress": [{}], "policyTypes": ["Both"]}),
            "spec.policyTypes[0]: \"Both\"",
            true,
            true,
        ),
        (json!({"podSelector": {}, "ingress": [{}], "policyTypes": 7}), "spec.policyTypes: invalid type", true, true),
        (json!({"podSelector": expression("Is", json!([])), "ingress": [{}]}), "spec.podSelector", false, false),
        (json!({"podSelector": 7, "ingress": [{}]}), "spec.podSelector: invalid type", false, false),
        (json!(7), "spec: invalid type", false, false),
    ] {
        check(spec, message, at_80, at_81);
    }
}

/// The same of what a client sends, and the policies beside a bad one.
#[test]
fn a_bad_policy_takes_nothing_from_others_and_adds_nothing_to_them() {
    let mut node = Product::new("own");
    node.apply(pod("x/client", "own", "10.0.0.1", json!({"app": "client"})));
    node.apply(pod("x/server", "other", "10.0.0.2", json!({"app": "server"})));
    let egress = |to: Value, port: u16| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [to], "ports": [{"port": port}]}]});
    assert_eq!(node.apply(policy("x/good", egress(json!({"podSelector": {}}), 80))), "");
    let bad = [
        (json!({"ipBlock": {"cidr": "10.0.0.0/33"}}), "spec.egress[0].to[0].ipBlock.cidr"),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8x"]}}),
            "spec.egress[0].to[0].ipBlock.except[0]",
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["s"]}]}}),
            "spec.egress[0].to[0].podSelector.matchExpressions[0].operator",
        ),
    ];
    for (peer, field) in bad {
        let said = node.apply(policy("x/bad", egress(peer, 81)));
        assert!(said.contains(field), "{said}");
        assert!(node.lets_out(tcp("10.0.0.1", "10.0.0.2", 80)), "{field}: the other policy allows it");
        assert!(!node.lets_out(tcp("10.0.0.1", "10.0.0.2", 81)), "{field}: nobody does");
    }
}

#[test]
fn ten_thousand_selectors_in_one_policy() {
    let mut node = Product::new("own");
    node.apply(pod("x/server", "own", "10.0.0.1", json!({"app": "server"})));
    node.apply(pod("x/client", "other", "10.0.0.2", json!({"app": "app-9999"})));
    node.apply(pod("x/stranger", "other", "10.0.0.3", json!({"app": "stranger"})));
    let peers: Vec<Value> =
        (0..10_000).map(|n| json!({"podSelector": {"matchLabels": {"app": format!("app-{n}")}}})).collect();
    let began = std::time::Instant::now();
    assert_eq!(node.apply(policy("x/p", json!({"podSelector": {}, "ingress": [{"from": peers}]}))), "");
    println!("10,000 selectors: {:?}", began.elapsed());
    assert!(node.lets_in(tcp("10.0.0.2", "10.0.0.1", 80)));
    assert!(!node.lets_in(tcp("10.0.0.3", "10.0.0.1", 80)));
}

#[test]
fn ten_thousand_peers_in_one_policy() {
    let mut node = Product::new("own");
    node.apply(pod("x/server", "own", "10.0.0.1", json!({"app": "server"})));
    let peers: Vec<Value> = (0..10_000)
        .map(|n| json!({"ipBlock": {"cidr": format!("172.{}.{}.{}/32", 16 + n / 62_500, n / 250 % 250, n % 250)}}))
        .collect();
    let began = std::time::Instant::now();
    assert_eq!(node.apply(policy("x/p", json!({"podSelector": {}, "ingress": [{"from": peers}]}))), "");
    println!("10,000 peers: {:?}", began.elapsed());
    assert!(node.lets_in(tcp("172.16.39.249", "10.0.0.1", 80)));
    assert!(!node.lets_in(tcp("172.16.40.0", "10.0.0.1", 80)));
    assert_eq!(node.engine.sizes().networks, 10_000);
}
