use std::net::IpAddr;

use serde_json::json;

use super::*;
use crate::model::objects::{
    Endpoint, EndpointPort, EndpointSlice, LoadBalancerIngress, Node, Pod, Protocol, Service, ServiceCidr, ServicePort,
    ServiceType, TrafficPolicy,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn networks(texts: &[&str]) -> Vec<ipnetwork::IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The object that a manifest of this kind gives, and what is said of it.
fn read(kind: Kind, mut manifest: Value) -> (Option<Object>, String) {
    if manifest.pointer("/metadata/name").is_none() {
        manifest["metadata"]["name"] = "x".into();
    }
    let trimmed = trim_kind(kind, manifest);
    (trimmed.object, trimmed.message)
}

fn key() -> ObjectKey {
    ObjectKey::new("default", "x")
}

fn plain_service() -> Service {
    Service {
        key: key(),
        created: 0,
        service_type: ServiceType::ClusterIp,
        foreign: false,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer: Vec::new(),
        source_ranges: Vec::new(),
        unread_source_ranges: false,
        ports: Vec::new(),
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
        annotations: Vec::new(),
    }
}

#[test]
fn a_service_in_full() {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "web", "namespace": "shop", "creationTimestamp": "2026-11-22T05:00:00Z", "resourceVersion": "17",
            "annotations": {"fairlead.io/b": "2", "fairlead.io/a": "1", "other": "3"},
            "labels": {"app": "web"},
        },
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": ["203.0.113.0/25"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 30}},
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"hostname": "lb.example.com"},
        ]}},
    });
    let trimmed = trim_kind(Kind::Service, manifest);
    assert_eq!((trimmed.version.as_str(), trimmed.message.as_str()), ("17", ""));
    let expected = Service {
        key: ObjectKey::new("shop", "web"),
        created: 1_795_323_600,
        service_type: ServiceType::LoadBalancer,
        foreign: false,
        cluster_ips: ips(&["10.0.0.1", "fd00::1"]),
        external_ips: ips(&["192.0.2.1"]),
        load_balancer: vec![
            LoadBalancerIngress { ip: ip("198.51.100.1"), proxy: false },
            LoadBalancerIngress { ip: ip("198.51.100.2"), proxy: true },
        ],
        source_ranges: networks(&["203.0.113.0/25"]),
        unread_source_ranges: false,
        ports: vec![
            ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 30080 },
            ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: 0 },
        ],
        affinity_seconds: Some(30),
        internal_policy: TrafficPolicy::Local,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 30001,
        annotations: vec![("fairlead.io/a".into(), "1".into()), ("fairlead.io/b".into(), "2".into())],
    };
    assert_eq!(trimmed.object, Some(expected.into()));
}

