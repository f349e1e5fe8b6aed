//! What one Service compiles to.

use std::net::SocketAddr;

use datapath::abi::{Be16, Family, FrontendKey, FrontendValue, protocol};
use node_agent::{
    compile::{Algorithm, CompiledAddress, HealthCheck, NodeContext, service as compile},
    model::objects::{
        Endpoint, EndpointSlice, LoadBalancerIngress, Protocol, Service, ServicePort, ServiceType, TrafficPolicy,
    },
};

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
    assert_eq!(got.addresses, [CompiledAddress { addr: address, rejects: true }]);
    let [port] = &got.ports[..] else { panic!("duplicates count once: {got:?}") };
    assert_eq!((port.identity(), port.affinity_seconds), ((Family::V4, protocol::TCP, 80), 30));
    let keys: Vec<_> = port.frontends.iter().map(|f| f.key).collect();
    assert_eq!(keys, [FrontendKey::new(address, Be16::new(80), protocol::TCP)]);
    let endpoints: Vec<_> = port.endpoints.iter().map(|e| (e.cluster, e.local, e.on_node)).collect();
    assert_eq!(endpoints, [(true, false, false), (false, true, true)]);
}

/// A load balancer of both families, dialled everywhere.
fn everywhere() -> Service {
    let ingress = |ip: &str, proxy| LoadBalancerIngress { ip: addr(ip), proxy };
    let mut object = Service {
        service_type: ServiceType::LoadBalancer,
        external_ips: vec![addr("192.0.2.1"), addr("172.30.0.1")],
        load_balancer: vec![
            ingress("203.0.113.1", false),
            ingress("192.0.2.1", false),
            ingress("203.0.113.2", true),
            ingress("2001:db8::9", false),
        ],
        ..service("web", &["172.30.0.1"], &[80])
    };
    object.ports[0].node_port = 30080;
    object
}

/// Where it is dialled and with which flags, in kube-proxy's order.
fn dialled(service: &Service) -> Vec<(String, u32)> {
    let ports = compiled(service, &[]).ports;
    let show = |key: &FrontendKey| format!("{}:{}", key.addr, key.port);
    ports.iter().flat_map(|port| &port.frontends).map(|f| (show(&f.key), f.flags)).collect()
}

#[test]
fn a_service_is_dialled_where_its_type_says() {
    const EXTERNAL: u32 = FrontendValue::EXTERNAL;
    let cluster = ("172.30.0.1:80".to_owned(), 0);
    let external = ("192.0.2.1:80".to_owned(), EXTERNAL);
    let vip = ("203.0.113.1:80".to_owned(), EXTERNAL);
    let node_port = ("0.0.0.0:30080".to_owned(), EXTERNAL);
    // An address that is two things counts once, one in a family without a ClusterIP not at all.
    let [c, e, v, n] = [&cluster, &external, &vip, &node_port];
    for (service_type, expected) in [
        (ServiceType::LoadBalancer, &[c, e, v, n][..]),
        (ServiceType::NodePort, &[c, e, n]),
        (ServiceType::ClusterIp, &[c, e]),
        (ServiceType::ExternalName, &[]),
    ] {
        let got = dialled(&Service { service_type, ..everywhere() });
        assert_eq!(got.iter().collect::<Vec<_>>(), expected, "{service_type:?}");
    }
    let local = dialled(&Service { external_policy: TrafficPolicy::Local, ..everywhere() });
    let kept = EXTERNAL | FrontendValue::KEEP_CLIENT;
    assert_eq!(local.iter().map(|(_, flags)| *flags).collect::<Vec<_>>(), [0, kept, kept, kept]);
    let whole: Vec<_> =
        compiled(&everywhere(), &[]).addresses.iter().map(|a| (a.addr.to_string(), a.rejects)).collect();
    let expected = [("172.30.0.1", true), ("192.0.2.1", false), ("203.0.113.1", false)];
    assert_eq!(whole, expected.map(|(ip, rejects)| (ip.to_owned(), rejects)));
}

