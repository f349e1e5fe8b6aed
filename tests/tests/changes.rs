//! Services that change under their clients: established connections go on, datagrams go elsewhere.

use std::net::SocketAddr;

use tests::{
    cluster::{Cluster, Pod},
    manifest::{Endpoint, Service},
    on_both_paths,
    traffic::{Attempt, Dial, Outcome, Place, Server, Session, Style, Transport},
};

on_both_paths!(
    a_connection_outlives_its_endpoint,
    datagrams_leave_a_backend_that_is_gone,
    a_deleted_service_is_no_more,
    a_stable_backend_fails_no_request,
);

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];

fn two_backends(cluster: &Cluster) -> (Vec<Pod>, Vec<Server>, Service) {
    let pods = cluster.node().pods("backend", 2);
    let servers = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    let service = cluster.service("changing").tcp(80, 8080).udp(53, 5353).backends(pods.iter().map(Pod::endpoint));
    cluster.apply(&service);
    (pods, servers, service)
}

/// The endpoints but the one of that name, and the name of one that is left.
fn without<'a>(pods: &'a [Pod], name: &str) -> (Vec<Endpoint>, &'a str) {
    let left: Vec<_> = pods.iter().filter(|pod| pod.name() != name).collect();
    (left.iter().map(|pod| pod.endpoint()).collect(), left[0].name())
}

fn a_connection_outlives_its_endpoint(cluster: &Cluster) {
    let (pods, _servers, mut service) = two_backends(cluster);
    let pod = cluster.node().pod("client");
    let clients: [&dyn Place; 2] = [&pod, cluster.node()];
    for client in clients {
        for address in service.both(80) {
            let mut connection = Dial::new(client, Transport::Tcp, address).open();
            let first = connection.ask().server().to_owned();
            let (endpoints, other) = without(&pods, &first);
            service.set_backends(endpoints);
            cluster.apply(&service);
            assert_eq!(connection.ask().server(), first, "{}", client.name());
            assert_eq!(Dial::new(client, Transport::Tcp, address).times(20).only_server(), other, "{}", client.name());
            assert_eq!(connection.ask().server(), first, "{}", client.name());
            service.set_backends(pods.iter().map(Pod::endpoint));
            cluster.apply(&service);
        }
    }
    cluster.delete(&service);
}

/// Asks over a UDP socket whose backend is gone. A socket of the node's that was connected through
/// the hooks is cut loose: its next use may fail, at once, and its owner opens another.
fn ask_again(session: &mut Session, client: &dyn Place, address: SocketAddr) -> Attempt {
    let attempt = session.ask();
    match attempt.outcome {
        Outcome::Ok(_) => attempt,
        Outcome::Timeout => panic!("{} still sends to a backend that is gone", client.name()),
        _ => Dial::new(client, Transport::Udp, address).once(),
    }
}

fn datagrams_leave_a_backend_that_is_gone(cluster: &Cluster) {
    let (pods, _servers, mut service) = two_backends(cluster);
    let pod = cluster.node().pod("client");
    for address in service.both(53) {
        for style in [Style::Kept, Style::Addressed] {
            let mut from_pod = Dial::new(&pod, Transport::Udp, address).style(style).open();
            let mut from_node = Dial::new(cluster.node(), Transport::Udp, address).style(style).open();
            // The same server for both, so that one removal concerns both.
            let first = from_pod.ask().server().to_owned();
            let (others, _) = without(&pods, &first);
            service.set_backends(pods.iter().filter(|pod| pod.name() == first).map(Pod::endpoint));
            cluster.apply(&service);
            let on_node = ask_again(&mut from_node, cluster.node(), address);
            assert_eq!(on_node.server(), first);

            service.set_backends(others);
            cluster.apply(&service);
            let attempt = from_pod.ask();
            assert_ne!(attempt.server(), first, "{style} from a pod to {address}");
            assert_eq!(attempt.peer, Some(address));
            let attempt = ask_again(&mut from_node, cluster.node(), address);
            assert_ne!(attempt.server(), first, "{style} from the node to {address}");

            service.set_backends(pods.iter().map(Pod::endpoint));
            cluster.apply(&service);
        }
    }
    cluster.delete(&service);
}

fn a_deleted_service_is_no_more(cluster: &Cluster) {
    let (pods, _servers, service) = two_backends(cluster);
    let pod = cluster.node().pod("client");
    let address = service.v4(80);
    Dial::new(&pod, Transport::Tcp, address).times(4).servers();
    cluster.delete(&service);
    let attempt = Dial::new(&pod, Transport::Tcp, address).timeout(std::time::Duration::from_millis(300)).once();
    assert!(!matches!(attempt.outcome, Outcome::Ok(_)), "{attempt:?}");

    // Its address goes to another Service, whose backend is one of the old one's.
    let mut heir = cluster.service("heir").tcp(80, 8080).backends([pods[1].endpoint()]);
    heir.addresses = service.addresses.clone();
    cluster.apply(&heir);
    assert_eq!(Dial::new(&pod, Transport::Tcp, address).times(20).only_server(), pods[1].name());
    cluster.delete(&heir);
}

fn a_stable_backend_fails_no_request(cluster: &Cluster) {
    let (pods, _servers, mut service) = two_backends(cluster);
    let client = cluster.node().pod("client");
    let loads = [
        Dial::new(&client, Transport::Tcp, service.v4(80)).load(),
        Dial::new(&client, Transport::Udp, service.v6(53)).load(),
        Dial::new(&client, Transport::Udp, service.v4(53)).style(Style::Kept).load(),
        Dial::new(cluster.node(), Transport::Tcp, service.v6(80)).load(),
    ];
    // The server of the second one goes on, so whoever is sent there is answered too.
    for round in 0..60 {
        let count = if round % 2 == 0 { 1 } else { 2 };
        service.set_backends(pods.iter().take(count).map(Pod::endpoint));
        cluster.apply(&service);
    }
    for load in loads {
        load.wait_for_more(20);
        load.stop().assert_lossless();
    }
    cluster.delete(&service);
}
