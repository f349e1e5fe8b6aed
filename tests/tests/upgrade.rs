//! Two versions of the agent whose tables differ take over from each other, back and forth, and
//! nobody notices.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tests::{
    cluster::{Agent, Cluster, Node, Plan, Pod, binary, other_binary},
    traffic::{Dial, Load, Place, Server, Style, Transport},
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const NODE_PORTS: [u16; 2] = [30_080, 30_053];
/// A SYN that is dropped is sent again after one second, and after two more.
const TIMEOUT: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(120);

/// Two nodes with a backend each, a client of their Services in a pod of the first node, whose agent
/// is the one that changes, and one outside.
struct World {
    cluster: Cluster,
    client: Pod,
    _backends: Vec<Pod>,
    sticky: Vec<(SocketAddr, String)>,
    loads: Vec<Running>,
    _servers: Vec<Server>,
}

/// A load, and how many of its requests failed where that was no wonder.
struct Running {
    name: String,
    style: Style,
    load: Load,
    excused: u64,
}

impl World {
    fn new(flags: &[&str]) -> Self {
        let plan = Plan::default().node("node-a").node("node-b");
        let cluster = flags.iter().fold(plan, |plan, flag| plan.flag(flag)).start();
        let backends: Vec<_> = cluster.pod_on_each("backend").into_iter().chain(cluster.pod_on_each("more")).collect();
        let mut servers: Vec<_> = backends.iter().map(|pod| pod.serve(&LISTEN)).collect();
        servers.push(Server::start(cluster.outside(), &[(Transport::Tcp, 9090)]));
        let endpoints = || backends.iter().map(Pod::endpoint);
        let service =
            cluster.service("steady").tcp(80, 8080).udp(53, 5353).node_ports(&NODE_PORTS).backends(endpoints());
        let sticky = cluster.service("sticky").tcp(80, 8080).node_ports(&[30_081]).affinity(3600).backends(endpoints());
        cluster.apply(&service);
        cluster.apply(&sticky);
        let client = cluster.node().pod("client");

        let mut loads = Vec::new();
        let mut load = |place: &dyn Place, transport, address, style, pause| {
            let name = format!("{} to {transport} {address}, {style}", place.name());
            let dial = Dial::new(place, transport, address).style(style).timeout(TIMEOUT);
            let load = dial.pause(Duration::from_millis(pause)).load();
            loads.push(Running { name, style, load, excused: 0 });
        };
        for address in service.both(80) {
            load(&client, Transport::Tcp, address, Style::Kept, 5);
            load(&client, Transport::Tcp, address, Style::Fresh, 7);
        }
        load(&client, Transport::Udp, service.v4(53), Style::Kept, 5);
        load(&client, Transport::Udp, service.v6(53), Style::Addressed, 5);
        load(cluster.node(), Transport::Tcp, service.v4(80), Style::Fresh, 10);
        for address in cluster.node().addresses() {
            let [tcp, udp] = NODE_PORTS.map(|port| SocketAddr::new(address, port));
            load(cluster.outside(), Transport::Tcp, tcp, Style::Kept, 5);
            load(cluster.outside(), Transport::Tcp, tcp, Style::Fresh, 7);
            load(cluster.outside(), Transport::Udp, udp, Style::Kept, 5);
        }
        // To outside the cluster, with the node's address.
        let outside = SocketAddr::new(tests::cluster::Outside::ADDRESSES[0], 9090);
        load(&client, Transport::Tcp, outside, Style::Kept, 5);
        load(&client, Transport::Tcp, outside, Style::Fresh, 10);

        let node_port = SocketAddr::new(cluster.node().addresses()[0], 30_081);
        let mut world = Self { client, _backends: backends, sticky: Vec::new(), loads, _servers: servers, cluster };
        for address in [sticky.v4(80), sticky.v6(80), node_port] {
            let server = world.ask_sticky(address);
            world.sticky.push((address, server));
        }
        world
    }

    fn node(&self) -> &Node {
        self.cluster.node()
    }

    fn ask_sticky(&self, address: SocketAddr) -> String {
        let from: &dyn Place = if address.port() == 80 { &self.client } else { self.cluster.outside() };
        Dial::new(from, Transport::Tcp, address).timeout(TIMEOUT).times(3).only_server()
    }

    /// Another version starts, as after an upgrade; the one that ran has ended by SIGTERM or SIGKILL.
    fn swap(&self, binary: PathBuf, gently: bool) {
        let old = self.node().agent().take();
        match old {
            Some(old) if gently => assert!(old.stop().success()),
            other => drop(other),
        }
        self.node().use_binary(binary);
        self.node().spawn_agent();
    }

