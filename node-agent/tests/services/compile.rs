//! What one Service compiles to.

use std::net::SocketAddr;

use datapath::abi::{Be16, Family, FrontendKey, protocol};
use node_agent::model::objects::{Endpoint, EndpointSlice, Protocol, Service, ServicePort, ServiceType, TrafficPolicy};

use crate::cluster::{addr, compiled, endpoint, leaving, service, slice};

/// The endpoints of each port, as `family/port: endpoint …`.
fn check(service: &Service, slices: &[EndpointSlice], expected: &[&str]) {
    let show = |service: &Service, slices: &[EndpointSlice]| -> Vec<String> {
        let ports = compiled(service, slices).ports;
        let lines = ports.iter().map(|port| {
            let endpoints = port.endpoints.iter().map(|e| format!(" {}", SocketAddr::new(e.addr.into(), e.port.get())));
            format!("{:?}/{}:{}", port.family, port.port, endpoints.collect::<String>())
        });
        lines.collect()
    };
    assert_eq!(show(service, slices), expected);
    let reversed: Vec<_> = slices.iter().rev().cloned().collect();
    assert_eq!(show(service, &reversed), expected, "the slices' order counts");
}

#[test]
fn slices_are_joined_by_port_name_and_family() {
    let v4 = slice("s1", "web", &[("80", 8080), ("81", 8181)], vec![endpoint("10.0.0.2"), endpoint("10.0.0.1")]);
    let other_number = slice("s2", "web", &[("80", 9090)], vec![endpoint("10.0.0.1")]);
    let v6 = slice("s3", "web", &[("80", 8080)], vec![endpoint("fd00::1")]);
    let dual = service("web", &["172.30.0.1", "fd30::1"], &[80, 81]);
    let both = [v4, other_number, v6];
    check(
        &dual,
        &both,
        &[
            "V4/80: 10.0.0.1:8080 10.0.0.1:9090 10.0.0.2:8080",
            "V6/80: [fd00::1]:8080",
            "V4/81: 10.0.0.1:8181 10.0.0.2:8181",
            "V6/81:",
        ],
    );
    check(&service("web", &["fd30::1"], &[80]), &both, &["V6/80: [fd00::1]:8080"]);
}

#[test]
fn a_port_of_another_protocol_is_another_port() {
    let mut both = service("dns", &["172.30.0.1"], &[53]);
    both.ports.push(ServicePort { protocol: Protocol::Udp, ..both.ports[0].clone() });
    let mut udp = slice("s1", "dns", &[("53", 5353)], vec![endpoint("10.0.0.1")]);
    udp.ports[0].protocol = Protocol::Udp;
    check(&both, &[udp], &["V4/53:", "V4/53: 10.0.0.1:5353"]);
}

#[test]
fn of_duplicates_the_last_that_stays_counts() {
    let ports = [("80", 80)];
    let of = |name: &str, e: Endpoint| slice(name, "web", &ports, vec![e]);
    let unready = Endpoint { ready: false, serving: false, ..endpoint("10.0.0.1") };
    let (ready, going) = (endpoint("10.0.0.1"), leaving("10.0.0.1", false));
    let web = service("web", &["172.30.0.1"], &[80]);
    let there = &["V4/80: 10.0.0.1:80"];
    let gone = &["V4/80:"];
    let table = [
        (vec![unready.clone(), ready.clone()], there),
        (vec![ready.clone(), unready.clone()], gone),
        (vec![ready.clone(), going.clone()], there),
        (vec![going.clone(), ready.clone()], there),
        (vec![going.clone(), ready.clone(), going.clone()], there),
        (vec![going.clone(), going], gone),
    ];
    for (conditions, expected) in table {
        let slices: Vec<_> = conditions.into_iter().enumerate().map(|(i, e)| of(&format!("s{i}"), e)).collect();
        check(&web, &slices, expected);
    }
}

#[test]
fn what_is_not_for_this_proxy_compiles_to_nothing() {
    let web = || service("web", &["172.30.0.1"], &[80]);
    let table = [
        Service { cluster_ips: vec![], ..web() },
        Service { foreign: true, ..web() },
        Service { service_type: ServiceType::ExternalName, ..web() },
    ];
    for object in table {
        let slices = [slice("s1", "web", &[("80", 80)], vec![endpoint("10.0.0.1")])];
        assert!(compiled(&object, &slices).is_empty(), "{object:?}");
    }
}

#[test]
fn frontends_and_flags() {
    let mut web = service("web", &["172.30.0.1", "172.30.0.1"], &[80, 80]);
    web.affinity_seconds = Some(30);
    web.internal_policy = TrafficPolicy::Local;
    let here = Endpoint { node: crate::cluster::node().name, ..leaving("10.0.0.2", true) };
    let dead = leaving("10.0.0.3", false);
    let got = compiled(&web, &[slice("s1", "web", &[("80", 80)], vec![endpoint("10.0.0.1"), here, dead])]);
    let address = addr("172.30.0.1").into();
    assert_eq!(got.addresses, [address]);
    let [port] = &got.ports[..] else { panic!("duplicates count once: {got:?}") };
    assert_eq!((port.identity(), port.affinity_seconds), ((Family::V4, protocol::TCP, 80), 30));
    let keys: Vec<_> = port.frontends.iter().map(|f| f.key).collect();
    assert_eq!(keys, [FrontendKey::new(address, Be16::new(80), protocol::TCP)]);
    let endpoints: Vec<_> = port.endpoints.iter().map(|e| (e.cluster, e.local, e.on_node)).collect();
    assert_eq!(endpoints, [(true, false, false), (false, true, true)]);
}