#[test]
fn services() {
    let port = |number| ServicePort { name: "".into(), protocol: Protocol::Tcp, port: number, node_port: 0 };
    let addresses = |cluster_ips: &[&str]| Service { cluster_ips: ips(cluster_ips), ..plain_service() };
    let ports = |ports| Service { ports, ..plain_service() };
    let affinity = |seconds| Service { affinity_seconds: seconds, ..plain_service() };
    let ranges = |ranges: &[&str], unread| Service {
        source_ranges: networks(ranges),
        unread_source_ranges: unread,
        ..plain_service()
    };
    for (spec, expected, message) in [
        (json!({}), plain_service(), ""),
        (json!({"clusterIP": "10.0.0.1"}), addresses(&["10.0.0.1"]), ""),
        (json!({"clusterIP": "10.0.0.1", "clusterIPs": []}), addresses(&["10.0.0.1"]), ""),
        (json!({"clusterIPs": ["fd00::1", "10.0.0.1"]}), addresses(&["fd00::1", "10.0.0.1"]), ""),
        (json!({"clusterIP": "172.30.0.041", "clusterIPs": ["172.30.0.041"]}), addresses(&["172.30.0.41"]), ""),
        (json!({"clusterIP": "None"}), plain_service(), ""),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), plain_service(), ""),
        (json!({"clusterIP": ""}), plain_service(), ""),
        (
            json!({"clusterIPs": ["10.0.0.1", "10.0.0.999"]}),
            addresses(&["10.0.0.1"]),
            "spec.clusterIPs[1]: \"10.0.0.999\" is not an IP address, left out",
        ),
        (json!({"type": "ExternalName"}), Service { service_type: ServiceType::ExternalName, ..plain_service() }, ""),
        (json!({"type": "NodePort"}), Service { service_type: ServiceType::NodePort, ..plain_service() }, ""),
        (
            json!({"type": "Magic"}),
            plain_service(),
            "spec.type: \"Magic\" is none of ClusterIP, NodePort, LoadBalancer, ExternalName, the default is taken",
        ),
        (
            json!({"internalTrafficPolicy": "Near"}),
            plain_service(),
            "spec.internalTrafficPolicy: \"Near\" is none of Cluster, Local, the default is taken",
        ),
        (json!({"ports": [{"port": 65535}, {"port": 1}]}), ports(vec![port(65535), port(1)]), ""),
        (
            json!({"ports": [{"port": 0}, {"port": 80}, {"port": 65536}, {"port": -1}]}),
            ports(vec![port(80)]),
            "spec.ports[0].port: 0 is not between 1 and 65535, left out; \
             spec.ports[2].port: 65536 is not between 1 and 65535, left out; \
             spec.ports[3].port: -1 is not between 1 and 65535, left out",
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "QUIC"}, {"port": 81, "protocol": "SCTP"}]}),
            ports(vec![ServicePort { protocol: Protocol::Sctp, ..port(81) }]),
            "spec.ports[0].protocol: protocol \"QUIC\" is none of TCP, UDP and SCTP, left out",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 70000}]}),
            ports(vec![port(80)]),
            "spec.ports[0].nodePort: 70000 is not between 1 and 65535, left out",
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}, {"port": 80, "protocol": "UDP"}]}),
            ports(vec![
                ServicePort { name: "a".into(), ..port(80) },
                ServicePort { protocol: Protocol::Udp, ..port(80) },
            ]),
            "spec.ports[1].port: 80 stands there twice with the same protocol, left out",
        ),
        (json!({"sessionAffinity": "None"}), affinity(None), ""),
        (json!({"sessionAffinity": "ClientIP"}), affinity(Some(10800)), ""),
        (json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {}}), affinity(Some(10800)), ""),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            affinity(Some(10800)),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not above 0, 10800 is taken",
        ),
        (json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}), affinity(None), ""),
        (
            json!({"loadBalancerSourceRanges": ["192.168.0.0/24", " 203.0.113.000/025 "]}),
            ranges(&["192.168.0.0/24", "203.0.113.0/25"], false),
            "",
        ),
        (
            json!({"loadBalancerSourceRanges": ["everyone"]}),
            ranges(&[], true),
            "spec.loadBalancerSourceRanges[0]: \"everyone\" is not a CIDR, left out",
        ),
        (json!({"loadBalancerSourceRanges": []}), plain_service(), ""),
        (
            json!({"externalIPs": ["192.168.099.022", "192.168.99.22"]}),
            Service { external_ips: ips(&["192.168.99.22"]), ..plain_service() },
            "",
        ),
    ] {
        let text = spec.to_string();
        let found = read(Kind::Service, json!({"metadata": {}, "spec": spec}));
        assert_eq!(found, (Some(expected.into()), message.to_owned()), "{text}");
    }
}

