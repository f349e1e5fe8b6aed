//! Policies, labels and ports of pods that change under traffic: an established flow feels each change, and what
//! no change is about is never disturbed by one. Pods that another plugin shapes are no exception.

use std::{
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    sync::LazyLock,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Node, Plan, Pod, ample_bandwidth},
    manifest,
    policed::{
        LISTEN, TRANSPORTS, apply, container_port, delete, label_namespace, label_pod, pod, remove_policy, rewrite_pod,
        write_policy,
    },
    sandbox::run,
    traffic::{Dial, Load, Outcome, Place, Session, Style, Transport},
    wait,
};

/// Two nodes, on the first of which the bandwidth plugin runs behind ours.
fn cluster() -> (&'static Cluster, LogOnFailure<'static>) {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
        let cluster = Plan::default().node("node-a").node("node-b").start();
        cluster.node().chain_bandwidth();
        cluster
    });
    (&CLUSTER, LogOnFailure(&CLUSTER))
}

/// A pod of the default namespace whose traffic the bandwidth plugin shapes, amply.
fn shaped(node: &Node, name: &str) -> Pod {
    node.pod_with(name, &[ample_bandwidth()])
}

/// What is changed in one step, and which of the ports 80 and 81 are open then.
type Step = (&'static str, fn(&Stage), [bool; 2]);

const STEPS: [Step; 18] = [
    ("no policy is there", |_| (), [true, true]),
    ("friends of a blue namespace may come to the port called web", Stage::let_friends_in, [true, false]),
    ("the other port is called so", |stage| stage.servers("server", 81), [false, true]),
    ("the first is called so again", |stage| stage.servers("server", 80), [true, false]),
    ("the namespace isn't blue any more", |stage| stage.namespace("red"), [false, false]),
    ("the namespace is blue again", |stage| stage.namespace("blue"), [true, false]),
    ("the clients aren't friends any more", |stage| stage.clients("stranger"), [false, false]),
    ("the clients are friends again", |stage| stage.clients("friend"), [true, false]),
    ("no policy selects the servers", |stage| stage.servers("free", 80), [true, true]),
    ("a policy selects the servers anew", |stage| stage.servers("server", 80), [true, false]),
    ("the policy is gone", |stage| remove_policy(stage.cluster, "default", "in"), [true, true]),
    ("friends may go to the servers' port called web", Stage::let_friends_out, [true, false]),
    ("the other port is called so there", |stage| stage.servers("server", 81), [false, true]),
    ("it is no server's port", |stage| stage.servers("free", 81), [false, false]),
    ("it is a server's again", |stage| stage.servers("server", 80), [true, false]),
    ("no policy selects the clients", |stage| stage.clients("stranger"), [true, true]),
    ("a policy selects the clients anew", |stage| stage.clients("friend"), [true, false]),
    ("that policy is gone too", |stage| remove_policy(stage.cluster, "default", "out"), [true, true]),
];

struct Stage {
    cluster: &'static Cluster,
    servers: [Pod; 2],
    clients: [Pod; 3],
}

impl Stage {
    /// Writes what the servers are, and which of their ports is called web.
    fn servers(&self, part: &str, web: u16) {
        let ports = TRANSPORTS.map(|transport| container_port(&format!("web-{transport}"), transport, web));
        for pod in &self.servers {
            rewrite_pod(self.cluster, pod, |object| {
                object["metadata"]["labels"] = json!({"part": part});
                object["spec"]["containers"][0]["ports"] = json!(ports);
            });
        }
    }

    fn clients(&self, part: &str) {
        for pod in &self.clients {
            rewrite_pod(self.cluster, pod, |object| object["metadata"]["labels"] = json!({"part": part}));
        }
    }

    fn namespace(&self, team: &str) {
        label_namespace(self.cluster, "default", &json!({"team": team}));
    }

    fn let_friends_in(&self) {
        let friends = json!({
            "namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": {"matchLabels": {"part": "friend"}},
        });
        let spec = json!({
            "podSelector": {"matchLabels": {"part": "server"}},
            "ingress": [{"from": [friends], "ports": Self::web()}],
        });
        write_policy(self.cluster, "default", "in", &spec);
    }

    fn let_friends_out(&self) {
        let servers = json!({"podSelector": {"matchLabels": {"part": "server"}}});
        let spec = json!({
            "podSelector": {"matchLabels": {"part": "friend"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [servers], "ports": Self::web()}],
        });
        write_policy(self.cluster, "default", "out", &spec);
    }

    fn web() -> Value {
        let port =
            |transport: Transport| json!({"port": format!("web-{transport}"), "protocol": transport.manifest_name()});
        json!(TRANSPORTS.map(port))
    }
}

/// A client's socket, kept over all steps.
struct Kept {
    what: String,
    /// 0 or 1: port 80 or 81.
    port: usize,
    session: Session,
    /// The socket's own address as it was last seen.
    own: Option<SocketAddr>,
}

impl Kept {
    /// Asks; what is wrong if it should be so that it is answered or not.
    fn ask(&mut self, expected: bool, has_stayed_open: bool) -> Option<String> {
        let outcome = self.session.ask().outcome;
        let before = self.own.take();
        match outcome {
            Outcome::Ok(answer) if expected => {
                self.own = Some(answer.client);
                let is_another = has_stayed_open && before != self.own;
                is_another.then(|| format!("{}: it is another connection than before", self.what))
            }
            outcome => (expected || matches!(outcome, Outcome::Ok(_)))
                .then(|| format!("{}: {outcome:?}, expected {expected}", self.what)),
        }
    }
}

#[test]
fn an_established_flow_feels_each_change() {
    let (cluster, _log) = cluster();
    let [a, b] = cluster.nodes() else { panic!("there are two nodes") };
    let servers = [a.pod("plain"), shaped(a, "shaped")];
    let clients = [a.pod("near"), shaped(a, "near-shaped"), b.pod("far")];
    let _serving = [servers[0].serve(&LISTEN), servers[1].serve(&LISTEN)];
    let stage = Stage { cluster, servers, clients };
    stage.namespace("blue");
    stage.servers("server", 80);
    stage.clients("friend");
    cluster.wait_for_sync();
    let mut all = Vec::new();
    for (client, server) in stage.clients.iter().flat_map(|client| stage.servers.iter().map(move |it| (client, it))) {
        for (ip, (transport, port)) in server.addresses().iter().flat_map(|ip| LISTEN.map(|at| (*ip, at))) {
            let dial = Dial::new(client, transport, SocketAddr::new(ip, port)).timeout(Duration::from_millis(600));
            let what = format!("{} to {} at {transport} {ip} {port}", client.name(), server.name());
            all.push(Kept { what, port: usize::from(port - 80), session: dial.open(), own: None });
        }
    }
    let mut was_open = [false; 2];
    for (what, change, open) in STEPS {
        change(&stage);
        cluster.wait_for_sync();
        let wrong: Vec<String> = thread::scope(|scope| {
            let asked: Vec<_> = all
                .iter_mut()
                .map(|kept| scope.spawn(|| kept.ask(open[kept.port], open[kept.port] && was_open[kept.port])))
                .collect();
            asked.into_iter().filter_map(|asked| asked.join().expect("a session goes on")).collect()
        });
        assert!(wrong.is_empty(), "when {what}:\n{}", wrong.join("\n"));
        was_open = open;
    }
}

/// A UDP socket in a pod, to which it stays true whoever uses it.
fn socket(pod: &Pod, port: u16) -> UdpSocket {
    let made = pod.namespace().within(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)));
    let socket = made.expect("the pod is there").expect("the port is free");
    socket.set_read_timeout(Some(Duration::from_millis(400))).expect("it isn't zero");
    socket
}

