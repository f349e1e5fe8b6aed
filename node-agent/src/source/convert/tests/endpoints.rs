//! Endpoints and their slices, as manifests have them.

use serde_json::json;

use super::*;

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
