//! `fairlead why`, `service`, `endpoint` and `flow` against what real sockets meet.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Outside, Plan, Pod},
    manifest::{Endpoint, Service},
    traffic::{Dial, Outcome, Place, Server, Transport},
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
const SHORT: Duration = Duration::from_millis(400);

/// A question, in words, and the real dial that it is about.
struct Question<'a> {
    client: &'a dyn Place,
    /// As `--from` names the client; none: the node.
    from: Option<String>,
    to: String,
    transport: Transport,
    address: SocketAddr,
}

/// What `why` says of it, and that it is what happens.
#[track_caller]
fn ask(bed: &Bed, question: &Question<'_>) -> Value {
    let Question { client, from, to, transport, address } = question;
    let transport_flag = transport.to_string();
    let mut arguments = vec!["why", "--to", to, "-p", &transport_flag];
    if let Some(from) = from {
        arguments.extend(["--from", from]);
    }
    let answer = bed.cluster.node().cli_json(&arguments);
    let attempt = Dial::new(*client, *transport, *address).timeout(SHORT).once();
    let says = answer["outcome"].as_str().unwrap_or_default();
    let as_said = match &attempt.outcome {
        Outcome::Ok(_) => {
            let server = bed.backends.iter().find(|pod| pod.name() == attempt.server()).expect("a backend answers");
            let address = server.like(address.ip());
            let candidates: Vec<&Value> = answer["candidates"].as_array().into_iter().flatten().collect();
            let is_it = |text: &Value| {
                text.as_str().and_then(|text| text.parse().ok()).is_some_and(|at: SocketAddr| at.ip() == address)
            };
            let known = candidates.iter().any(|candidate| is_it(&candidate["address"])) || is_it(&answer["to"]);
            (says.starts_with("delivered") || says == "leaves-node") && known
        }
        Outcome::Refused => says == "refused",
        Outcome::Timeout => says == "dropped",
        other => panic!("{other:?}"),
    };
    assert!(as_said, "{arguments:?} says {answer:#}, but {:?}", attempt.outcome);
    let arrives = says.starts_with("delivered") || says == "leaves-node";
    assert_eq!(step(&answer, "route").is_some(), arrives, "{answer:#}");
    answer
}

/// What an answer says at a step.
fn step<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    let mut steps = answer["steps"].as_array().into_iter().flatten();
    steps.find(|step| step["step"] == name).and_then(|step| step["text"].as_str())
}

/// That an answer says this at a step.
#[track_caller]
fn assert_step(answer: &Value, name: &str, says: &str) {
    assert!(step(answer, name).is_some_and(|text| text.contains(says)), "{name} doesn't say {says:?}: {answer:#}");
}

struct Bed {
    cluster: Cluster,
    backends: Vec<Pod>,
    client: Pod,
    socket_lb: bool,
    _servers: Vec<Server>,
}

fn bed(flags: &[&str]) -> Bed {
    let plan = Plan::default().node("node-a").node("node-b");
    let cluster = flags.iter().fold(plan, |plan, flag| plan.flag(flag)).start();
    let backends: Vec<_> = cluster.nodes().iter().flat_map(|node| node.pods("backend", 2)).collect();
    let servers = backends.iter().map(|pod| pod.serve(&LISTEN)).collect();
    let client = cluster.node().pod("client");
    cluster.wait_for_sync();
    let socket_lb = !flags.contains(&"--socket-lb=false");
    Bed { cluster, backends, client, socket_lb, _servers: servers }
}

#[test]
fn why_is_right_with_socket_load_balancing() {
    why_is_right(&bed(&[]));
}

#[test]
fn why_is_right_per_packet() {
    why_is_right(&bed(&["--socket-lb=false"]));
}

