//! `sessionAffinity: ClientIP`: by the client's address on every path, until its timeout or the end of
//! its backend.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use tests::{
    cluster::{Cluster, Pod},
    manifest::Service,
    on_both_paths,
    traffic::{Dial, Place, Server, Style, Transport},
};

on_both_paths!(a_client_stays, clients_differ, it_outlives_other_changes, it_ends_with_its_backend, it_times_out);

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];

struct Sticky {
    pods: Vec<Pod>,
    service: Service,
    _servers: Vec<Server>,
}

impl Sticky {
    fn new(cluster: &Cluster, backends: usize, seconds: u32) -> Self {
        let pods = cluster.node().pods("sticky", backends);
        let servers = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
        let service = cluster.service("sticky").tcp(80, 8080).udp(53, 5353).affinity(seconds);
        let service = service.backends(pods.iter().map(Pod::endpoint));
        cluster.apply(&service);
        Self { pods, service, _servers: servers }
    }

    fn frontends(&self) -> Vec<(Transport, SocketAddr)> {
        let tcp = self.service.both(80).into_iter().map(|address| (Transport::Tcp, address));
        tcp.chain(self.service.both(53).into_iter().map(|address| (Transport::Udp, address))).collect()
    }

    fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name() == name).expect("a server is one of the pods")
    }
}

fn a_client_stays(cluster: &Cluster) {
    let sticky = Sticky::new(cluster, 6, 3600);
    let pod = cluster.node().pod("client");
    let clients: [&dyn Place; 2] = [&pod, cluster.node()];
    for client in clients {
        for (transport, address) in sticky.frontends() {
            // Two processes, so that nothing but the address is the same.
            let first = Dial::new(client, transport, address).times(30).only_server();
            let second = Dial::new(client, transport, address).times(30).only_server();
            assert_eq!(first, second, "{} to {transport} {address}", client.name());
        }
        let [v4, _] = sticky.service.both(53)[..] else { panic!("the Service has two addresses") };
        let connected = Dial::new(client, Transport::Udp, v4).style(Style::Kept).times(5).only_server();
        let addressed = Dial::new(client, Transport::Udp, v4).style(Style::Addressed).times(5).only_server();
        assert_eq!(connected, addressed, "{}", client.name());
    }
    cluster.delete(&sticky.service);
}

fn clients_differ(cluster: &Cluster) {
    let sticky = Sticky::new(cluster, 6, 3600);
    let clients = cluster.node().pods("client", 12);
    for (transport, address) in sticky.frontends() {
        let mut servers: Vec<_> =
            clients.iter().map(|client| Dial::new(client, transport, address).times(3).only_server()).collect();
        servers.sort();
        servers.dedup();
        // Twelve clients that all choose one of six is less likely than one in 10^8.
        assert!(servers.len() > 1, "every client of {transport} {address} got {servers:?}");
    }
    cluster.delete(&sticky.service);
}

fn it_outlives_other_changes(cluster: &Cluster) {
    let mut sticky = Sticky::new(cluster, 6, 3600);
    let client = cluster.node().pod("client");
    for (transport, address) in sticky.frontends() {
        let chosen = Dial::new(&client, transport, address).times(3).only_server();
        let others: Vec<_> = sticky.pods.iter().filter(|pod| pod.name() != chosen).collect();
        // Neighbours go, and the chosen one moves to another place among the endpoints.
        let kept = [others[0].endpoint(), others[1].endpoint(), sticky.pod(&chosen).endpoint()];
        sticky.service.set_backends(kept);
        cluster.apply(&sticky.service);
        assert_eq!(Dial::new(&client, transport, address).times(20).only_server(), chosen);
        sticky.service.set_backends(sticky.pods.iter().rev().map(Pod::endpoint));
        cluster.apply(&sticky.service);
        assert_eq!(Dial::new(&client, transport, address).times(20).only_server(), chosen);
    }
    cluster.delete(&sticky.service);
}

fn it_ends_with_its_backend(cluster: &Cluster) {
    let mut sticky = Sticky::new(cluster, 6, 3600);
    let pod = cluster.node().pod("client");
    let clients: [&dyn Place; 2] = [&pod, cluster.node()];
    for client in clients {
        for (transport, address) in sticky.frontends() {
            let first = Dial::new(client, transport, address).times(3).only_server();
            sticky.service.set_backends(sticky.pods.iter().filter(|pod| pod.name() != first).map(Pod::endpoint));
            cluster.apply(&sticky.service);
            let second = Dial::new(client, transport, address).times(20).only_server();
            assert_ne!(first, second, "{}", client.name());
            // The choice was made anew; the return of the first backend doesn't undo it.
            sticky.service.set_backends(sticky.pods.iter().map(Pod::endpoint));
            cluster.apply(&sticky.service);
            assert_eq!(Dial::new(client, transport, address).times(20).only_server(), second, "{}", client.name());
        }
    }
    cluster.delete(&sticky.service);
}

fn it_times_out(cluster: &Cluster) {
    let sticky = Sticky::new(cluster, 6, 1);
    let client = cluster.node().pod("client");
    for (transport, address) in sticky.frontends() {
        // Each request renews the second, so a client that goes on asking stays for longer.
        let end = Instant::now() + Duration::from_millis(1500);
        let first = Dial::new(&client, transport, address).once().server().to_owned();
        while Instant::now() < end {
            assert_eq!(Dial::new(&client, transport, address).times(5).only_server(), first);
        }
        // A new choice may fall on the same backend: not twenty times in a row.
        let changed = (0..20).any(|_| {
            thread::sleep(Duration::from_millis(1100));
            Dial::new(&client, transport, address).once().server() != first
        });
        assert!(changed, "{transport} {address} stays at {first} for ever");
    }
    cluster.delete(&sticky.service);
}
