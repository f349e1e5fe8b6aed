//! What nobody serves is refused at once, not left to time out.

use super::Scene;
use crate::{
    demo::{screen::Screen, stage::Stage},
    traffic::{Dial, Outcome, Transport},
};

/// A SYN that is dropped is sent again after a second: whatever is faster came at once.
const AT_ONCE: u64 = 900_000;

/// A Service by its name, of which family its ClusterIP, and a port.
type Target = (Transport, &'static str, bool, u16);

const UNUSED: [Target; 3] =
    [(Transport::Tcp, "web", false, 81), (Transport::Tcp, "greeter", true, 81), (Transport::Udp, "dns", false, 54)];
const EMPTY: [Target; 2] = [(Transport::Tcp, "empty", false, 80), (Transport::Udp, "empty", false, 53)];

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    scene.lines.push(screen.title("refused", "from client-1, three times each"));
    for (what, name, targets) in [
        ("a port that the Service hasn't", "unused ports are refused", UNUSED.as_slice()),
        ("a Service without endpoints", "no endpoints: refused", EMPTY.as_slice()),
    ] {
        let mut texts = Vec::new();
        let (mut refused, mut asked, mut slowest) = (0, 0, 0);
        for &(transport, service, ipv6, port) in targets {
            let address = stage.samples().cluster_ip(service, ipv6, port);
            for attempt in Dial::new(stage.pod("client-1"), transport, address).times(3).0 {
                asked += 1;
                refused += usize::from(attempt.outcome == Outcome::Refused && attempt.micros < AT_ONCE);
                slowest = slowest.max(attempt.micros);
            }
            texts.push(format!("{} {address}", transport.manifest_name()));
        }
        scene.lines.push(format!("  {what:<31} {}", texts.join(", ")));
        let found = format!("{refused} of {asked}, the slowest after {:.1} ms", slowest as f64 / 1000.0);
        scene.check(name, refused == asked, found);
    }
    scene
}
