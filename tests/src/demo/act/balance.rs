//! Connections and queries spread over a Service's backends.

use std::collections::BTreeMap;

use super::Scene;
use crate::{
    demo::{screen::Screen, stage::Stage},
    statistics::{chi_square, chi_square_limit},
    traffic::{Dial, Place, Transport},
};

/// How many requests each client makes.
const REQUESTS: usize = 300;

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    for (service, port, transport, what, name) in [
        ("web", 80, Transport::Tcp, "connections", "TCP is spread evenly"),
        ("dns", 53, Transport::Udp, "queries (a socket each)", "UDP is spread evenly"),
    ] {
        let address = stage.samples().cluster_ip(service, false, port);
        let clients: [&dyn Place; 2] = [stage.pod("client-1"), stage.node()];
        let mut counts = BTreeMap::new();
        for client in clients {
            for (server, count) in Dial::new(client, transport, address).times(REQUESTS).servers() {
                *counts.entry(server).or_default() += count;
            }
        }
        let how = format!(
            "{} {address}: {REQUESTS} {what} from client-1, {REQUESTS} from the node",
            transport.manifest_name()
        );
        scene.lines.push(screen.title(service, &how));
        scene.lines.extend(screen.bars(&counts));

        let counts: Vec<_> = counts.into_values().collect();
        let backends = stage.backends(service);
        let (statistic, limit) = (chi_square(&counts), chi_square_limit(backends));
        let found =
            format!("{} of {backends} backends, chi-square {statistic:.1} (chance: < {limit:.0})", counts.len());
        scene.check(name, counts.len() == backends && statistic < limit, found);
    }
    scene
}
