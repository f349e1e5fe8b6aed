//! One Service, reached by its ClusterIP of either family.

use std::collections::{BTreeMap, BTreeSet};

use super::Scene;
use crate::{
    demo::{screen::Screen, stage::Stage},
    traffic::{Dial, Transport},
};

/// How many connections are made to each address.
const REQUESTS: usize = 60;

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    let how = format!("dual-stack TCP: {REQUESTS} connections from client-1 to each address");
    scene.lines.push(screen.title("greeter", &how));
    let client = stage.pod("client-1");
    let mut good = Vec::new();
    for (family, ipv6) in [("IPv4", false), ("IPv6", true)] {
        let address = stage.samples().cluster_ip("greeter", ipv6, 80);
        let attempts = Dial::new(client, Transport::Tcp, address).times(REQUESTS);
        let servers: BTreeMap<_, _> = attempts.servers();
        let seen: BTreeSet<_> = attempts.0.iter().map(|attempt| attempt.client()).collect();
        let own = client.like(address.ip());
        if servers.len() == stage.backends("greeter") && seen == BTreeSet::from([own]) {
            good.push(family);
        }
        let servers: Vec<_> = servers.iter().map(|(server, count)| format!("{server} × {count}")).collect();
        let seen: Vec<_> = seen.iter().map(ToString::to_string).collect();
        let address = address.to_string();
        scene.lines.push(format!("  {address:<21} → {}, which saw {}", servers.join(", "), seen.join(", ")));
    }
    let found = format!("{}: all backends answer and see the client's own address", good.join(" and "));
    scene.check("both families work", good.len() == 2, found);
    scene
}