fn why_is_right(bed: &Bed) {
    let Bed { cluster, backends, client, .. } = bed;
    let _log = LogOnFailure(cluster);
    let service = |name: &str| cluster.service(name).tcp(80, 8080).udp(53, 5353);
    let web = service("web").backends(backends.iter().map(Pod::endpoint));
    let one = service("one").backends([backends[0].endpoint()]);
    let remote = service("remote").backends([backends[2].endpoint()]);
    let bound = service("bound").affinity(600).backends(backends.iter().map(Pod::endpoint));
    let none = service("none");
    let local = service("local").internal_local().backends([backends[2].endpoint()]);
    let leaving = service("leaving").backends([backends[0].endpoint().terminating(true)]);
    for service in [&web, &one, &remote, &bound, &none, &local, &leaving] {
        cluster.apply(service);
    }
    let pod = Some(format!("default/{}", client.name()));
    let question = |from: &Option<String>, to: String, transport, address| Question {
        client: if from.is_some() { client } else { cluster.node() },
        from: from.clone(),
        to,
        transport,
        address,
    };
    for from in [pod, None] {
        for (transport, port, family) in [(Transport::Tcp, 80, 4), (Transport::Udp, 53, 4), (Transport::Tcp, 80, 6)] {
            let at = |service: &Service| if family == 4 { service.v4(port) } else { service.v6(port) };
            let answer = ask(bed, &question(&from, at(&web).to_string(), transport, at(&web)));
            assert_eq!(answer["candidates"].as_array().unwrap().len(), 4, "{answer:#}");
            assert_eq!(answer["selection"], "random", "{answer:#}");
            let answer = ask(bed, &question(&from, at(&one).to_string(), transport, at(&one)));
            assert_eq!(answer["selection"], "only-one", "{answer:#}");
            assert_eq!(answer["backend"]["name"], format!("default/{}", backends[0].name()));
            let into =
                if from.is_some() { "straight into the pod's namespace" } else { "the node's end of the pod's pair" };
            // A node's UDP that isn't diverted goes by our device, from which its program sends it on.
            let is_sent = from.is_none() && !bed.socket_lb;
            assert_step(&answer, "route", if is_sent { "straight into" } else { into });
            let answer = ask(bed, &question(&from, at(&leaving).to_string(), transport, at(&leaving)));
            assert!(answer.to_string().contains("serve while they terminate"), "{answer:#}");
            let answer = ask(bed, &question(&from, at(&remote).to_string(), transport, at(&remote)));
            assert_step(&answer, "route", "to the next hop node/node-b");
            let answer = ask(bed, &question(&from, at(&none).to_string(), transport, at(&none)));
            assert_eq!(answer["outcome"], "refused");
            assert!(answer.to_string().contains("no endpoint that is ready"), "{answer:#}");
            let answer = ask(bed, &question(&from, at(&local).to_string(), transport, at(&local)));
            assert_eq!(answer["dropReason"], "no-local-endpoint", "{answer:#}");
            // A port that the ClusterIP doesn't have.
            let unused = SocketAddr::new(at(&web).ip(), 81);
            let answer = ask(bed, &question(&from, unused.to_string(), transport, unused));
            assert_eq!(answer["outcome"], "refused");
        }
        // By names, to a Service and to a Pod past it.
        let named = format!("service/{}:80", one.name);
        ask(bed, &question(&from, named, Transport::Tcp, one.v4(80)));
        let address = SocketAddr::new(backends[1].v4(), 8080);
        ask(bed, &question(&from, format!("pod/{}:8080", backends[1].name()), Transport::Tcp, address));
        // Affinity: told before and after.
        let answer = ask(bed, &question(&from, bound.v4(80).to_string(), Transport::Tcp, bound.v4(80)));
        assert_eq!(answer["candidates"].as_array().unwrap().len(), 4);
        let bound_to =
            Dial::new(if from.is_some() { client } else { cluster.node() }, Transport::Tcp, bound.v4(80)).once();
        let answer = ask(bed, &question(&from, bound.v4(80).to_string(), Transport::Tcp, bound.v4(80)));
        assert_eq!(answer["selection"], "affinity", "{answer:#}");
        let bound_to = backends.iter().find(|pod| pod.name() == bound_to.server()).expect("a backend answers");
        assert_eq!(answer["backend"]["address"], SocketAddr::new(bound_to.v4(), 8080).to_string(), "{answer:#}");
    }
}

#[test]
fn the_way_into_the_overlay_is_told() {
    let cluster = Plan::default().node("node-a").far_node("node-b").start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("pod");
    let to = SocketAddr::new(pods[1].v4(), 8080).to_string();
    cluster.wait_for_sync();
    let answer = cluster.node().cli_json(&["why", "--from", pods[0].name(), "--to", &to]);
    assert_step(&answer, "route", "in VXLAN to node/node-b");
    // What carries it, goes by the router.
    assert_step(&answer, "route", &format!("to the next hop {}", Outside::ADDRESSES[0]));
    assert_eq!(answer["outcome"], "leaves-node");
}

