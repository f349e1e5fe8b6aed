//! A client that always lands on the same backend.

use super::Scene;
use crate::{
    demo::{screen::Screen, stage::Stage},
    traffic::{Dial, Place, Transport},
};

/// How many connections each client makes.
const REQUESTS: usize = 30;

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    let address = stage.samples().cluster_ip("cart", false, 80);
    let how = format!("TCP {address}, sessionAffinity ClientIP: {REQUESTS} connections from each client");
    scene.lines.push(screen.title("cart", &how));
    let clients: [&dyn Place; 3] = [stage.pod("client-1"), stage.pod("client-2"), stage.node()];
    let mut faithful = 0;
    let mut found = Vec::new();
    for client in clients {
        let servers = Dial::new(client, Transport::Tcp, address).times(REQUESTS).servers();
        faithful += usize::from(servers.len() == 1);
        let servers: Vec<_> = servers.iter().map(|(server, count)| format!("{server} × {count}")).collect();
        found.push(format!("{} → {}", client.name(), servers.join(", ")));
    }
    scene.lines.push(format!("  {}", found.join("     ")));
    let found = format!("{faithful} of {} clients each met one backend only", clients.len());
    scene.check("affinity holds", faithful == clients.len(), found);
    scene
}