#[test]
fn source_ranges_restrict_load_balancers_only() {
    /// The ranges, whether another could not be read, and who is served: `None` everybody.
    type Row = (&'static [&'static str], bool, Option<&'static [&'static str]>);
    let node = NodeContext { v4: Some([198, 51, 100, 7].into()), ..crate::cluster::node() };
    let table: [Row; 8] = [
        (&[], false, None),
        (&["192.0.2.0/24", "192.0.2.0/24"], false, Some(&["192.0.2.0/120"])),
        (&["192.0.2.0/24", "0.0.0.0/0"], false, None),
        (&["2001:db8::/32"], false, None),
        (&[], true, Some(&[])),
        (&["2001:db8::/32"], true, Some(&[])),
        (&["192.0.2.0/24"], true, Some(&["192.0.2.0/120"])),
        // The node is in the range, so its own address may be the load balancer's.
        (&["198.51.100.0/24"], false, Some(&["198.51.100.0/120", "203.0.113.1/128"])),
    ];
    for (ranges, unread, expected) in table {
        let source_ranges = ranges.iter().map(|range| range.parse().expect("a CIDR")).collect();
        let object = Service { source_ranges, unread_source_ranges: unread, ..everywhere() };
        let got = compile(&object, &mut [].iter(), &node);
        let [port] = &got.ports[..] else { panic!("{got:?}") };
        let restricted = |f: &&node_agent::compile::CompiledFrontend| f.flags & FrontendValue::SOURCE_RANGES != 0;
        let asks: Vec<_> = port.frontends.iter().filter(restricted).map(|f| f.key.addr.to_string()).collect();
        let expected_asks: &[&str] = if expected.is_some() { &["203.0.113.1"] } else { &[] };
        assert_eq!(asks, expected_asks, "{ranges:?}");
        let served: Vec<_> = port.source_ranges.iter().map(|r| format!("{}/{}", r.addr, r.prefix_len)).collect();
        assert_eq!(served, expected.unwrap_or_default(), "{ranges:?}");
    }
}

#[test]
fn a_health_check_counts_ready_endpoints_of_this_node_once() {
    let here = |e: Endpoint| Endpoint { node: crate::cluster::node().name, ..e };
    let mut object = Service {
        service_type: ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 32000,
        ..service("web", &["172.30.0.1"], &[80, 81])
    };
    let ready = here(endpoint("10.0.0.1"));
    let endpoints = vec![ready, here(leaving("10.0.0.2", true)), endpoint("10.0.0.3"), here(endpoint("10.0.0.4"))];
    let slices = [slice("s1", "web", &[("80", 80), ("81", 81)], endpoints)];
    let check = HealthCheck { port: 32000, v4: Some(2), v6: None };
    assert_eq!(compiled(&object, &slices).health_check, Some(check));
    assert_eq!(compiled(&object, &[]).health_check, Some(HealthCheck { v4: Some(0), ..check }));
    object.external_policy = TrafficPolicy::Cluster;
    assert_eq!(compiled(&object, &slices).health_check, None);
}

#[test]
fn the_annotation_chooses_the_algorithm() {
    const LEAST: u32 = FrontendValue::LEAST_CONNECTIONS;
    let default = |algorithm| NodeContext { algorithm, ..crate::cluster::node() };
    let table = [
        (None, Algorithm::Random, (0, 0), ""),
        (None, Algorithm::LeastConnections, (LEAST, LEAST), ""),
        (Some("maglev"), Algorithm::LeastConnections, (0, FrontendValue::MAGLEV), ""),
        (Some("least-connections"), Algorithm::Random, (LEAST, LEAST), ""),
        (Some("random"), Algorithm::Maglev, (0, 0), ""),
        (Some("fastest"), Algorithm::Maglev, (0, 0), "\"fastest\" is none of random, maglev, least-connections"),
    ];
    for (annotation, algorithm, (cluster_ip, external), problem) in table {
        let annotations = annotation.map(|value| ("fairlead.io/load-balancer-algorithm".into(), value.into()));
        let object = Service { annotations: annotations.into_iter().collect(), ..everywhere() };
        let got = compile(&object, &mut [].iter(), &default(algorithm));
        let flags: Vec<_> = got.ports[0].frontends.iter().map(|f| f.flags & !FrontendValue::EXTERNAL).collect();
        assert_eq!(flags, [cluster_ip, external, external, external], "{annotation:?}");
        assert_eq!(got.problems.len(), usize::from(!problem.is_empty()));
        assert!(got.problems.iter().all(|message| message.contains(problem)), "{:?}", got.problems);
    }
}