    /// Nothing was lost; but for connections that began between two versions, if `half_done`.
    fn check(&mut self, after: &str, half_done: bool) {
        self.node().wait_for_sync();
        for Running { name, style, load, excused } in &mut self.loads {
            load.wait_for_more(3);
            let report = load.so_far();
            if half_done && *style == Style::Fresh {
                *excused = report.failed;
            }
            assert_eq!(report.failed, *excused, "{name}, after {after}: {report:#?}");
        }
        for (address, server) in &self.sticky {
            assert_eq!(self.ask_sticky(*address), *server, "affinity at {address}, after {after}");
        }
        assert_eq!(self.node().problems(), Vec::<String>::new(), "after {after}");
        let tables = tables(self.node());
        assert_eq!(tables.len(), 1, "of another version's tables nothing is left after {after}: {tables:?}");
    }
}

/// The directories of tables that are there.
fn tables(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.bpffs()).expect("the agent has made it").flatten().map(|entry| entry.path());
    let is_tables = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-"));
    entries.filter(is_tables).collect()
}

fn back_and_forth(flags: &[&str], swaps: usize) {
    let mut world = World::new(flags);
    let before = tables(world.node());
    let nobodys = SocketAddr::new([10, 96, 255, 1].into(), 53);
    Dial::new(&world.client, Transport::Udp, nobodys).timeout(Duration::from_millis(200)).times(3).assert_unanswered();
    let noted = world.node().drops("unknown-cluster-ip");
    assert!(noted >= 3, "{noted}");
    for swap in 0..swaps {
        let (binary, what) = if swap % 2 == 0 { (other_binary(), "an upgrade") } else { (binary(), "a rollback") };
        world.swap(binary, swap / 2 % 2 == 0);
        world.check(what, false);
        assert_eq!(tables(world.node()) == before, swap % 2 == 1, "the versions' tables differ");
    }
    assert_eq!(world.node().drops("unknown-cluster-ip"), noted, "counters go on");
    let log = world.node().log();
    assert!(log.contains("FRAGMENTS") && log.contains("meaning changed"), "what is left is named");
}

#[test]
fn versions_follow_each_other_per_packet() {
    back_and_forth(&["--socket-lb=false"], 4);
}

#[test]
fn versions_follow_each_other_at_sockets() {
    back_and_forth(&[], 2);
}

/// Moments of a change from one version to another.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Tables are being made and filled.
    Tables,
    /// Programs are loaded.
    Programs,
    /// Programs are about to be replaced, or are.
    InForce,
}

impl Moment {
    fn has_come(self, node: &Node, before: &[PathBuf]) -> bool {
        let bpffs = node.bpffs();
        match self {
            Self::Tables => tables(node).iter().any(|maps| !before.contains(maps) && maps.join("FLOWS").exists()),
            Self::Programs => tables(node).len() > 1 && has_programs(&bpffs),
            Self::InForce => {
                fs::read_link(bpffs.join("in-force")).is_ok_and(|maps| !before.contains(&bpffs.join(maps)))
            }
        }
    }
}

fn has_programs(bpffs: &Path) -> bool {
    let entries = fs::read_dir(bpffs).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("programs-"))
}

/// Killed at each stage of its taking over; then the version that ran before starts again, or the
/// same one once more. Killed between the replacing of one program and the next, some programs are one
/// version's and some the other's until then: connections that begin meanwhile may have to wait.
#[test]
fn a_version_that_is_killed_while_it_takes_over_is_not_missed() {
    let mut world = World::new(&["--socket-lb=false"]);
    let node = world.node().clone();
    let node = &node;
    for (moment, goes_on) in
        [(Moment::Tables, false), (Moment::Programs, true), (Moment::InForce, false), (Moment::InForce, true)]
    {
        let before = tables(node);
        let from_other = before.iter().any(|maps| maps != &usual_tables(&world));
        let (old, new) = if from_other { (other_binary(), binary()) } else { (binary(), other_binary()) };
        world.swap(new.clone(), false);
        let end = Instant::now() + PATIENCE;
        while !moment.has_come(node, &before) {
            assert_eq!(node.agent().as_mut().and_then(Agent::ended), None, "the agent ended by itself");
            assert!(Instant::now() < end, "{moment:?} never came; the agent's log:\n{}", node.log());
            thread::sleep(Duration::from_micros(50));
        }
        node.kill_agent();
        world.swap(if goes_on { new } else { old }, false);
        world.check(&format!("a kill at {moment:?}"), matches!(moment, Moment::InForce));
    }
    // Whatever was noted in whichever tables, connections that began long ago go on.
    world.loads.iter().for_each(|running| running.load.wait_for_more(10));
    world.check("all that", false);
}

/// The tables of the binary that the cluster began with.
fn usual_tables(world: &World) -> PathBuf {
    let version = world.node().cli_json(&["version"]);
    let layout = version["tableLayout"].as_str().expect("it is told");
    world.node().bpffs().join(format!("maps-{layout}"))
}