#[test]
fn who_answers_a_client_outside_is_told() {
    let cluster = Plan::default().node("node-a").node("node-b").flag("--load-balancer-mode=dsr").start();
    let _log = LogOnFailure(&cluster);
    let pods = cluster.pod_on_each("backend");
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&LISTEN)).collect();
    let from = Outside::ADDRESSES[0].to_string();
    let dialled = SocketAddr::new(cluster.node().addresses()[0], 30_080);
    let mut service = cluster.service("web").tcp(80, 8080).node_ports(&[30_080]);
    for (backend, answers, route) in [
        (1, "is told that", "past the node's stack"),
        (0, "the backend is on this node, and sees the client's own address", "straight into the pod's namespace"),
    ] {
        service.set_backends([pods[backend].endpoint()]);
        cluster.apply(&service);
        let answer = cluster.node().cli_json(&["why", "--from", &from, "--to", &dialled.to_string()]);
        assert_step(&answer, "answers", answers);
        assert_step(&answer, "route", route);
        assert_eq!(step(&answer, "nat"), Some(&*format!("the destination becomes {}", at(&pods[backend]))));
        let server = Dial::new(cluster.outside(), Transport::Tcp, dialled).once();
        assert_eq!(server.server(), pods[backend].name());
    }
    // A client in the cluster is answered as ever.
    let client = cluster.node().pod("client");
    cluster.wait_for_sync();
    let answer = cluster.node().cli_json(&["why", "--from", client.name(), "--to", &dialled.to_string()]);
    assert_eq!(step(&answer, "answers"), None, "{answer:#}");
}

/// Where a backend serves TCP.
fn at(pod: &Pod) -> SocketAddr {
    SocketAddr::new(pod.v4(), 8080)
}

#[test]
fn policies_are_named() {
    let bed = bed(&[]);
    let Bed { cluster, backends, client, .. } = &bed;
    let _log = LogOnFailure(cluster);
    let one = cluster.service("one").tcp(80, 8080).backends([backends[0].endpoint()]);
    cluster.apply(&one);
    let policy = |name: &str, spec: Value| {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "default", "name": name}, "spec": spec,
        });
        cluster.directory().write(&format!("policy.{name}.json"), &object.to_string());
        cluster.wait_for_sync();
    };
    let question = Question {
        client,
        from: Some(client.name().to_owned()),
        to: format!("{}:80", one.name),
        transport: Transport::Tcp,
        address: one.v4(80),
    };
    policy("shut", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let answer = ask(&bed, &question);
    assert_eq!(answer["dropReason"], "ingress-policy-denied", "{answer:#}");
    assert_eq!(answer["policies"][0]["rule"], "default deny of ingress by default/shut", "{answer:#}");
    policy("web", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 8080}]}]}));
    let answer = ask(&bed, &question);
    assert_eq!(answer["outcome"], "delivered-to-pod");
    assert_eq!(answer["policies"][0]["rule"], "default/web ingress[0]", "{answer:#}");
    policy("quiet", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    let answer = ask(&bed, &question);
    assert_eq!(answer["dropReason"], "egress-policy-denied", "{answer:#}");
    assert_eq!(answer["policies"][0]["allowed"], false);
}

