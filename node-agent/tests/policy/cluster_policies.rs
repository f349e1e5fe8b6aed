//! ClusterNetworkPolicies: who is named for a verdict, and what becomes of bad fields.

use datapath::{abi::PolicyVerdict, policy::is_allowed};
use node_agent::policy::RuleName;
use serde_json::{Value, json};

use crate::{
    naming::{pod, policy, tcp},
    product::Product,
};

fn cluster_policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn everybody() -> Value {
    json!({"namespaces": {}})
}

fn ingress(tier: &str, priority: u16, rules: Value) -> Value {
    json!({"tier": tier, "priority": priority, "subject": everybody(), "ingress": rules})
}

fn node() -> Product {
    let mut node = Product::new("own");
    for object in [
        pod("x/server", "own", "10.0.0.1", json!({"app": "server"})),
        pod("x/client", "other", "10.0.0.2", json!({"app": "client"})),
        pod("x/other", "other", "10.0.0.3", json!({"app": "other"})),
    ] {
        assert_eq!(node.apply(object), "");
    }
    node
}

#[test]
fn tiers_decide_in_their_order_and_are_named() {
    let mut node = node();
    let is = |app: &str| json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}});
    let at = |port: u16| json!([{"tcp": {"destinationPort": {"number": port}}}]);
    for object in [
        cluster_policy(
            "admin",
            ingress(
                "Admin",
                5,
                json!([
                    {"action": "Pass", "from": [is("client")], "protocols": at(80)},
                    {"action": "Accept", "from": [is("client")], "protocols": at(81)},
                    {"action": "Deny", "from": [is("client")]},
                ]),
            ),
        ),
        cluster_policy(
            "baseline",
            ingress("Baseline", 0, json!([{"action": "Deny", "from": [everybody()], "protocols": at(80)}])),
        ),
    ] {
        assert_eq!(node.apply(object), "");
    }
    let check = |node: &Product, expected: [(&str, u16, &str); 5]| {
        for (src, port, expected) in expected {
            let said = node.ingress(tcp(src, "10.0.0.1", port)).unwrap();
            let name = node.engine.rule_name(said & !PolicyVerdict::DENY).map(RuleName::to_string);
            let verb = if is_allowed(said) { "allowed" } else { "denied" };
            assert_eq!(format!("{verb} by {}", name.as_deref().unwrap_or("default")), expected, "{src} {port}");
        }
    };
    check(
        &node,
        [
            ("10.0.0.2", 80, "denied by baseline ingress[0]"),
            ("10.0.0.2", 81, "allowed by admin ingress[1]"),
            ("10.0.0.2", 82, "denied by admin ingress[2]"),
            ("10.0.0.3", 80, "denied by baseline ingress[0]"),
            ("10.0.0.3", 82, "allowed by default"),
        ],
    );
    node.apply(policy("x/np", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})));
    check(
        &node,
        [
            ("10.0.0.2", 80, "allowed by x/np ingress[0]"),
            ("10.0.0.2", 81, "allowed by admin ingress[1]"),
            ("10.0.0.2", 82, "denied by admin ingress[2]"),
            ("10.0.0.3", 82, "denied by default"),
            ("192.0.2.1", 80, "allowed by x/np ingress[0]"),
        ],
    );
}

/// What is said of a policy, and whether the client may come to the server's ports 80 and 81.
fn check(spec: Value, message: &str, at_80: bool, at_81: bool) {
    let mut node = node();
    let said = node.apply(cluster_policy("p", spec.clone()));
    assert_eq!(said.is_empty(), message.is_empty(), "{spec}: {said}");
    assert!(said.contains(message), "{spec}: {said}");
    for (port, expected) in [(80, at_80), (81, at_81)] {
        assert_eq!(node.lets_in(tcp("10.0.0.2", "10.0.0.1", port)), expected, "{spec}: port {port}");
    }
}

#[test]
fn what_cannot_be_read_fails_closed() {
    let rule = |action: &str, peer: Value, protocol: Value| json!([{"action": action, "from": [peer], "protocols": [protocol]}]);
    let one = |action: &str, peer: Value, protocol: Value| ingress("Admin", 1, rule(action, peer, protocol));
    let port = |number: Value| json!({"tcp": {"destinationPort": {"number": number}}});
    let range = |start: u32, end: u32| json!({"tcp": {"destinationPort": {"range": {"start": start, "end": end}}}});
    let wrong = json!({"matchExpressions": [{"key": "app", "operator": "Is"}]});
    let behind = |first: Value| {
        let deny = json!({"action": "Deny", "from": [everybody()]});
        ingress("Admin", 1, json!([first, deny]))
    };
    let accept = |peer: Value| behind(json!({"action": "Accept", "from": [peer]}));
    let with = |field: &str, value: Value| {
        let mut spec = one("Deny", everybody(), port(json!(80)));
        spec[field] = value;
        spec
    };
    for (spec, message, at_80, at_81) in [
        (one("Deny", everybody(), port(json!(80))), "", false, true),
        (one("Deny", everybody(), range(80, 81)), "", false, false),
        (one("Deny", everybody(), json!({"destinationNamedPort": "http"})), "", true, true),
        (one("Deny", everybody(), port(json!(0))), "spec.ingress[0].protocols[0]: destinationPort", false, false),
        (one("Deny", everybody(), range(81, 80)), "no port or range", false, false),
        (one("Deny", everybody(), json!({"icmp": {}})), "icmp is not supported", false, false),
        (one("Pass", json!({"asns": [1]}), port(json!(80))), "from[0]: asns is not supported", false, false),
        (one("Deny", json!({}), port(json!(80))), "from[0]: must have exactly one field", false, false),
        (one("Deny", json!({"namespaces": wrong}), port(json!(80))), "matchExpressions[0].operator", false, false),
        (one("Allow", everybody(), port(json!(80))), "spec.ingress[0].action: \"Allow\"", false, true),
        (ingress("Admin", 1, json!([{"action": "Deny"}])), "spec.ingress[0].from: has no peer", false, false),
        (ingress("Admin", 1, json!("all")), "spec.ingress: is not a list", false, false),
        (accept(everybody()), "", true, true),
        (accept(json!({"networks": ["10.0.0.0/8"]})), "from[0]: networks is not supported", false, false),
        (with("tier", json!("Base")), "spec.tier: \"Base\"", false, true),
        (with("priority", json!(1001)), "spec.priority: 1001", false, true),
        (with("subject", json!({"nodes": {}})), "spec.subject: nodes is not supported", false, true),
    ] {
        check(spec, message, at_80, at_81);
    }
    let mut unsure = accept(everybody());
    unsure["priority"] = json!("first");
    check(unsure, "accepts nothing", false, false);
}
