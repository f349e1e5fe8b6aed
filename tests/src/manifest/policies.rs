//! Many NetworkPolicies, and the pods that they are about.

use serde_json::{Value, json};

/// How many policies.
pub const POLICIES: usize = 1000;
/// Pods of the node, and of others.
pub const LOCAL_PODS: usize = 200;
/// Pods of other nodes.
pub const REMOTE_PODS: usize = 20_000;
/// Values of the label `app`.
pub const APPS: usize = 40;
const NAMESPACES: usize = 50;
const RELABELLED: &str = "special";

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

/// A manifest of policies that select every pod of the default namespace, of which the last
/// alone lets them reach each other.
pub fn upon_everybody() -> String {
    let spec = |number: usize| {
        let peer = match number {
            POLICIES => json!({"podSelector": {}}),
            _ => json!({"podSelector": {"matchLabels": {"number": number.to_string()}}}),
        };
        json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [peer]}], "egress": [{"to": [peer]}],
        })
    };
    let policies: Vec<Value> =
        (1..=POLICIES).map(|number| policy("default", &format!("p-{number:04}"), &spec(number))).collect();
    list(&policies)
}

/// The pod of a number, of which the first [`LOCAL_PODS`] are on the node.
fn pod(number: usize, node: &str, label: &str) -> Value {
    let ip = format!("10.{}.{}.{}", 200 + number / 62_500, number / 250 % 250, number % 250);
    let node = if number < LOCAL_PODS { node } else { "elsewhere" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": format!("ns-{}", number % NAMESPACES), "name": format!("pod-{number}"), "labels": {
            "app": format!("app-{}", app_of(number)), "pod": label, "tier": format!("t{}", number % 3),
        }},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"podIPs": [{"ip": ip}]},
    })
}

fn app_of(number: usize) -> usize {
    number / NAMESPACES % APPS
}

fn policy_at_scale(number: usize) -> Value {
    if number == 0 {
        let special = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": RELABELLED}}});
        return policy("ns-0", "policy-0", &json!({"podSelector": {}, "ingress": [{"from": [special]}]}));
    }
    let friend = json!({"podSelector": {"matchLabels": {"app": format!("app-{}", number % APPS)}}});
    let other = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": format!("ns-{}", number * 7 % NAMESPACES)}},
        "podSelector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": [format!("t{}", number % 3)]}]},
    });
    let except = format!("10.{}.{}.0/24", 200 + number % 4, number % 250);
    let block = json!({"ipBlock": {"cidr": format!("10.{}.0.0/16", 200 + number % 4), "except": [except]}});
    let ports = json!([{"port": 80}, {"port": 8000 + number % 100, "endPort": 8200}]);
    let spec = json!({
        "podSelector": {"matchLabels": {"app": format!("app-{}", app_of(number) % 4)}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [friend, other], "ports": ports}],
        "egress": [
            {"to": [block], "ports": [{"port": 443}]}, {"to": [other], "ports": [{"port": "http"}]},
            {"ports": [{"port": 53, "protocol": "UDP"}]},
        ],
    });
    policy(&format!("ns-{}", number % NAMESPACES), &format!("policy-{number}"), &spec)
}

/// [`POLICIES`], [`LOCAL_PODS`] on the node of this name, and [`REMOTE_PODS`].
pub fn at_scale(node: &str) -> Vec<Value> {
    let pods = (0..LOCAL_PODS + REMOTE_PODS).map(|number| pod(number, node, "usual"));
    pods.chain((0..POLICIES).map(policy_at_scale)).collect()
}

/// The same as files, in which each pod that [`relabelled`] may name has one of its own.
pub fn files(node: &str) -> Vec<(String, String)> {
    let of_own = |number: usize| (file(number), pod(LOCAL_PODS + number, node, "usual").to_string());
    let local: Vec<Value> = (0..LOCAL_PODS).map(|number| pod(number, node, "usual")).collect();
    let policies: Vec<Value> = (0..POLICIES).map(policy_at_scale).collect();
    let lists = [("local.json".to_owned(), list(&local)), ("policies.json".to_owned(), list(&policies))];
    lists.into_iter().chain((0..REMOTE_PODS).map(of_own)).collect()
}

fn file(number: usize) -> String {
    format!("pod.{number}.json")
}

/// The file of a pod of another node, and what it says once it has a label by which a policy asks for it.
pub fn relabelled(number: usize) -> (String, Value) {
    (file(number), pod(LOCAL_PODS + number, "", RELABELLED))
}