#[test]
fn what_is_in_force_is_shown() {
    let bed = bed(&["--socket-lb=false"]);
    let Bed { cluster, backends, client, .. } = &bed;
    let _log = LogOnFailure(cluster);
    let web = cluster.service("web").tcp(80, 8080).backends(backends.iter().map(Pod::endpoint)).affinity(60);
    cluster.apply(&web);
    let node = cluster.node();
    let list = node.cli_json(&["service", &web.name, "-n", "default"]);
    let service = &list["services"][0];
    assert_eq!(service["affinitySeconds"], 60, "{list:#}");
    let shown: BTreeSet<String> = service["ports"][0]["sets"][0]["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backend| backend["address"].as_str().unwrap_or_default().to_owned())
        .collect();
    let expected: BTreeSet<String> = backends.iter().map(|pod| SocketAddr::new(pod.v4(), 8080).to_string()).collect();
    assert_eq!(shown, expected, "{list:#}");
    assert_eq!(service["ports"][0]["sets"][0]["because"], "ready");

    let attempt = Dial::new(client, Transport::Tcp, web.v4(80)).once();
    let endpoints = node.cli_json(&["endpoint", &web.name]);
    let of_flows: u64 = endpoints["endpoints"].as_array().unwrap().iter().map(|e| e["flows"].as_u64().unwrap()).sum();
    assert!(of_flows <= 1, "{endpoints:#}");
    let mut session = Dial::new(client, Transport::Tcp, web.v4(80)).style(tests::traffic::Style::Kept).open();
    session.ask();
    let flows = node.cli_json(&["flow", "--service", &web.name, "--pod", client.name()]);
    let flow = &flows.as_array().unwrap().iter().find(|flow| flow["state"] == "established").expect("a flow");
    assert_eq!(flow["client"]["name"], format!("default/{}", client.name()));
    let server = backends.iter().find(|pod| pod.name() == attempt.server()).expect("a backend answers");
    assert_eq!(flow["backend"]["address"], server.v4().to_string(), "affinity");
    assert_eq!(flow["service"], format!("default/{}", web.name));
    assert_eq!(node.cli_json(&["flow", "--port", "1"]), json!([]));
}

/// The best of some tries: what the machine does besides isn't counted.
fn milliseconds(cluster: &Cluster, arguments: &[&str]) -> u128 {
    let try_once = || {
        let began = Instant::now();
        let output = cluster.node().cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        began.elapsed().as_millis()
    };
    (0..10).map(|_| try_once()).min().unwrap_or(u128::MAX)
}

#[test]
fn ten_thousand_services_are_no_reason_to_wait() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let items: Vec<Value> = (0..10_000_u32)
        .flat_map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            let addresses = [[10, 97, high, low].into(), format!("fd00:10:97::{number:x}").parse().unwrap()];
            let endpoints = (1..=3).map(|i| Endpoint::new(&[[10, 240 + i, high, low].into()]).on("another-node"));
            Service::new(&format!("many-{number}"), &addresses).tcp(80, 8080).backends(endpoints).manifests()
        })
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    cluster.directory().write("many.json", &list.to_string());
    cluster.wait_for_sync();
    for (arguments, limit) in [
        (&["status"][..], 100),
        (&["why", "--to", "many-77:80"], 200),
        (&["service", "many-77"], 300),
        (&["service", "-o", "json"], 2000),
        (&["endpoint", "-o", "json"], 2000),
        (&["flow"], 200),
    ] {
        let took = milliseconds(&cluster, arguments);
        println!("{arguments:?}: {took} ms");
        assert!(took < limit, "{arguments:?} takes {took} ms, of {limit}");
    }
}

#[test]
fn bad_questions_say_what_to_do() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let web = cluster.service("web").tcp(80, 8080).tcp(81, 8081);
    cluster.apply(&web);
    let web_name = web.name.as_str();
    let nobody = Cluster::of_one(&[]);
    nobody.node().kill_agent();
    for (cluster, arguments, says) in [
        (&cluster, vec!["why", "--to", "nobody:80"], "no Service or Pod default/nobody"),
        (&cluster, vec!["why", "--to", "pod/web:80"], "no Pod default/web"),
        (&cluster, vec!["why", "--to", "10.0.0.1"], "say which port"),
        (&cluster, vec!["why", "--to", web_name], "say which port"),
        (&cluster, vec!["why", "--to", "10.0.0.1:http"], "only a Service's ports have names"),
        (&cluster, vec!["why", "--to", "10.0.0.1:0"], "no port"),
        (&cluster, vec!["why", "--to", "10.0.0.1:80", "--from", "nobody"], "no Pod default/nobody"),
        (&cluster, vec!["why", "--to", "10.0.0.1:80", "--from", "fd00::1"], "no address of the client's family"),
        (&cluster, vec!["why", "--to", "10.0.0.1:80", "-p", "http"], "http"),
        (&cluster, vec!["why"], "--to"),
        (&cluster, vec!["service", "nobody", "-n", "shop"], "in another namespace, say so with -n"),
        (&cluster, vec!["endpoint", "nobody"], "no Service nobody"),
        (&cluster, vec!["flow", "--pod", "nobody"], "no Pod default/nobody"),
        (&cluster, vec!["flow", "--port", "0"], "--port"),
        (&cluster, vec!["flow", "--limit", "many"], "--limit"),
        (&cluster, vec!["service", "--address", "here"], "--address"),
        (&cluster, vec!["status", "-o", "xml"], "xml"),
        (&nobody, vec!["why", "--to", "10.0.0.1:80"], "start `fairlead agent`"),
        (&nobody, vec!["service"], "start `fairlead agent`"),
        (&nobody, vec!["endpoint"], "start `fairlead agent`"),
        (&nobody, vec!["flow"], "start `fairlead agent`"),
    ] {
        let output = cluster.node().cli(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} succeeds: {stderr}");
        assert!(stderr.contains(says), "{arguments:?} doesn't say {says:?}, but {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?} prints something all the same");
    }
}