#[test]
fn labels_by_which_kube_proxy_passes_over() {
    for (labels, foreign, headless) in [
        (json!({}), false, false),
        (json!({"app": "web"}), false, false),
        (json!({"service.kubernetes.io/service-proxy-name": "other"}), true, false),
        (json!({"service.kubernetes.io/service-proxy-name": ""}), true, false),
        (json!({"service.kubernetes.io/headless": ""}), false, true),
    ] {
        let metadata = json!({"labels": labels});
        let service = read(Kind::Service, json!({"metadata": metadata})).0;
        assert_eq!(service, Some(Service { foreign, ..plain_service() }.into()), "{metadata}");
        let slice = read(Kind::EndpointSlice, json!({"metadata": metadata, "addressType": "IPv4"})).0;
        assert_eq!(slice.is_none(), headless, "{metadata}");
    }
}

fn plain_endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        ready: true,
        serving: true,
        terminating: false,
        node: "".into(),
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

#[test]
fn endpoints() {
    let one = |endpoint| vec![endpoint];
    let conditions =
        |ready, serving, terminating| vec![Endpoint { ready, serving, terminating, ..plain_endpoint("10.0.0.1") }];
    let a = json!(["10.0.0.1"]);
    for (address_type, endpoint, expected, message) in [
        ("IPv4", json!({"addresses": a}), one(plain_endpoint("10.0.0.1")), ""),
        ("IPv4", json!({"addresses": ["10.180.00.001"]}), one(plain_endpoint("10.180.0.1")), ""),
        ("IPv4", json!({"addresses": ["10.0.0.1", "10.0.0.2"]}), one(plain_endpoint("10.0.0.1")), ""),
        ("IPv6", json!({"addresses": ["fd00::1"]}), one(plain_endpoint("fd00::1")), ""),
        ("IPv4", json!({"addresses": a, "conditions": {}}), conditions(true, true, false), ""),
        ("IPv4", json!({"addresses": a, "conditions": {"ready": false}}), conditions(false, true, false), ""),
        (
            "IPv4",
            json!({"addresses": a, "conditions": {"ready": false, "serving": true, "terminating": true}}),
            conditions(false, true, true),
            "",
        ),
        (
            "IPv4",
            json!({"addresses": a, "conditions": {"ready": null, "serving": false, "terminating": null}}),
            conditions(true, false, false),
            "",
        ),
        (
            "IPv4",
            json!({
                "addresses": a, "nodeName": "n1", "zone": "z",
                "hints": {"forZones": [{"name": "b"}, {"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]},
            }),
            one(Endpoint {
                node: "n1".into(),
                zone_hints: ["a".into(), "b".into()].into(),
                node_hints: ["n1".into()].into(),
                ..plain_endpoint("10.0.0.1")
            }),
            "",
        ),
        ("IPv4", json!({"addresses": []}), vec![], "endpoints[0].addresses: is empty, the endpoint is left out"),
        (
            "IPv4",
            json!({"addresses": ["nonsense"]}),
            vec![],
            "endpoints[0].addresses[0]: \"nonsense\" is not an IP address, left out",
        ),
        (
            "IPv4",
            json!({"addresses": ["fd00::1"]}),
            vec![],
            "endpoints[0].addresses[0]: \"fd00::1\" is not of the slice's addressType, left out",
        ),
        (
            "IPv6",
            json!({"addresses": ["::ffff:10.0.0.1"]}),
            vec![],
            "endpoints[0].addresses[0]: \"::ffff:10.0.0.1\" is not of the slice's addressType, left out",
        ),
    ] {
        let text = endpoint.to_string();
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "addressType": address_type,
            "endpoints": [endpoint],
            "ports": [],
        });
        let expected = EndpointSlice {
            key: key(),
            service: "web".into(),
            ipv6: address_type == "IPv6",
            ports: Vec::new(),
            endpoints: expected,
            triggered: 0,
        };
        assert_eq!(read(Kind::EndpointSlice, slice), (Some(expected.into()), message.to_owned()), "{text}");
    }
}

#[test]
fn when_endpoints_changed() {
    for (text, expected) in [("2026-11-22T05:00:00.25Z", 1_795_323_600_250_000), ("", 0), ("yesterday", 0)] {
        let annotations = json!({"endpoints.kubernetes.io/last-change-trigger-time": text});
        let slice = json!({"metadata": {"annotations": annotations}, "addressType": "IPv4", "endpoints": []});
        let (object, message) = read(Kind::EndpointSlice, slice);
        let Some(Object::EndpointSlice(slice)) = object else { panic!("{object:?}") };
        assert_eq!((slice.triggered, message.as_str()), (expected, ""), "{text}");
    }
}

#[test]
fn endpoint_slices_and_their_ports() {
    let port = |name: &str, protocol, port| EndpointPort { name: name.into(), protocol, port };
    let slice = |ports| {
        let slice =
            EndpointSlice { key: key(), service: "".into(), ipv6: false, ports, endpoints: Vec::new(), triggered: 0 };
        Some(Object::from(slice))
    };
    for (manifest, expected, message) in [
        (json!({"addressType": "IPv4"}), slice(vec![]), ""),
        (json!({"addressType": "IPv4", "endpoints": null, "ports": null}), slice(vec![]), ""),
        (json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}), None, ""),
        (
            json!({"addressType": "IPX"}),
            None,
            "addressType: \"IPX\" is none of IPv4, IPv6 and FQDN, the object is left out",
        ),
        (
            json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
            slice(vec![port("", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)]),
            "",
        ),
        (json!({"addressType": "IPv4", "ports": [{"name": "all", "port": null}]}), slice(vec![]), ""),
        (
            json!({"addressType": "IPv4", "ports": [{"port": 0}, {"port": 80, "protocol": "x"}]}),
            slice(vec![]),
            "ports[0].port: 0 is not between 1 and 65535, left out; \
             ports[1].protocol: protocol \"x\" is none of TCP, UDP and SCTP, left out",
        ),
    ] {
        let text = manifest.to_string();
        assert_eq!(read(Kind::EndpointSlice, manifest), (expected, message.to_owned()), "{text}");
    }
}

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

