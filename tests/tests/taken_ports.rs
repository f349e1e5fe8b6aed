//! Ports that two want: a Service and a process of the node, two Services, a Service's health check and
//! a process. As with kube-proxy, or told.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tests::{
    cluster::{Balancing, Cluster, LogOnFailure, Pod, shared},
    manifest::Service,
    traffic::{Dial, Place, Server, Transport},
    wait,
};

const LISTEN: (Transport, u16) = (Transport::Tcp, 8080);
const PATIENCE: Duration = Duration::from_secs(10);

fn both() -> [(&'static Cluster, LogOnFailure<'static>); 2] {
    [Balancing::AtSockets, Balancing::PerPacket].map(|balancing| {
        let cluster = shared(balancing);
        (cluster, LogOnFailure(cluster))
    })
}

fn served(pods: &[Pod]) -> Vec<Server> {
    pods.iter().map(|pod| pod.serve(&[LISTEN])).collect()
}

/// Who answers outside, a pod and the node itself there, at each of the node's addresses.
fn answers(cluster: &Cluster, client: &Pod, port: u16) -> Vec<String> {
    let places: [&dyn Place; 3] = [cluster.outside(), client, cluster.node()];
    let addresses = cluster.node().addresses();
    let dials = places.into_iter().flat_map(|place| addresses.iter().map(move |address| (place, *address)));
    dials.map(|(place, ip)| Dial::new(place, Transport::Tcp, (ip, port).into()).times(3).only_server()).collect()
}

fn assert_all(answers: &[String], name: &str, what: &str) {
    assert!(answers.iter().all(|answer| answer == name), "{what}: {answers:?}, not {name}");
}

/// kube-proxy's rules see a packet before any process does.
#[test]
fn a_port_of_a_service_is_the_services_though_a_process_listens_there() {
    for (cluster, _log) in both() {
        let node = cluster.node();
        let pods = node.pods("backend", 1);
        let _servers = served(&pods);
        let client = node.pod("client");
        let _process = Server::start(node, &[(Transport::Tcp, 31_180), (Transport::Tcp, 8_480)]);
        assert_all(&answers(cluster, &client, 31_180), node.name(), "without a Service");
        let node_port = cluster.service("taken").tcp(80, LISTEN.1).node_ports(&[31_180]);
        let external = cluster.service("taken").tcp(8_480, LISTEN.1).field("externalIPs", json!(node.addresses()));
        for (service, port) in [(node_port, 31_180), (external, 8_480)] {
            let service = service.backends(pods.iter().map(Pod::endpoint));
            cluster.apply(&service);
            assert_all(&answers(cluster, &client, port), pods[0].name(), "with a Service");
            cluster.delete(&service);
            assert_all(&answers(cluster, &client, port), node.name(), "when the Service is gone");
        }
    }
}

#[test]
fn of_two_services_with_one_node_port_the_older_has_it() {
    for (cluster, _log) in both() {
        let node = cluster.node();
        let pods = node.pods("backend", 2);
        let _servers = served(&pods);
        let client = node.pod("client");
        let service = |i: usize, created| {
            let service = cluster.service("claims").tcp(80, LISTEN.1).node_ports(&[31_181]).created(created);
            service.backends([pods[i].endpoint()])
        };
        let (newer, older) = (service(0, "2026-01-02T00:00:00Z"), service(1, "2026-01-01T00:00:00Z"));
        cluster.apply(&newer);
        assert_all(&answers(cluster, &client, 31_181), pods[0].name(), "alone");
        cluster.apply(&older);
        assert_all(&answers(cluster, &client, 31_181), pods[1].name(), "with an older one");
        let told = node.problems();
        assert!(told.iter().any(|problem| problem.contains(&newer.name) && problem.contains("31181")), "{told:?}");
        // Its ClusterIP is nobody else's.
        let server = Dial::new(&client, Transport::Tcp, newer.v4(80)).times(3).only_server();
        assert_eq!(server, pods[0].name());
        cluster.delete(&older);
        assert_all(&answers(cluster, &client, 31_181), pods[0].name(), "alone again");
        cluster.delete(&newer);
    }
}

#[test]
fn a_health_check_whose_port_is_taken_is_told_and_served_once_it_is_free() {
    for (cluster, _log) in both() {
        let node = cluster.node();
        let pods = node.pods("backend", 1);
        let process = Server::start(node, &[(Transport::Tcp, 31_182)]);
        let service = checked(cluster).backends(pods.iter().map(Pod::endpoint));
        cluster.apply(&service);
        let is_told =
            || node.problems().iter().any(|problem| problem.contains(&service.name) && problem.contains("31182"));
        wait::until("the taken port is told", PATIENCE, || is_told().then_some(()));
        drop(process);
        let address = SocketAddr::new(node.addresses()[0], 31_182);
        wait::until("the health check is served", PATIENCE, || {
            let (status, body) = Dial::new(cluster.outside(), Transport::Tcp, address).get("/").ok()?;
            (status == 200 && body["localEndpoints"] == 1).then_some(())
        });
        wait::until("nothing is told any more", PATIENCE, || (!is_told()).then_some(()));
        cluster.delete(&service);
    }
}

fn checked(cluster: &Cluster) -> Service {
    let service = cluster.service("checked").tcp(80, LISTEN.1).load_balancer(&["203.0.113.30".parse().unwrap()]);
    service.field("externalTrafficPolicy", json!("Local")).field("healthCheckNodePort", json!(31_182))
}

/// One backend behind everything that one can dial, from one port of one client.
#[test]
fn whatever_address_leads_to_a_backend_answers_as_that_address() {
    for (cluster, _log) in both() {
        let node = cluster.node();
        let pods = node.pods("backend", 1);
        let _servers = served(&pods);
        let balancer = |last: u8| std::net::IpAddr::from([203, 0, 113, last]);
        let services: Vec<Service> = [(31_183, 40), (31_184, 50)]
            .into_iter()
            .map(|(node_port, last)| {
                let service = cluster.service("many").tcp(80, LISTEN.1).node_ports(&[node_port]);
                let service = service.load_balancer(&[balancer(last)]);
                let service = service.field("externalIPs", json!([balancer(last + 1)]));
                service.backends(pods.iter().map(Pod::endpoint))
            })
            .collect();
        services.iter().for_each(|service| cluster.apply(service));
        let outside = cluster.outside();
        outside.namespace().ip(&format!("route replace 203.0.113.0/24 via {}", node.addresses()[0]));
        let mut dialled: Vec<SocketAddr> = [40, 41, 50, 51].map(|last| (balancer(last), 80).into()).into();
        dialled.extend([31_183, 31_184].map(|port| SocketAddr::new(node.addresses()[0], port)));
        let open = |address| Dial::new(outside, Transport::Tcp, address).port(20_100).open();
        let mut sessions: Vec<_> = dialled.iter().copied().map(open).collect();
        for _ in 0..5 {
            for (session, address) in sessions.iter_mut().zip(&dialled) {
                let attempt = session.ask();
                assert_eq!((attempt.server(), attempt.peer), (pods[0].name(), Some(*address)));
            }
        }
        services.iter().for_each(|service| cluster.delete(service));
    }
}
