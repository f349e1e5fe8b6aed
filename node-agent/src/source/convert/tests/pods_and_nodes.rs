//! Pods and Nodes, as manifests have them.

use serde_json::json;

use super::*;

#[test]
fn pods() {
    let plain = || Pod {
        key: key(),
        node: "".into(),
        ips: Vec::new(),
        host_network: false,
        finished: false,
        labels: Vec::new(),
        named_ports: Vec::new(),
    };
    let named = |name: &str, protocol, port| EndpointPort { name: name.into(), protocol, port };
    for (manifest, expected, message) in [
        (json!({}), plain(), ""),
        (
            json!({
                "metadata": {"labels": {"b": "2", "a": "1"}},
                "spec": {"containers": [], "nodeName": "n1", "hostNetwork": true},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
            }),
            Pod {
                node: "n1".into(),
                ips: ips(&["10.0.0.1", "fd00::1"]),
                host_network: true,
                labels: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
                ..plain()
            },
            "",
        ),
        (json!({"status": {"podIP": "10.0.0.1"}}), Pod { ips: ips(&["10.0.0.1"]), ..plain() }, ""),
        (json!({"status": {"podIP": ""}}), plain(), ""),
        (json!({"status": {"podIP": "x"}}), plain(), "status.podIP[0]: \"x\" is not an IP address, left out"),
        (json!({"status": {"phase": "Succeeded"}}), Pod { finished: true, ..plain() }, ""),
        (json!({"status": {"phase": "Failed"}}), Pod { finished: true, ..plain() }, ""),
        (json!({"status": {"phase": "Pending"}}), plain(), ""),
        (
            json!({"spec": {
                "containers": [
                    {"name": "a", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]},
                    {"name": "b", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
                ],
                "initContainers": [
                    {"name": "c", "ports": [{"name": "early", "containerPort": 1}]},
                    {"name": "d", "restartPolicy": "Always", "ports": [
                        {"name": "side", "containerPort": 90}, {"name": "bad", "containerPort": 0},
                    ]},
                ],
            }}),
            Pod {
                named_ports: vec![
                    named("http", Protocol::Tcp, 80),
                    named("dns", Protocol::Udp, 53),
                    named("side", Protocol::Tcp, 90),
                ],
                ..plain()
            },
            "spec.initContainers[1].ports[1].containerPort: 0 is not between 1 and 65535, left out",
        ),
    ] {
        let text = manifest.to_string();
        assert_eq!(read(Kind::Pod, manifest), (Some(expected.into()), message.to_owned()), "{text}");
    }
}

#[test]
fn nodes() {
    let plain = || Node {
        key: ObjectKey::new("", "x"),
        created: 0,
        pod_cidrs: Vec::new(),
        addresses: Vec::new(),
        zone: "".into(),
        deleting: false,
    };
    for (manifest, expected, message) in [
        (json!({}), plain(), ""),
        (
            json!({
                "metadata": {
                    "creationTimestamp": "1970-01-01T00:01:00Z",
                    "labels": {"topology.kubernetes.io/zone": "z1"},
                },
                "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]},
                "status": {"addresses": [
                    {"type": "ExternalIP", "address": "192.0.2.1"},
                    {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": "192.168.0.2"},
                    {"type": "InternalIP", "address": "fd00::2"},
                ]},
            }),
            Node {
                created: 60,
                pod_cidrs: networks(&["10.1.0.0/24", "fd00:1::/64"]),
                addresses: ips(&["192.168.0.2", "fd00::2", "192.0.2.1"]),
                zone: "z1".into(),
                ..plain()
            },
            "",
        ),
        (json!({"spec": {"podCIDR": "10.1.0.0/24"}}), Node { pod_cidrs: networks(&["10.1.0.0/24"]), ..plain() }, ""),
        (json!({"spec": {"podCIDRs": ["x"]}}), plain(), "spec.podCIDRs[0]: \"x\" is not a CIDR, left out"),
        (json!({"metadata": {"deletionTimestamp": "2026-11-22T05:00:00Z"}}), Node { deleting: true, ..plain() }, ""),
        (
            json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
            Node { deleting: true, ..plain() },
            "",
        ),
        (json!({"spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}}), plain(), ""),
    ] {
        let text = manifest.to_string();
        assert_eq!(read(Kind::Node, manifest), (Some(expected.into()), message.to_owned()), "{text}");
    }
}
