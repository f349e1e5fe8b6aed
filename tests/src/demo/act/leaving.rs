//! Pods of every node dial a server outside the cluster, which sees their nodes' addresses.

use std::net::SocketAddr;

use super::Scene;
use crate::{
    cluster::Outside,
    demo::{screen::Screen, stage::Stage},
    traffic::{Dial, Server, Transport},
};

/// How often each pod dials.
const REQUESTS: usize = 10;
const PORTS: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
/// A pod of each node.
const PODS: [&str; 3] = ["client-1", "web-2", "web-3"];

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    let [outside, _] = Outside::ADDRESSES;
    // At this address alone: the host has one on each link, and would answer node-c from the other.
    let listen = PORTS.map(|(transport, port)| format!("{transport}:{}", SocketAddr::new(outside, port)));
    let _server = Server::start_at(stage.outside(), &listen);
    scene.lines.push(screen.title("world", &format!("TCP and UDP from pods to {outside}, {REQUESTS} each")));
    let mut good = 0;
    let mut found = Vec::new();
    for pod in PODS {
        let own = stage.node_of(pod).addresses();
        let mut hidden = true;
        for (transport, port) in PORTS {
            let attempts = Dial::new(stage.pod(pod), transport, SocketAddr::new(outside, port)).times(REQUESTS);
            hidden &= attempts.0.iter().all(|attempt| own.contains(&attempt.client()));
        }
        good += usize::from(hidden);
        found.push(format!("{pod} as {}", if hidden { own[0].to_string() } else { "something else".to_owned() }));
    }
    scene.lines.push(format!("  the server saw {}", found.join(", ")));
    let found = format!("{good} of {} pods were seen by their node's address", PODS.len());
    scene.check("masqueraded to the outside", good == PODS.len(), found);
    scene
}
