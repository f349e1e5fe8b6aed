//! `fairlead monitor` on a real node: what happens is told with names, within bounds, and only
//! while somebody listens.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tests::{
    cluster::{Balancing, Cluster, LogOnFailure, Node, binary, shared},
    traffic::{Dial, Place, Transport, forge},
    wait,
};

const TCP: [(Transport, u16); 1] = [(Transport::Tcp, 8080)];
const BOTH: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 8080)];
const SHORT: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(10);

/// `fairlead monitor -o json`, and what it has printed. Dropping it kills it.
struct Monitor {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Monitor {
    /// Starts it and waits until it listens.
    #[track_caller]
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let listeners = told(node, BEGINS);
        let mut command = Command::new(binary());
        command.args(["monitor", "-o", "json"]).args(arguments).arg("--run-dir").arg(node.run_dir());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the CLI can be run");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, read) = (child.stdout.take().expect("it is piped"), Arc::clone(&lines));
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
                read.lock().unwrap().push(value);
            }
        });
        wait::until("somebody listens", PATIENCE, || (told(node, BEGINS) > listeners).then_some(()));
        Self { child, lines }
    }

    /// Waits for an event in which all of these fields are so, and returns it.
    #[track_caller]
    fn event(&self, fields: &Value) -> Value {
        let has = |line: &Value| {
            fields.as_object().unwrap().iter().all(|(pointer, value)| line.pointer(pointer) == Some(value))
        };
        let find = || self.lines.lock().unwrap().iter().find(|line| has(line)).cloned();
        wait::poll(PATIENCE, find).unwrap_or_else(|| panic!("no event has {fields}: {:#?}", self.lines.lock().unwrap()))
    }

    fn events(&self) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.get("verdict").is_some()).count()
    }

    fn missed(&self) -> u64 {
        let lines = self.lines.lock().unwrap();
        let counts = lines.iter().filter_map(|line| line["missed"].as_object());
        counts.flat_map(|missed| missed.values().filter_map(Value::as_u64)).sum()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

const BEGINS: &str = "somebody listens";
const ENDS: &str = "nobody listens any more";

/// How often the agent's log has said this.
fn told(node: &Node, words: &str) -> usize {
    node.log().matches(words).count()
}

fn name(pod: &impl Place) -> String {
    format!("default/{}", pod.name())
}

#[test]
fn what_happens_is_told_with_names() {
    let cluster = Cluster::of_one(&["--socket-lb=false"]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let [client, server] = [node.pod("client"), node.pod("server")];
    let _server = server.serve(&BOTH);
    let service = cluster.service("s").tcp(80, 8080).udp(80, 8080).backends([server.endpoint()]);
    let empty = cluster.service("empty").tcp(80, 8080);
    cluster.apply(&service);
    cluster.apply(&empty);
    let monitor = Monitor::start(node, &[]);
    for (transport, protocol) in [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")] {
        Dial::new(&client, transport, service.v4(80)).once().answer();
        monitor.event(&json!({
            "/verdict": "forwarded", "/kind": "new", "/protocol": protocol, "/hook": "from-pod",
            "/source/pod": name(&client), "/service": format!("default/{}", service.name),
            "/backend/pod": name(&server), "/backend/port": 8080, "/destination/port": 80,
        }));
    }
    monitor.event(&json!({"/kind": "closed", "/source/pod": name(&client), "/backend/pod": name(&server)}));
    Dial::new(&client, Transport::Tcp, empty.v4(80)).timeout(SHORT).once();
    monitor.event(&json!({
        "/verdict": "refused", "/source/pod": name(&client), "/service": format!("default/{}", empty.name),
    }));
    let nobody = SocketAddr::from(([10, 96, 255, 1], 80));
    Dial::new(&client, Transport::Udp, nobody).timeout(SHORT).once();
    monitor.event(&json!({
        "/verdict": "dropped", "/reason": "unknown-cluster-ip", "/destination/address": "10.96.255.1",
        "/source/pod": name(&client),
    }));
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "lock"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    cluster.directory().write("lock.json", &policy.to_string());
    cluster.wait_for_sync();
    Dial::new(&client, Transport::Tcp, service.v4(80)).timeout(SHORT).once();
    monitor.event(&json!({
        "/verdict": "denied", "/reason": "ingress-policy-denied", "/source/pod": name(&client),
        "/backend/pod": name(&server), "/policy": "default deny of ingress by default/lock",
    }));
    // A rule that allows is named, too.
    let mut policy = policy;
    policy["spec"]["ingress"] = json!([{"ports": [{"port": 1}]}, {"from": [{"podSelector": {}}]}]);
    cluster.directory().write("lock.json", &policy.to_string());
    cluster.wait_for_sync();
    Dial::new(&client, Transport::Tcp, SocketAddr::new(server.v4(), 8080)).once().answer();
    monitor.event(&json!({
        "/verdict": "forwarded", "/kind": "allowed", "/source/pod": name(&client), "/destination/pod": name(&server),
        "/policy": "default/lock ingress[1]",
    }));
}

#[test]
fn calls_are_told_and_each_listener_gets_what_it_wants() {
    let cluster = shared(Balancing::AtSockets);
    let _log = LogOnFailure(cluster);
    let node = cluster.node();
    let [client, other, server] = [node.pod("client"), node.pod("other"), node.pod("server")];
    let _server = server.serve(&TCP);
    let service = cluster.service("s").tcp(80, 8080).backends([server.endpoint()]);
    cluster.apply(&service);
    let of_client = Monitor::start(node, &["--pod", client.name(), "--verdict", "forwarded"]);
    // The ring is on already, so that the log says nothing more: what it gets shows that it listens.
    let mut command = Command::new(binary());
    command.args(["monitor", "--service", &service.name]).arg("--run-dir").arg(node.run_dir());
    let mut for_people = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the CLI can be run");
    let (sender, lines) = std::sync::mpsc::channel();
    let out = for_people.stdout.take().expect("it is piped");
    thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let line = wait::until("people are told", PATIENCE, || {
        Dial::new(&other, Transport::Tcp, service.v4(80)).once().answer();
        lines.recv_timeout(Duration::from_millis(200)).ok()
    });
    for words in ["forwarded", "new", &name(&other), &format!("default/{}", service.name), &name(&server), "connect"] {
        assert!(line.contains(words), "{words} is not in {line}");
    }
    assert!(!line.contains('\u{1b}'), "no colours where no terminal is: {line:?}");
    Dial::new(&client, Transport::Tcp, service.v4(80)).once().answer();
    of_client.event(
        &json!({"/hook": "connect", "/source/pod": name(&client), "/service": format!("default/{}", service.name)}),
    );
    let told_of_others = of_client.lines.lock().unwrap().iter().any(|line| line["source"]["pod"] == name(&other));
    assert!(!told_of_others, "{:#?}", of_client.lines.lock().unwrap());
    for_people.kill().expect("it runs");
    for_people.wait().expect("it can be waited for");
}

#[test]
fn a_flood_is_bounded_and_counted_and_the_ring_is_off_when_nobody_listens() {
    let cluster = Cluster::of_one(&["--socket-lb=false"]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let client = node.pod("client");
    let nobody = SocketAddr::from(([10, 96, 255, 1], 80));
    let monitor = Monitor::start(node, &["--rate", "100"]);
    forge(&client, Transport::Udp, None, nobody, 20_000);
    wait::until("the flood is counted", PATIENCE, || {
        (monitor.missed() + monitor.events() as u64 >= 20_000).then_some(())
    });
    // However long the flood took, a hundred a second and one more tenth on each CPU.
    assert!(monitor.events() < 5_000, "{} events", monitor.events());
    assert!(monitor.missed() > 10_000, "{} missed", monitor.missed());
    let ended = told(node, ENDS);
    drop(monitor);
    wait::until("the ring is off", PATIENCE, || (told(node, ENDS) > ended).then_some(()));
    // And on again for the next one.
    let monitor = Monitor::start(node, &[]);
    forge(&client, Transport::Udp, None, nobody, 1);
    monitor.event(&json!({"/reason": "unknown-cluster-ip"}));
    // An agent that dies takes its listeners with it.
    node.kill_agent();
    let mut monitor = monitor;
    let status = wait::until("the client ends with its agent", PATIENCE, || monitor.child.try_wait().unwrap());
    assert!(!status.success());
}

/// `fairlead monitor --top` on a terminal of its own, by script(1), and what it has drawn.
struct Top {
    child: Child,
    keys: ChildStdin,
    drawn: Arc<Mutex<Vec<u8>>>,
}

impl Top {
    fn start(node: &Node) -> Self {
        let (binary, run_dir) = (binary(), node.run_dir());
        let command =
            format!("stty rows 40 cols 160; exec {} monitor --top --run-dir {}", binary.display(), run_dir.display());
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).env("TERM", "xterm-256color");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1) is there");
        let (mut out, keys) = (child.stdout.take().expect("it is piped"), child.stdin.take().expect("it is piped"));
        let drawn = Arc::new(Mutex::new(Vec::new()));
        let drawing = Arc::clone(&drawn);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut bytes) {
                drawing.lock().unwrap().extend(&bytes[..read]);
            }
        });
        Self { child, keys, drawn }
    }

    fn drawn(&self) -> String {
        String::from_utf8_lossy(&self.drawn.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        let seen = wait::poll(PATIENCE, || self.drawn().contains(words).then_some(()));
        seen.unwrap_or_else(|| panic!("{words} isn't on the screen: {:?}", self.drawn()));
    }
}

