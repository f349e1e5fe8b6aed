//! ClusterIP Services as their clients see them, balanced at the sockets and per packet.

use std::{net::SocketAddr, time::Duration};

use tests::{
    cluster::{Cluster, Pod},
    manifest::{Endpoint, EndpointSlice, Service},
    on_both_paths,
    statistics::assert_uniform,
    traffic::{Dial, Place, Server, Style, Transport},
};

on_both_paths!(
    every_backend_answers,
    the_client_sees_the_service,
    selection_is_uniform,
    ports_lead_to_their_own_targets,
    slices_may_differ_in_a_ports_number,
    a_service_of_one_family,
    an_unused_port_is_refused,
    no_endpoints_is_refused_at_once,
    local_traffic_without_a_local_endpoint_is_dropped,
    local_traffic_stays_on_the_node,
    a_pod_reaches_itself,
    terminating_endpoints_serve_when_nothing_else_does,
);

const TCP: (Transport, u16) = (Transport::Tcp, 8080);
const UDP: (Transport, u16) = (Transport::Udp, 5353);
/// Long enough for anything on one machine, short enough to wait for what never comes.
const SHORT: Duration = Duration::from_millis(300);

/// So many pods that serve on TCP 8080 and UDP 5353.
fn backends(cluster: &Cluster, count: usize) -> (Vec<Pod>, Vec<Server>) {
    let pods = cluster.node().pods("backend", count);
    let servers = pods.iter().map(|pod| pod.serve(&[TCP, UDP])).collect();
    (pods, servers)
}

/// A Service of TCP port 80 and UDP port 53 over these pods.
fn service(cluster: &Cluster, pods: &[Pod]) -> Service {
    cluster.service("web").tcp(80, TCP.1).udp(53, UDP.1).backends(pods.iter().map(Pod::endpoint))
}

/// The Service's addresses of both families, with the port of each transport.
fn frontends(service: &Service) -> Vec<(Transport, SocketAddr)> {
    let tcp = service.both(80).into_iter().map(|address| (Transport::Tcp, address));
    tcp.chain(service.both(53).into_iter().map(|address| (Transport::Udp, address))).collect()
}

/// Calls `check` for a pod that is a client and for a process of the node's.
fn from_pod_and_node(cluster: &Cluster, check: impl Fn(&dyn Place)) {
    check(&cluster.node().pod("client"));
    check(cluster.node());
}

fn every_backend_answers(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 3);
    let service = service(cluster, &pods);
    cluster.apply(&service);
    from_pod_and_node(cluster, |client| {
        for (transport, address) in frontends(&service) {
            let servers = Dial::new(client, transport, address).times(60).servers();
            assert_eq!(servers.len(), 3, "{} to {transport} {address}: {servers:?}", client.name());
        }
    });
    cluster.delete(&service);
}

fn the_client_sees_the_service(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 1);
    let service = service(cluster, &pods);
    cluster.apply(&service);
    let client = cluster.node().pod("client");
    for (transport, address) in frontends(&service) {
        let styles: &[Style] = match transport {
            Transport::Tcp | Transport::Sctp => &[Style::Fresh, Style::Kept],
            Transport::Udp => &[Style::Fresh, Style::Kept, Style::Addressed],
        };
        for &style in styles {
            let attempts = Dial::new(&client, transport, address).style(style).times(3);
            for attempt in &attempts.0 {
                assert_eq!(attempt.peer, Some(address), "{transport} {style}");
                assert_eq!(attempt.client(), client.like(address.ip()), "{transport} {style}");
            }
            let attempts = Dial::new(cluster.node(), transport, address).style(style).times(3);
            assert!(
                attempts.0.iter().all(|attempt| attempt.peer == Some(address)),
                "{transport} {style}: {attempts:?}"
            );
        }
    }
    cluster.delete(&service);
}

fn selection_is_uniform(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 5);
    let service = service(cluster, &pods);
    cluster.apply(&service);
    from_pod_and_node(cluster, |client| {
        for (transport, address) in frontends(&service) {
            let servers = Dial::new(client, transport, address).times(1000).servers();
            assert_uniform(&servers.into_values().collect::<Vec<_>>());
        }
    });
    cluster.delete(&service);
}

fn ports_lead_to_their_own_targets(cluster: &Cluster) {
    let pods = cluster.node().pods("backend", 2);
    let _servers = [pods[0].serve(&[TCP, UDP]), pods[1].serve(&[(Transport::Tcp, 9090), (Transport::Udp, 9090)])];
    // One number for both transports, and two numbers for one.
    let service = cluster.service("ports").tcp(80, 8080).udp(80, 5353).tcp(81, 8080).backends([pods[0].endpoint()]);
    let other = cluster.service("ports").tcp(80, 9090).udp(80, 9090).backends([pods[1].endpoint()]);
    cluster.apply(&service);
    cluster.apply(&other);
    from_pod_and_node(cluster, |client| {
        let server = |service: &Service, transport, port| {
            let [v4, v6] = [service.v4(port), service.v6(port)];
            let name = Dial::new(client, transport, v4).times(4).only_server();
            assert_eq!(Dial::new(client, transport, v6).times(4).only_server(), name);
            name
        };
        for (transport, port) in [(Transport::Tcp, 80), (Transport::Udp, 80), (Transport::Tcp, 81)] {
            assert_eq!(server(&service, transport, port), pods[0].name());
        }
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(server(&other, transport, 80), pods[1].name());
        }
        Dial::new(client, Transport::Udp, service.v4(81)).times(2).assert_refused();
    });
    cluster.delete(&service);
    cluster.delete(&other);
}

