//! Services and ServiceCIDRs, as manifests have them.

use serde_json::json;

use super::*;

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

#[test]
fn service_cidrs() {
    let manifest = json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00::/112", "x"]}});
    let expected = ServiceCidr { key: ObjectKey::new("", "x"), cidrs: networks(&["10.96.0.0/16", "fd00::/112"]) };
    let message = "spec.cidrs[2]: \"x\" is not a CIDR, left out".to_owned();
    assert_eq!(read(Kind::ServiceCidr, manifest), (Some(expected.into()), message));
}