#[test]
fn service_cidrs() {
    let manifest = json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00::/112", "x"]}});
    let expected = ServiceCidr { key: ObjectKey::new("", "x"), cidrs: networks(&["10.96.0.0/16", "fd00::/112"]) };
    let message = "spec.cidrs[2]: \"x\" is not a CIDR, left out".to_owned();
    assert_eq!(read(Kind::ServiceCidr, manifest), (Some(expected.into()), message));
}

#[test]
fn an_object_that_cannot_be_read_is_named() {
    for (manifest, expected) in [
        (json!({"metadata": {"name": "x", "labels": {"a": 1}}}), "metadata.labels.a: invalid type: integer `1`"),
        (json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": "80"}]}}), "spec.ports[0].port: invalid type"),
        (json!({"metadata": {"name": "x"}, "spec": []}), "spec: invalid type: sequence"),
        (json!({"metadata": {"name": ""}}), "metadata.name: is missing"),
        (json!({"metadata": []}), "metadata.name: is missing"),
        (json!("x"), "metadata.name: is missing"),
    ] {
        let text = manifest.to_string();
        let trimmed = trim_kind(Kind::Service, manifest);
        assert_eq!(trimmed.object, None, "{text}");
        assert!(trimmed.message.starts_with(expected), "{text}: {}", trimmed.message);
        assert!(trimmed.message.ends_with("the object is left out"), "{text}: {}", trimmed.message);
    }
}

#[test]
fn many_findings_are_cut_short() {
    let ports: Vec<Value> = (0..100).map(|_| json!({"port": 0})).collect();
    let message = read(Kind::Service, json!({"metadata": {}, "spec": {"ports": ports}})).1;
    assert!(message.ends_with("spec.ports[4].port: 0 is not between 1 and 65535, left out; and 95 more"), "{message}");
}