fn slices_may_differ_in_a_ports_number(cluster: &Cluster) {
    let pods = cluster.node().pods("backend", 2);
    let _servers = [pods[0].serve(&[(Transport::Tcp, 8080)]), pods[1].serve(&[(Transport::Tcp, 8081)])];
    let mut service = cluster.service("named").tcp(80, 8080).backends([pods[0].endpoint()]);
    service
        .slices
        .push(EndpointSlice { ports: vec![("tcp-80".to_owned(), "TCP", 8081)], endpoints: vec![pods[1].endpoint()] });
    // A port of another name is no target of this one.
    service
        .slices
        .push(EndpointSlice { ports: vec![("other".to_owned(), "TCP", 9)], endpoints: vec![pods[1].endpoint()] });
    cluster.apply(&service);
    from_pod_and_node(cluster, |client| {
        for address in service.both(80) {
            assert_eq!(Dial::new(client, Transport::Tcp, address).times(60).servers().len(), 2);
        }
    });
    cluster.delete(&service);
}

fn a_service_of_one_family(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 2);
    for ipv6 in [false, true] {
        let service = service(cluster, &pods).only(ipv6);
        cluster.apply(&service);
        from_pod_and_node(cluster, |client| {
            for (transport, address) in frontends(&service) {
                assert_eq!(Dial::new(client, transport, address).times(40).servers().len(), 2);
            }
        });
        cluster.delete(&service);
    }
}

fn an_unused_port_is_refused(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 1);
    let service = service(cluster, &pods);
    cluster.apply(&service);
    from_pod_and_node(cluster, |client| {
        for address in service.both(4321) {
            Dial::new(client, Transport::Tcp, address).times(2).assert_refused();
            Dial::new(client, Transport::Udp, address).times(2).assert_refused();
        }
    });
    cluster.delete(&service);
}

fn no_endpoints_is_refused_at_once(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 1);
    let mut service = service(cluster, &pods);
    for endpoints in [vec![], vec![pods[0].endpoint().not_ready()], vec![pods[0].endpoint().terminating(false)]] {
        service.set_backends(endpoints);
        cluster.apply(&service);
        from_pod_and_node(cluster, |client| {
            for (transport, address) in frontends(&service) {
                Dial::new(client, transport, address).times(2).assert_refused();
            }
        });
    }
    service.set_backends([pods[0].endpoint()]);
    cluster.apply(&service);
    from_pod_and_node(cluster, |client| {
        for (transport, address) in frontends(&service) {
            assert_eq!(Dial::new(client, transport, address).times(2).only_server(), pods[0].name());
        }
    });
    cluster.delete(&service);
}

fn local_traffic_without_a_local_endpoint_is_dropped(cluster: &Cluster) {
    let elsewhere = Endpoint::new(&["10.244.200.1".parse().unwrap(), "fd00:10:244:200::1".parse().unwrap()]);
    let service = cluster.service("local").tcp(80, 8080).udp(53, 5353).internal_local();
    let service = service.backends([elsewhere.on("another-node")]);
    cluster.apply(&service);
    from_pod_and_node(cluster, |client| {
        let before = cluster.node().drops("no-local-endpoint");
        for (transport, address) in frontends(&service) {
            Dial::new(client, transport, address).timeout(SHORT).times(1).assert_unanswered();
        }
        assert!(cluster.node().drops("no-local-endpoint") >= before + 4, "{}", client.name());
    });
    cluster.delete(&service);
}

fn local_traffic_stays_on_the_node(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 1);
    let elsewhere = Endpoint::new(&["10.244.200.1".parse().unwrap(), "fd00:10:244:200::1".parse().unwrap()]);
    let endpoints = [elsewhere.on("another-node"), pods[0].endpoint()];
    let service = cluster.service("local").tcp(80, 8080).udp(53, 5353).internal_local().backends(endpoints);
    cluster.apply(&service);
    from_pod_and_node(cluster, |client| {
        for (transport, address) in frontends(&service) {
            assert_eq!(Dial::new(client, transport, address).times(20).only_server(), pods[0].name());
        }
    });
    cluster.delete(&service);
}

fn a_pod_reaches_itself(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 1);
    let service = service(cluster, &pods);
    cluster.apply(&service);
    for (transport, address) in frontends(&service) {
        for style in [Style::Fresh, Style::Kept] {
            let attempts = Dial::new(&pods[0], transport, address).style(style).times(3);
            assert_eq!(attempts.only_server(), pods[0].name(), "{transport} {address}");
            assert!(attempts.0.iter().all(|attempt| attempt.peer == Some(address)), "{attempts:?}");
        }
    }
    cluster.delete(&service);
}

fn terminating_endpoints_serve_when_nothing_else_does(cluster: &Cluster) {
    let (pods, _servers) = backends(cluster, 3);
    let mut service = service(cluster, &pods);
    let client = cluster.node().pod("client");
    let cases = [
        (vec![pods[0].endpoint(), pods[1].endpoint().terminating(true)], &pods[0]),
        (vec![pods[1].endpoint().terminating(true), pods[2].endpoint().terminating(false)], &pods[1]),
        (vec![pods[1].endpoint().terminating(true), pods[2].endpoint().not_ready()], &pods[1]),
    ];
    for (endpoints, expected) in cases {
        service.set_backends(endpoints);
        cluster.apply(&service);
        for (transport, address) in frontends(&service) {
            assert_eq!(Dial::new(&client, transport, address).times(20).only_server(), expected.name());
        }
    }
    cluster.delete(&service);
}
