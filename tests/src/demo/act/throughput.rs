//! iperf3 from a pod through a ClusterIP to a pod, straight to that pod for comparison, and to pods of
//! other nodes.

use std::net::IpAddr;

use serde_json::Value;

use super::Scene;
use crate::{
    demo::{
        screen::{Screen, thousands},
        stage::Stage,
    },
    sandbox::run,
    traffic::Place,
};

/// How long each run takes.
const SECONDS: &str = "2";

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    let address = stage.samples().cluster_ip("iperf", false, 5201);
    let how = format!("TCP {address}: iperf3 from client-1 on node-a to iperf-1 there, {SECONDS} s each");
    scene.lines.push(screen.title("iperf", &how));
    let client = stage.pod("client-1");
    let through = Figure::of(client, address.ip());
    let straight = Figure::of(client, stage.pod("iperf-1").v4());
    let routed = Figure::of(client, stage.pod("iperf-2").v4());
    let tunnelled = Figure::of(client, stage.pod("iperf-3").v4());
    scene.lines.push(format!("  through the ClusterIP  {}", through.text()));
    scene.lines.push(format!("  straight to the pod    {}", straight.text()));
    scene.lines.push(format!("  to node-b, by a route  {}", routed.text()));
    scene.lines.push(format!("  to node-c, in VXLAN    {}", tunnelled.text()));
    let share = through.gigabits / straight.gigabits * 100.0;
    let found = format!("{:.1} Gbit/s, {share:.0} % of straight to the pod", through.gigabits);
    scene.check("throughput", through.gigabits > 0.0, found);
    let found = format!("{:.1} Gbit/s by a route, {:.1} in VXLAN", routed.gigabits, tunnelled.gigabits);
    scene.check("throughput between nodes", routed.gigabits > 0.0 && tunnelled.gigabits > 0.0, found);
    scene
}

/// What iperf3 measured.
struct Figure {
    gigabits: f64,
    retransmits: u64,
}

impl Figure {
    #[track_caller]
    fn of(client: &dyn Place, server: IpAddr) -> Self {
        let mut command = client.command("iperf3");
        command.args(["--client", &server.to_string(), "--port", "5201", "--time", SECONDS, "--json"]);
        let report: Value = serde_json::from_str(&run(&mut command, "")).expect("iperf3 prints JSON");
        let received = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Self {
            gigabits: received.unwrap_or_else(|| panic!("iperf3 has no result: {}", report["error"])) / 1e9,
            retransmits: report["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        }
    }

    fn text(&self) -> String {
        format!("{:>6.2} Gbit/s, segments sent again: {}", self.gigabits, thousands(self.retransmits))
    }
}
