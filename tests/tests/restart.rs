//! The agent comes and goes and nobody notices; and `cleanup` leaves nothing behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use tests::{
    cluster::{Agent, Cluster, LogOnFailure, Node, Plan, Pod},
    sandbox::{output, run},
    traffic::{Dial, Place, Server, Style, Transport},
    wait,
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];

fn backends(cluster: &Cluster, count: usize) -> (Vec<Pod>, Vec<Server>) {
    let pods = cluster.node().pods("backend", count);
    let servers = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    (pods, servers)
}

fn all_drops(node: &Node) -> BTreeMap<String, u64> {
    serde_json::from_value(node.cli_json(&["status"])["drops"].clone()).expect("drops are numbers by name")
}

/// Kills the agent over and over, at every stage of its start, while requests of every kind run.
fn killed_over_and_over(flags: &[&str]) {
    let cluster = Cluster::of_one(flags);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let (pods, _servers) = backends(&cluster, 3);
    let service = cluster.service("steady").tcp(80, 8080).udp(53, 5353).backends(pods.iter().map(Pod::endpoint));
    let sticky = cluster.service("sticky").tcp(80, 8080).affinity(3600).backends(pods.iter().map(Pod::endpoint));
    cluster.apply(&service);
    cluster.apply(&sticky);
    let client = node.pod("client");
    let before = all_drops(node);
    let chosen = Dial::new(&client, Transport::Tcp, sticky.v4(80)).times(3).only_server();

    let places: [&dyn Place; 2] = [&client, node];
    let mut loads = Vec::new();
    for place in places {
        for (transport, address, style) in [
            (Transport::Tcp, service.v4(80), Style::Fresh),
            (Transport::Tcp, service.v6(80), Style::Kept),
            (Transport::Udp, service.v6(53), Style::Fresh),
            (Transport::Udp, service.v4(53), Style::Kept),
            (Transport::Udp, service.v4(53), Style::Addressed),
        ] {
            let name = format!("{} to {transport} {address}, {style}", place.name());
            loads.push((name, Dial::new(place, transport, address).style(style).load()));
        }
    }
    // From an agent that has hardly begun to one that is in sync.
    for age in [0, 5, 20, 50, 100, 200, 400, 800] {
        node.kill_agent();
        node.spawn_agent();
        let end = Instant::now() + Duration::from_millis(age);
        let died = wait::poll(end - Instant::now(), || node.agent().as_mut().and_then(Agent::ended));
        assert_eq!(died, None, "the agent ended by itself");
    }
    for _ in 0..4 {
        node.kill_agent();
        node.spawn_agent();
        node.wait_for_sync();
        assert_eq!(Dial::new(&client, Transport::Tcp, sticky.v4(80)).times(3).only_server(), chosen);
    }
    for (_, load) in &loads {
        load.wait_for_more(5);
    }
    let reports: Vec<_> = loads.into_iter().map(|(name, load)| (name, load.stop())).collect();
    let lossy: Vec<_> = reports.iter().filter(|(_, report)| report.failed > 0 || report.answered == 0).collect();
    assert!(lossy.is_empty(), "{lossy:#?}");
    assert_eq!(all_drops(node), before);
}

#[test]
fn killed_over_and_over_at_sockets() {
    killed_over_and_over(&[]);
}

#[test]
fn killed_over_and_over_per_packet() {
    killed_over_and_over(&["--socket-lb=false"]);
}

