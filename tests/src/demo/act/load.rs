//! Backends that go and come back, and an agent that is killed, while clients ask without pause.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::Scene;
use crate::{
    cluster::Node,
    demo::{
        screen::{Screen, thousands},
        stage::Stage,
    },
    statistics::{chi_square, chi_square_limit},
    traffic::{Dial, Load, LoadReport, Style, Transport},
};

/// The backends that go.
const LEAVING: [&str; 2] = ["web-1", "dns-1"];
/// How often the agent is killed.
const KILLS: usize = 3;
/// How long each phase is looked at, and how many requests of each load at least.
const LOOK: (Duration, u64) = (Duration::from_millis(700), 100);

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    let loads = Loads::start(stage);
    scene.lines.push(screen.title("load", "without pause: client-1 and the node → web (a connection per request),"));
    let text = "client-2 → dns (one UDP socket), client-2 → greeter over IPv6 (one connection)";
    scene.lines.push(format!("{:10} {text}", ""));

    let before = Phase::watch(&loads, || ());
    scene.lines.push(before.line("at first"));

    let without = Phase::watch(&loads, || stage.publish(&LEAVING));
    for name in LEAVING {
        stage.end(name);
    }
    let late = Phase::watch(&loads, || ());
    scene.lines.push(without.line("web-1, dns-1 removed"));
    let strays: u64 = LEAVING.iter().map(|name| without.count(name) + late.count(name)).sum();
    let failed = without.failed + late.failed;
    let found =
        format!("{failed} of {} requests failed, {strays} went to the removed", without.answered + late.answered);
    scene.check("backends removed under load", failed == 0 && strays == 0, found);

    let again = Phase::watch(&loads, || {
        LEAVING.iter().for_each(|name| stage.start(name));
        stage.publish(&[]);
    });
    scene.lines.push(again.line("both added again"));
    let web: Vec<_> = again.of("web").map(|(_, count)| count as usize).collect();
    let (backends, statistic) = (stage.backends("web"), chi_square(&web));
    let found = format!("{} of {} requests failed, web-1 has its share again", again.failed, again.answered);
    let even = web.len() == backends && statistic < chi_square_limit(backends);
    scene.check("backends added under load", again.failed == 0 && even, found);

    let drops = drops(stage.node());
    let mut orphaned = 0;
    let since = Instant::now();
    let killed = Phase::watch(&loads, || {
        for _ in 0..KILLS {
            orphaned += kill(stage.node(), &loads);
        }
    });
    let took = since.elapsed();
    scene.lines.push(killed.line(&format!("kill -9 the agent, × {KILLS}")));
    let found = format!(
        "{} of {} requests failed in {:.1} s, {} of them with no agent running",
        killed.failed,
        thousands(killed.answered),
        took.as_secs_f64(),
        thousands(orphaned)
    );
    scene.check("kill -9 of the agent under load", killed.failed == 0, found);
    let lost = self::drops(stage.node()).saturating_sub(drops);
    scene.check("nothing dropped meanwhile", lost == 0, format!("{lost} packets counted as dropped by the datapath"));
    scene
}

/// Kills the agent, lets the loads go on without one, starts it again; gives how many requests were
/// answered while there was none.
fn kill(node: &Node, loads: &Loads) -> u64 {
    node.kill_agent();
    let killed = loads.report();
    let report = loads.report();
    node.spawn_agent();
    node.wait_for_sync();
    report.answered - killed.answered
}

/// How many packets the datapath has dropped, for whatever reason.
fn drops(node: &Node) -> u64 {
    let status = node.cli_json(&["status"]);
    let drops = status["drops"].as_object().into_iter().flatten();
    drops.filter_map(|(_, count)| Value::as_u64(count)).sum()
}

/// The clients that ask all the time.
struct Loads(Vec<Load>);

impl Loads {
    #[track_caller]
    fn start(stage: &Stage) -> Self {
        let at = |service, ipv6, port| stage.samples().cluster_ip(service, ipv6, port);
        let (one, two) = (stage.pod("client-1"), stage.pod("client-2"));
        Self(vec![
            Dial::new(one, Transport::Tcp, at("web", false, 80)).load(),
            Dial::new(stage.node(), Transport::Tcp, at("web", false, 80)).load(),
            Dial::new(two, Transport::Udp, at("dns", false, 53)).style(Style::Addressed).load(),
            Dial::new(two, Transport::Tcp, at("greeter", true, 80)).style(Style::Kept).load(),
        ])
    }

    /// The sum of what became of the requests, up to a moment that isn't before this call.
    #[track_caller]
    fn report(&self) -> LoadReport {
        // Of two reports that arrive after this moment, the second was made after it.
        (0..2).for_each(|_| self.0.iter().for_each(|load| load.wait_for_more(1)));
        let mut sum = LoadReport::default();
        for report in self.0.iter().map(Load::so_far) {
            sum.answered += report.answered;
            sum.failed += report.failed;
            sum.failures.extend(report.failures);
            for (server, count) in report.servers {
                *sum.servers.entry(server).or_default() += count;
            }
        }
        sum
    }
}

/// What became of the requests while something changed, and whom they went to after that.
struct Phase {
    answered: u64,
    failed: u64,
    servers: BTreeMap<String, u64>,
}

impl Phase {
    /// Counts while `change` is made and comes into force, and for a moment after.
    #[track_caller]
    fn watch(loads: &Loads, change: impl FnOnce()) -> Self {
        let first = loads.report();
        change();
        let changed = loads.report();
        let (time, requests) = LOOK;
        thread::sleep(time);
        loads.0.iter().for_each(|load| load.wait_for_more(requests));
        let last = loads.report();
        let servers = last
            .servers
            .iter()
            .map(|(server, count)| (server.clone(), count - changed.servers.get(server).copied().unwrap_or(0)));
        Self {
            answered: last.answered - first.answered,
            failed: last.failed - first.failed,
            servers: servers.collect(),
        }
    }

    fn count(&self, server: &str) -> u64 {
        self.servers.get(server).copied().unwrap_or(0)
    }

    /// The servers of a Service.
    fn of(&self, service: &str) -> impl Iterator<Item = (&str, u64)> {
        let servers = self.servers.iter().filter(move |(server, _)| server.starts_with(service));
        servers.map(|(server, count)| (server.as_str(), *count))
    }

    fn line(&self, what: &str) -> String {
        let mut text = format!("  {what:<22}");
        for service in ["web", "dns"] {
            let total = self.of(service).map(|(_, count)| count).sum::<u64>().max(1);
            for (server, count) in self.of(service) {
                text += &format!(" {server} {:>3} %", (count * 100 + total / 2) / total);
            }
            text += " ";
        }
        text + &format!("{:>6} answered, {} failed", thousands(self.answered), thousands(self.failed))
    }
}
