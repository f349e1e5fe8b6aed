//! A client that is no part of the cluster: NodePorts, a load balancer's address, and
//! `externalTrafficPolicy: Local`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::Scene;
use crate::{
    cluster::{Node, Outside},
    demo::{screen::Screen, stage::Stage},
    traffic::{Attempts, Dial, Place, Transport},
};

/// How many connections are made to each address.
const REQUESTS: usize = 60;
/// What manifests/samples/shop.yaml says.
const NODE_PORT: u16 = 30080;
const LOCAL_NODE_PORT: u16 = 30081;
const LOAD_BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80));

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    let how = format!("TCP from outside, a connection each, {REQUESTS} to each address");
    scene.lines.push(screen.title("shop", &how));
    node_ports(stage, &mut scene);
    load_balancer(stage, &mut scene);
    local(stage, &mut scene);
    scene
}

/// Every node leads to every backend, which sees the node's address.
fn node_ports(stage: &Stage, scene: &mut Scene) {
    let mut good = 0;
    for node in stage.nodes() {
        let attempts = ask(stage.outside(), address(node), NODE_PORT);
        scene.lines.push(line(&format!("{}:{NODE_PORT}", node.name()), &attempts));
        let seen_as_node = clients(&attempts).iter().all(|client| node.addresses().contains(client));
        good += usize::from(attempts.servers().len() == stage.backends("shop") && seen_as_node);
    }
    let found = format!("{good} of {} nodes lead to every backend, in their own name", stage.nodes().len());
    scene.check("NodePorts", good == stage.nodes().len(), found);
}

/// A node that the network leads the load balancer's address to serves it.
fn load_balancer(stage: &Stage, scene: &mut Scene) {
    let via = address(stage.node());
    stage.outside().namespace().ip(&format!("route replace {LOAD_BALANCER} via {via}"));
    let attempts = ask(stage.outside(), LOAD_BALANCER, 80);
    scene.lines.push(line(&format!("{LOAD_BALANCER}:80"), &attempts));
    let (met, backends) = (attempts.servers().len(), stage.backends("shop"));
    scene.check("load balancer's address", met == backends, format!("{met} of {backends} backends"));
}

/// With `externalTrafficPolicy: Local` a node leads to its own backends, and they see the client.
fn local(stage: &Stage, scene: &mut Scene) {
    let node = stage.node_of("shop-2");
    let attempts = ask(stage.outside(), address(node), LOCAL_NODE_PORT);
    scene.lines.push(line(&format!("{}:{LOCAL_NODE_PORT}", node.name()), &attempts));
    let servers: Vec<_> = attempts.servers().into_keys().collect();
    let (seen, own) = (clients(&attempts), BTreeSet::from([Outside::ADDRESSES[0]]));
    let passed = servers == ["shop-2"] && seen == own;
    scene.check("externalTrafficPolicy: Local", passed, format!("{} saw {}", servers.join(", "), list(&seen)));
}

#[track_caller]
fn ask(client: &dyn Place, ip: IpAddr, port: u16) -> Attempts {
    Dial::new(client, Transport::Tcp, SocketAddr::new(ip, port)).times(REQUESTS)
}

fn address(node: &Node) -> IpAddr {
    node.addresses()[0]
}

fn clients(attempts: &Attempts) -> BTreeSet<IpAddr> {
    attempts.0.iter().map(|attempt| attempt.client()).collect()
}

fn line(to: &str, attempts: &Attempts) -> String {
    let servers: Vec<_> = attempts.servers().iter().map(|(server, count)| format!("{server} × {count}")).collect();
    format!("  {to:<21} → {}, which saw {}", servers.join(", "), list(&clients(attempts)))
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
