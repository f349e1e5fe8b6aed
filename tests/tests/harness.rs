//! The harness does what the other tests believe of it: namespaces without Fairlead in them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{
    sandbox::{Namespace, Sandbox, cgroup_mount, make_directory},
    traffic::{Dial, Outcome, Place, Server, Style, Transport},
    wait,
};

/// One end of a cable.
struct Host {
    name: &'static str,
    namespace: Namespace,
    cgroup: PathBuf,
}

impl Host {
    fn new(sandbox: &Sandbox, name: &'static str) -> Self {
        let cgroup = sandbox.cgroup().join(name);
        make_directory(&cgroup);
        Self { name, namespace: sandbox.namespace(name), cgroup }
    }
}

impl Place for Host {
    fn name(&self) -> &str {
        self.name
    }

    fn command(&self, program: &str) -> Command {
        self.namespace.command_in(&self.cgroup, program)
    }
}

fn two_hosts(sandbox: &Sandbox) -> [Host; 2] {
    let hosts = [Host::new(sandbox, "left"), Host::new(sandbox, "right")];
    let right = hosts[1].namespace.name();
    hosts[0].namespace.ip(&format!("link add eth0 type veth peer name eth0 netns {right}"));
    for (host, last) in hosts.iter().zip(1..) {
        host.namespace.ip(&format!(
            "link set eth0 up
             address add 192.0.2.{last}/24 dev eth0
             address add 2001:db8::{last}/64 dev eth0"
        ));
    }
    hosts
}

#[test]
fn clients_tell_what_became_of_their_requests() {
    let sandbox = Sandbox::new();
    let [left, right] = two_hosts(&sandbox);
    let server = Server::start(&right, &[(Transport::Tcp, 80), (Transport::Udp, 53)]);

    for host in ["192.0.2.2", "[2001:db8::2]"] {
        for (transport, port) in [(Transport::Tcp, 80), (Transport::Udp, 53)] {
            let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
            let closed = SocketAddr::new(address.ip(), 9);
            for style in [Style::Fresh, Style::Kept] {
                let attempts = Dial::new(&left, transport, address).style(style).times(3);
                assert_eq!(attempts.only_server(), "right");
                assert!(attempts.0.iter().all(|attempt| attempt.peer == Some(address)), "{attempts:?}");
                Dial::new(&left, transport, closed).style(style).times(2).assert_refused();
            }
        }
    }
    let address: SocketAddr = "192.0.2.2:53".parse().unwrap();
    let addressed = Dial::new(&left, Transport::Udp, address).style(Style::Addressed).port(4000).once();
    assert_eq!(addressed.answer().client, "192.0.2.1:4000".parse().unwrap());

    right.namespace.ip("route add blackhole 192.0.2.1/32");
    Dial::new(&left, Transport::Tcp, address).timeout(Duration::from_millis(50)).times(1).assert_unanswered();
    Dial::new(&left, Transport::Udp, address).timeout(Duration::from_millis(50)).times(1).assert_unanswered();
    drop(server);
}

#[test]
fn sessions_and_loads_see_their_server_go() {
    let sandbox = Sandbox::new();
    let [left, right] = two_hosts(&sandbox);
    let server = Server::start(&right, &[(Transport::Tcp, 80), (Transport::Udp, 53)]);
    let tcp = "192.0.2.2:80".parse().unwrap();
    let udp = "192.0.2.2:53".parse().unwrap();

    let mut stream = Dial::new(&left, Transport::Tcp, tcp).open();
    let mut socket = Dial::new(&left, Transport::Udp, udp).open();
    let load = Dial::new(&left, Transport::Tcp, tcp).load();
    assert_eq!((stream.ask().server(), socket.ask().server()), ("right", "right"));
    assert_eq!(stream.ask().answer().client, stream.ask().answer().client);
    load.wait_for_more(100);
    load.stop().assert_lossless();

    // Paced, or it would use up the refusals that the kernel sends in a second.
    let pace = Duration::from_millis(5);
    let load = Dial::new(&left, Transport::Udp, udp).timeout(Duration::from_millis(100)).pause(pace).load();
    drop(server);
    assert_eq!(stream.ask().outcome, Outcome::Reset);
    assert_eq!(socket.ask().outcome, Outcome::Refused);
    // The first may have reached the server just before its end.
    wait::until("the load fails", Duration::from_secs(5), || (load.so_far().failed > 1).then_some(()));
    assert!(load.stop().failures[1].contains("Refused"));
}

#[test]
fn a_sandbox_leaves_nothing() {
    let sandbox = Sandbox::new();
    let [left, right] = two_hosts(&sandbox);
    let _server = Server::start(&right, &[(Transport::Tcp, 80)]);
    let mut sleep = left.command("sleep").arg("1000").spawn().unwrap();
    let pid = sleep.id().to_string();
    wait::until("sleep is in its cgroup", Duration::from_secs(5), || {
        fs::read_to_string(left.cgroup.join("cgroup.procs")).unwrap().contains(&pid).then_some(())
    });
    let made = [sandbox.cgroup(), sandbox.directory(), left.namespace.path(), right.namespace.path()];
    assert_eq!(made.iter().filter(|path| !path.exists()).collect::<Vec<_>>(), Vec::<&PathBuf>::new());

    drop(sandbox);
    assert_eq!(made.iter().filter(|path| path.exists()).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    assert!(!sleep.wait().unwrap().success());
}

#[test]
fn the_reaper_removes_what_a_killed_run_left() {
    // The reaper of a process that never was: this test plays both.
    let pid = u32::MAX;
    let name = format!("flt{pid}x0");
    let cgroup = cgroup_mount().join(&name);
    make_directory(&cgroup.join("node"));
    let namespace = Path::new("/run/netns").join(format!("{name}-node"));
    assert!(Command::new("ip").args(["netns", "add", &format!("{name}-node")]).status().unwrap().success());

    let mut reaper = Command::new(env!("CARGO_BIN_EXE_reaper"));
    let status = reaper.arg(pid.to_string()).stdin(std::process::Stdio::null()).status().unwrap();
    assert!(status.success());
    assert!(!cgroup.exists() && !namespace.exists());
    assert!(
        fs::read_dir("/run/netns")
            .unwrap()
            .flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with(&name))
    );
}
