//! What pods send to outside shares the ports of one address: thousands of flows to one address
//! and port don't collide, and what finds no port any more is dropped, counted and told.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use tests::{
    cluster::{Cluster, LogOnFailure, Outside, Plan, Pod},
    traffic::{Attempt, Crowd, Dial, Outcome, Server, Transport},
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const PODS: usize = 8;
const EACH: usize = 500;

fn crowds(pods: &[Pod], count: usize, transport: Transport, address: SocketAddr) -> Vec<Crowd> {
    let patience = Duration::from_millis(300);
    pods.iter().map(|pod| Dial::new(pod, transport, address).timeout(patience).crowd(count)).collect()
}

/// Asks over all sockets, the pods' at the same time.
fn ask(crowds: &mut [Crowd]) -> Vec<Attempt> {
    thread::scope(|scope| {
        let asking: Vec<_> = crowds.iter_mut().map(|crowd| scope.spawn(|| crowd.ask())).collect();
        asking.into_iter().flat_map(|asking| asking.join().expect("every line is a report")).collect()
    })
}

fn client(attempt: &Attempt) -> Option<SocketAddr> {
    match &attempt.outcome {
        Outcome::Ok(answer) => Some(answer.client),
        _ => None,
    }
}

/// The addresses and ports that the server saw.
fn seen(attempts: &[Attempt]) -> Vec<SocketAddr> {
    attempts.iter().map(|attempt| attempt.answer().client).collect()
}

const FULL: &str = "snat-ports-exhausted";

fn none_collide(transport: Transport, port: u16, outside: IpAddr) {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let _server = Server::start(cluster.outside(), &LISTEN);
    let pods = node.pods("pod", PODS);
    let mut crowds = crowds(&pods, EACH, transport, SocketAddr::new(outside, port));
    let first = seen(&ask(&mut crowds));
    let distinct: BTreeSet<_> = first.iter().collect();
    assert_eq!((first.len(), distinct.len()), (PODS * EACH, PODS * EACH), "each flow has an end of its own");
    assert!(first.iter().all(|seen| node.addresses().contains(&seen.ip())), "all bear the node's address");
    // All are open now: each answer reaches the socket that asked, by the end that it had.
    assert_eq!(seen(&ask(&mut crowds)), first);
    assert_eq!(node.drops(FULL), 0);
}

#[test]
fn thousands_of_udp_flows_to_one_port() {
    none_collide(Transport::Udp, 5353, Outside::ADDRESSES[0]);
}

#[test]
fn thousands_of_udp_flows_to_one_port_over_ipv6() {
    none_collide(Transport::Udp, 5353, Outside::ADDRESSES[1]);
}

#[test]
fn thousands_of_tcp_connections_to_one_port() {
    none_collide(Transport::Tcp, 8080, Outside::ADDRESSES[0]);
}

#[test]
fn a_full_port_space_is_a_drop_that_is_told() {
    // All but 1,024 ports are for the node's own sockets.
    const PORTS: std::ops::RangeInclusive<u16> = 64_512..=65_535;
    let cluster = Plan::default().node("node-a").without_agents();
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    node.namespace().sysctl("net.ipv4.ip_local_port_range", "32768 64511");
    node.start_agent(&[]);
    let _server = Server::start(cluster.outside(), &LISTEN);
    let pods = node.pods("pod", 4);
    let to = |port| SocketAddr::new(Outside::ADDRESSES[0], port);
    // Open connections keep their ports, whatever happens; of silent UDP flows some would give theirs away.
    let mut crowds = crowds(&pods, 300, Transport::Tcp, to(8080));
    let attempts = ask(&mut crowds);
    let answered: Vec<SocketAddr> = attempts.iter().filter_map(client).collect();
    let distinct: BTreeSet<_> = answered.iter().collect();
    assert_eq!(distinct.len(), answered.len(), "no two flows have one port");
    assert!(answered.iter().all(|seen| PORTS.contains(&seen.port())), "{answered:?}");
    assert!((900..=PORTS.count()).contains(&answered.len()), "{} of {}", answered.len(), attempts.len());
    assert!(attempts.iter().all(|attempt| matches!(attempt.outcome, Outcome::Ok(_) | Outcome::Timeout)));
    let lost = (attempts.len() - answered.len()) as u64;
    assert!(node.drops(FULL) >= lost, "each is counted: {} of {lost}", node.drops(FULL));
    let told = String::from_utf8(node.cli(&["status"]).stdout).expect("it is text");
    assert!(told.contains(FULL), "{told}");

    // Who has a port keeps it, and it is one destination's ports that are out.
    let again = ask(&mut crowds);
    for (before, now) in attempts.iter().zip(&again) {
        if let Some(end) = client(before) {
            assert_eq!(client(now), Some(end));
        }
    }
    let other = Dial::new(&pods[0], Transport::Udp, to(5353)).times(20);
    assert_eq!(other.only_server(), "outside");
}