/// What answers a datagram, and was under way when a policy came that denies that, doesn't begin a flow of which
/// what is denied would be the answers.
#[test]
fn a_late_answer_opens_nothing() {
    let (cluster, _log) = cluster();
    let [a, b] = cluster.nodes() else { panic!("there are two nodes") };
    let made = |node, name| pod(cluster, node, "late", name, &json!({"app": name}));
    let [server, near, far] = [made(a, "server"), made(a, "near"), made(b, "far")];
    cluster.wait_for_sync();
    let mut wrong = Vec::new();
    for (isolated, direction) in [(&server, "Ingress"), (&near, "Egress"), (&far, "Egress")] {
        for client in [&near, &far].into_iter().filter(|client| isolated.v4() == client.v4() || direction == "Ingress")
        {
            for ip in server.addresses() {
                let (asks, answers) = (socket(client, 0), socket(&server, 4001));
                let mut datagram = [0; 16];
                asks.send_to(b"before", SocketAddr::new(*ip, 4001)).expect("it can be sent");
                let (_, from) = answers.recv_from(&mut datagram).expect("no policy is there");
                let app = isolated.name().strip_prefix("late-").expect("it is of that namespace");
                let spec = json!({"podSelector": {"matchLabels": {"app": app}}, "policyTypes": [direction]});
                apply(cluster, "late", "late", &spec);
                answers.send_to(b"late", from).expect("it can be sent");
                // It may come or not.
                let _ = asks.recv_from(&mut datagram);
                let sent = asks.send_to(b"behind", SocketAddr::new(*ip, 4001));
                sent.expect("what becomes of it isn't told");
                if answers.recv_from(&mut datagram).is_ok() {
                    wrong.push(format!("{} still sends to {ip}, denied by {direction} of {app}", client.name()));
                }
                delete(cluster, "late", "late");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How long a load may take to feel what is in force.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often everything is rewritten.
const ROUNDS: usize = 150;

/// Packets that a pod's sockets got from others by TCP and UDP, of both families.
fn received(pod: &Pod) -> u64 {
    let counters = ["TcpInSegs", "UdpInDatagrams", "UdpNoPorts", "Udp6InDatagrams", "Udp6NoPorts"];
    // Since the namespace is there; nothing is remembered for the next time.
    let shown = run(pod.command("nstat").args(["--zeros", "--ignore", "--noupdate"]).args(counters), "");
    let counts: Vec<u64> =
        shown.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(counts.len(), counters.len(), "{shown}");
    counts.iter().sum()
}

/// One more version of everything. In each friends may reach the servers, and strangers may not.
fn rewrite_everything(cluster: &Cluster, round: usize, pods: &[(Pod, &str, &str)], aside: &Pod) {
    let is = |role: &str| json!({"podSelector": {"matchLabels": {"role": role}}});
    let friends = match round % 3 {
        0 => json!([is("friend")]),
        1 => json!([{
            "namespaceSelector": {"matchLabels": {"team": "blue"}},
            "podSelector": {"matchExpressions": [
                {"key": "role", "operator": "In", "values": ["friend", format!("friend-{round}")]},
            ]},
        }]),
        _ => json!([
            is(&format!("nobody-{round}")), {"podSelector": {"matchExpressions": [
                {"key": "role", "operator": "NotIn", "values": ["stranger", "server"]},
            ]}},
        ]),
    };
    let mut rules = vec![
        json!({"from": [{"ipBlock": {"cidr": format!("172.16.{}.0/24", round % 250)}}]}),
        json!({"from": [is(&format!("nobody-{}", round % 7))], "ports": [{"port": 80}]}),
        json!({"ports": [{"port": 9000 + round % 50, "endPort": 9100}]}),
    ];
    rules.truncate(round % 4);
    rules.insert(round % (rules.len() + 1), json!({"from": friends}));
    let servers = json!({"matchLabels": {"role": "server"}});
    write_policy(cluster, "churn", "lock", &json!({"podSelector": servers, "ingress": rules}));
    let comes = |every: usize, name: &str, spec: Value| match (round / every).is_multiple_of(2) {
        true => write_policy(cluster, "churn", name, &spec),
        false => remove_policy(cluster, "churn", name),
    };
    comes(1, "all", json!({"podSelector": {}, "ingress": [{"from": [is("friend")], "ports": [{"port": 81}]}]}));
    comes(2, "second", json!({"podSelector": servers, "ingress": [{"from": [is("friend")]}]}));
    comes(
        3,
        "out",
        json!({
            "podSelector": {"matchLabels": {"role": "friend"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [is("server")]}, {"to": [{"ipBlock": {"cidr": format!("172.17.{}.0/24", round % 250)}}]}],
        }),
    );
    for (pod, name, role) in pods {
        label_pod(cluster, pod, "churn", name, &json!({"role": role, "tick": (round % 5).to_string()}));
    }
    label_namespace(cluster, "churn", &json!({"team": "blue", "tick": (round % 5).to_string()}));
    // Somebody who is a friend now and then.
    let [team, role] = if round.is_multiple_of(2) { ["red", "stranger"] } else { ["blue", "friend"] };
    label_namespace(cluster, "aside", &json!({"team": team}));
    label_pod(cluster, aside, "aside", "bystander", &json!({"role": role}));
    // A pod of some other node's.
    let mut elsewhere = manifest::pod("elsewhere", "node-c");
    elsewhere["metadata"] = json!({"namespace": "churn", "name": "elsewhere", "labels": {"role": role}});
    elsewhere["status"]["podIPs"] = json!([{"ip": format!("10.244.250.{}", 1 + round % 3)}]);
    if round.is_multiple_of(4) {
        cluster.directory().delete(&elsewhere);
    } else {
        cluster.directory().put(&elsewhere);
    }
}

#[test]
fn changes_cost_an_allowed_client_nothing_and_give_a_denied_one_nothing() {
    let (cluster, _log) = cluster();
    let [a, b] = cluster.nodes() else { panic!("there are two nodes") };
    let made = |node, name, role| (pod(cluster, node, "churn", name, &json!({"role": role})), name, role);
    let pods = [
        made(a, "server", "server"),
        // The same to policies, and dialled by strangers alone.
        made(a, "quiet", "server"),
        made(a, "near-friend", "friend"),
        made(b, "far-friend", "friend"),
        made(a, "near-stranger", "stranger"),
        made(b, "far-stranger", "stranger"),
    ];
    let [server, quiet, friends @ .., near_stranger, far_stranger] = pods.each_ref().map(|(pod, ..)| pod);
    let strangers = [near_stranger, far_stranger];
    let aside = pod(cluster, b, "aside", "bystander", &json!({}));
    let service = cluster.service("churned").tcp(80, 80).udp(80, 80).backends([server.endpoint()]);
    cluster.apply(&service);
    let _serving = [server.serve(&LISTEN), quiet.serve(&LISTEN)];

    label_namespace(cluster, "churn", &json!({"team": "blue"}));
    rewrite_everything(cluster, 0, &pods, &aside);
    cluster.wait_for_sync();
    let denied: Vec<Load> = strangers
        .iter()
        .flat_map(|stranger| {
            let load = |transport, style, ip, millis| {
                let dial = Dial::new(*stranger, transport, SocketAddr::new(ip, 80)).style(style);
                dial.timeout(Duration::from_millis(millis)).pause(Duration::from_millis(2)).load()
            };
            [
                load(Transport::Tcp, Style::Fresh, quiet.v4(), 50),
                load(Transport::Tcp, Style::Kept, quiet.v6(), 50),
                load(Transport::Udp, Style::Fresh, quiet.v6(), 5),
                load(Transport::Udp, Style::Kept, quiet.v4(), 5),
            ]
        })
        .collect();
    let (received_before, before) = (received(quiet), denied.iter().map(Load::so_far).collect::<Vec<_>>());

    let allowed: Vec<Load> = friends
        .iter()
        .flat_map(|friend| {
            let load = |transport, style, address| {
                // A SYN that is lost is sent again after a second, when nobody waits any more.
                let dial = Dial::new(*friend, transport, address).style(style).timeout(Duration::from_millis(900));
                dial.pause(Duration::from_millis(2)).load()
            };
            [
                load(Transport::Tcp, Style::Fresh, SocketAddr::new(server.v4(), 80)),
                load(Transport::Tcp, Style::Kept, SocketAddr::new(server.v6(), 80)),
                load(Transport::Udp, Style::Fresh, SocketAddr::new(server.v6(), 80)),
                load(Transport::Udp, Style::Kept, service.v4(80)),
            ]
        })
        .collect();
    for round in 1..=ROUNDS {
        rewrite_everything(cluster, round, &pods, &aside);
        // Some changes are taken in one by one, some at once.
        if round.is_multiple_of(3) {
            cluster.wait_for_sync();
        }
    }
    cluster.wait_for_sync();
    for load in &allowed {
        load.wait_for_more(20);
    }
    assert_eq!(received(quiet), received_before, "a stranger's packet has come through");
    for (load, before) in denied.iter().zip(&before) {
        let now = load.so_far();
        assert!(now.failed > before.failed + 20, "a stranger hardly tried: {now:?}");
    }
    for load in allowed {
        load.stop().assert_lossless();
    }
    for name in ["all", "second", "out"] {
        remove_policy(cluster, "churn", name);
    }
    delete(cluster, "churn", "lock");
    for (load, before) in denied.iter().zip(before) {
        wait::until("strangers are answered without policies", PATIENCE, || {
            (load.so_far().answered > before.answered).then_some(())
        });
    }
}