#[test]
fn what_changed_meanwhile_is_in_force_after_a_restart() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let (pods, _servers) = backends(&cluster, 2);
    let client = node.pod("client");
    let mut changed = cluster.service("changed").tcp(80, 8080).backends([pods[0].endpoint()]);
    let deleted = cluster.service("deleted").tcp(80, 8080).backends([pods[0].endpoint()]);
    let added = cluster.service("added").tcp(80, 8080).backends([pods[1].endpoint()]);
    cluster.apply(&changed);
    cluster.apply(&deleted);

    let agent = node.agent().take().expect("an agent runs");
    assert!(agent.stop().success());
    let mut connection = Dial::new(&client, Transport::Tcp, changed.v4(80)).open();
    assert_eq!(connection.ask().server(), pods[0].name(), "the datapath stays after SIGTERM");

    changed.set_backends([pods[1].endpoint()]);
    for manifest in changed.manifests().iter().chain(&added.manifests()) {
        cluster.directory().put(manifest);
    }
    for manifest in deleted.manifests() {
        cluster.directory().delete(&manifest);
    }
    node.spawn_agent();
    node.wait_for_sync();
    for service in [&changed, &added] {
        assert_eq!(Dial::new(&client, Transport::Tcp, service.v4(80)).times(10).only_server(), pods[1].name());
    }
    let gone = Dial::new(&client, Transport::Tcp, deleted.v4(80)).timeout(Duration::from_millis(300)).once();
    assert!(!matches!(gone.outcome, tests::traffic::Outcome::Ok(_)), "{gone:?}");
    assert_eq!(connection.ask().server(), pods[0].name());
}

#[test]
fn a_second_agent_on_the_same_run_directory_is_refused() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let (pods, _servers) = backends(&cluster, 1);
    let service = cluster.service("web").tcp(80, 8080).backends([pods[0].endpoint()]);
    cluster.apply(&service);
    let second = output(&mut cluster.node().agent_command(&[]), "");
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(message.contains(&cluster.node().run_dir().display().to_string()), "{message}");
    // The first one hasn't noticed.
    let client = cluster.node().pod("client");
    assert_eq!(Dial::new(&client, Transport::Tcp, service.v4(80)).times(3).only_server(), pods[0].name());
    cluster.wait_for_sync();
}

/// What a node's namespace and directories hold, line by line: what Fairlead could have changed. Its
/// programs go with their pins.
fn inventory(node: &Node) -> BTreeSet<String> {
    let ip = |arguments: &str| node.namespace().show(arguments);
    // Counters and states of links change by themselves.
    let links = ip("-brief link show");
    let links: Vec<_> = links.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    let mut inventory: Vec<_> = links.iter().map(|link| (*link).to_owned()).collect();
    for arguments in ["route show table all", "-6 route show table all", "rule show", "-6 rule show"] {
        // The kernel makes anycast routes of its own on a node that forwards, and
        // forwarding stays: something else may have come to need it.
        inventory.extend(ip(arguments).lines().filter(|line| !line.starts_with("anycast ")).map(str::to_owned));
    }
    inventory.extend(ip("neighbour show nud permanent").lines().map(str::to_owned));
    inventory.push(run(node.namespace().command("nft").args(["list", "ruleset"]), ""));
    for directory in [node.bpf_mount(), node.cni_conf_dir(), node.cni_bin_dir(), node.run_dir()] {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        inventory.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    inventory.into_iter().collect()
}

#[test]
fn cleanup_leaves_nothing_and_takes_nothing_else() {
    let cluster = Plan::default().node("node-a").without_agents();
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let cleanup = || {
        let output = node.cli(&["cleanup"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    node.namespace().ip("link add other type veth peer name other-peer
         link set other up
         route add 198.51.100.0/24 dev other");
    fs::write(node.cni_conf_dir().join("99-other.conflist"), "{}").unwrap();
    let before = inventory(node);

    node.start_agent(&[]);
    let (pods, _servers) = backends(&cluster, 2);
    let service = cluster.service("web").tcp(80, 8080).backends(pods.iter().map(Pod::endpoint));
    cluster.apply(&service);
    Dial::new(node, Transport::Tcp, service.v4(80)).times(3).servers();
    assert_ne!(inventory(node), before);
    let agent = node.agent().take().expect("an agent runs");
    assert!(agent.stop().success());
    cleanup();
    let after = inventory(node);
    assert_eq!(after.symmetric_difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    // What is gone can be cleaned up again, and a new agent starts from nothing.
    cleanup();
    node.spawn_agent();
    node.wait_for_sync();
}
