//! Backends that go and come back, and an agent that is killed, while clients ask all the time.

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

/// How often the agent is killed.
const KILLS: usize = 2;
/// After each request, so that the machine has time for the agent too.
const PAUSE: Duration = Duration::from_micros(500);
/// How long each phase is looked at, and how many requests of each load at least.
const LOOK: (Duration, u64) = (Duration::from_millis(700), 100);

pub(super) fn play(stage: &mut Stage, screen: &Screen) -> Scene {
    let mut scene = Scene::default();
    let loads = Loads::start(stage);
    scene.lines.push(screen.title("load", "client-1 and the node → web (a connection per request),"));
    scene.lines.push(screen.more("client-2 → dns (one UDP socket), client-2 → greeter over IPv6 (one connection)"));
    let first = Phase::watch(&loads, || ());
    scene.lines.push(first.line("at first"));
    // Of dns, the one that the socket talks to.
    let (dns, _) = first.of("dns").max_by_key(|(_, count)| *count).expect("dns answers");
    let leaving = ["web-1", dns];
    remove(stage, &leaving, &loads, &mut scene);
    add(stage, &leaving, &loads, &mut scene);
    kill(stage.nodes(), &loads, &mut scene);
    scene
}

/// Takes the leaving backends out of their Services, and then off the node.
fn remove(stage: &mut Stage, leaving: &[&str], loads: &Loads, scene: &mut Scene) {
    let without = Phase::watch(loads, || stage.publish(leaving));
    let ended = Phase::watch(loads, || leaving.iter().for_each(|name| stage.end(name)));
    scene.lines.push(without.line(&format!("{} gone", leaving.join(", "))));
    let strays: u64 = leaving.iter().map(|name| without.count(name) + ended.count(name)).sum();
    let failed = without.failed + ended.failed;
    let answered = thousands(without.answered + ended.answered);
    let failures = [without.failures, ended.failures].concat().join("\n");
    let found = format!("{failed} failed, {answered} answered, {strays} of them by the removed\n{failures}");
    scene.check("backends removed under load", failed == 0 && strays == 0, found);
}

/// Starts them again, with addresses that may be others, and puts them back behind their Services.
fn add(stage: &mut Stage, leaving: &[&str], loads: &Loads, scene: &mut Scene) {
    let again = Phase::watch(loads, || {
        leaving.iter().for_each(|name| stage.start(name));
        stage.publish(&[]);
    });
    scene.lines.push(again.line("both back again"));
    let web: Vec<_> = again.of("web").map(|(_, count)| count as usize).collect();
    let backends = stage.backends("web");
    let even = web.len() == backends && chi_square(&web) < chi_square_limit(backends);
    let (answered, by_it) = (thousands(again.answered), thousands(again.count("web-1")));
    let failures = again.failures.join("\n");
    let found = format!("{} failed, {answered} answered, {by_it} by web-1 since\n{failures}", again.failed);
    scene.check("backends added under load", again.failed == 0 && even, found);
}

/// Kills the agents, lets the loads go on without them, starts them again; more than once.
fn kill(nodes: &[Node], loads: &Loads, scene: &mut Scene) {
    let before = drops(nodes);
    let since = Instant::now();
    let mut alone = 0;
    let killed = Phase::watch(loads, || {
        for _ in 0..KILLS {
            nodes.iter().for_each(Node::kill_agent);
            let from = loads.report();
            alone += loads.report().answered - from.answered;
            nodes.iter().for_each(Node::spawn_agent);
            nodes.iter().for_each(Node::wait_for_sync);
        }
    });
    let seconds = since.elapsed().as_secs_f64();
    scene.lines.push(killed.line(&format!("agents killed × {KILLS}")));
    let (answered, alone, failures) = (thousands(killed.answered), thousands(alone), killed.failures.join("\n"));
    let failed = killed.failed;
    let found = format!("{failed} failed, {answered} answered in {seconds:.1} s, {alone} without agents\n{failures}");
    scene.check("agents killed under load", failed == 0, found);
    let lost = drops(nodes).saturating_sub(before);
    scene.check("nothing dropped meanwhile", lost == 0, format!("{lost} packets counted as dropped on the nodes"));
}

/// How many packets the nodes have dropped, for whatever reason.
fn drops(nodes: &[Node]) -> u64 {
    let statuses = nodes.iter().map(|node| node.cli_json(&["status"]));
    let of_one = |status: Value| {
        let drops = status["drops"].as_object().into_iter().flatten();
        drops.filter_map(|(_, count)| Value::as_u64(count)).sum::<u64>()
    };
    statuses.map(of_one).sum()
}

/// The clients that ask all the time.
struct Loads(Vec<Load>);

impl Loads {
    #[track_caller]
    fn start(stage: &Stage) -> Self {
        let at = |service, ipv6, port| stage.samples().cluster_ip(service, ipv6, port);
        let (one, two) = (stage.pod("client-1"), stage.pod("client-2"));
        Self(vec![
            Dial::new(one, Transport::Tcp, at("web", false, 80)).pause(PAUSE).load(),
            Dial::new(stage.node(), Transport::Tcp, at("web", false, 80)).pause(PAUSE).load(),
            Dial::new(two, Transport::Udp, at("dns", false, 53)).style(Style::Addressed).pause(PAUSE).load(),
            Dial::new(two, Transport::Tcp, at("greeter", true, 80)).style(Style::Kept).pause(PAUSE).load(),
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
    failures: Vec<String>,
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
            failures: last.failures.into_iter().filter(|failure| !first.failures.contains(failure)).collect(),
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
        let mut text = format!("  {what:<17}");
        for service in ["web", "dns"] {
            let total = self.of(service).map(|(_, count)| count).sum::<u64>().max(1);
            for (server, count) in self.of(service) {
                text += &format!(" {server} {:>3}%", (count * 100 + total / 2) / total);
            }
            text += " ";
        }
        text + &format!("{:>7} ok, {} failed", thousands(self.answered), thousands(self.failed))
    }
}