#[test]
fn the_busiest_are_shown_on_a_terminal_which_is_restored() {
    const LEAVES_SCREEN: &str = "\u{1b}[?1049l";
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let [client, server] = [node.pod("client"), node.pod("server")];
    let _server = server.serve(&TCP);
    let service = cluster.service("s").tcp(80, 8080).backends([server.endpoint()]);
    cluster.apply(&service);
    for key in ["q", "\u{3}"] {
        let mut top = Top::start(node);
        top.wait_for("Services");
        Dial::new(&client, Transport::Tcp, service.v4(80)).once().answer();
        top.wait_for(&format!("default/{}", service.name));
        top.wait_for(&name(&client));
        assert!(!top.drawn().contains(LEAVES_SCREEN));
        top.keys.write_all(key.as_bytes()).expect("it reads keys");
        let status = wait::until("it ends", PATIENCE, || top.child.try_wait().unwrap());
        assert!(status.success(), "{key:?}: {status}");
        top.wait_for(LEAVES_SCREEN);
    }
    // That the agent has ended is said when the terminal is as it was.
    let mut top = Top::start(node);
    top.wait_for("Services");
    node.kill_agent();
    let status = wait::until("it ends with its agent", PATIENCE, || top.child.try_wait().unwrap());
    assert!(!status.success());
    top.wait_for("start `fairlead agent`");
    let drawn = top.drawn();
    assert!(drawn.find(LEAVES_SCREEN) < drawn.find("start `fairlead agent`"), "{drawn:?}");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_word() {
    let cluster = shared(Balancing::AtSockets);
    for (arguments, word) in [
        (["--verdict", "lost"], "lost"),
        (["--port", "0"], "0"),
        (["-p", "tpc"], "tpc"),
        (["--rate", "0"], "0"),
        (["-o", "xml"], "xml"),
    ] {
        let output = cluster.node().cli(&[&["monitor"], &arguments[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(word), "{arguments:?}: {said}");
    }
    let output = cluster.node().cli(&["monitor", "--top"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--top needs a terminal"), "{said}");
    let output =
        Command::new(binary()).args(["monitor", "--run-dir", "/nowhere"]).output().expect("the CLI can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("start `fairlead agent`"), "{said}");
}
