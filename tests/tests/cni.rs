//! The CNI plugin, called as a container runtime calls it, and as none should.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path, thread};

use serde_json::{Value, json};
use tests::{
    cluster::{Balancing, Cluster, CniCall, CniError, LogOnFailure, Node, Plan, shared},
    sandbox::{Namespace, output},
    traffic::Place,
};

fn cluster() -> (&'static Cluster, LogOnFailure<'static>) {
    let cluster = shared(Balancing::AtSockets);
    (cluster, LogOnFailure(cluster))
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("an ADD's result has addresses");
    let parse = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    ips.iter().map(|ip| parse(ip).unwrap_or_else(|| panic!("{ip} isn't an address"))).collect()
}

/// The plugin's configuration in this version of CNI, whichever the conflist has.
fn config(node: &Node, version: &str) -> Value {
    json!({ "cniVersion": version, "name": "fairlead", "type": "fairlead", "runDir": node.run_dir() })
}

/// STATUS, which came with version 1.1.
fn status(node: &Node) -> Result<Value, CniError> {
    CniCall::new(node, "STATUS", "").config(&config(node, "1.1.0").to_string()).run()
}

#[test]
fn every_version_gets_a_result_it_understands() {
    let (cluster, _log) = cluster();
    let namespace = cluster.node().pod_namespace("versions");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = config(cluster.node(), version);
        let call = |command| {
            let call = CniCall::new(cluster.node(), command, "versions").namespace(&namespace.path());
            call.config(&config.to_string()).run()
        };
        let result = call("ADD").unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(addresses(&result).len(), 2);
        assert_eq!(
            result["interfaces"].as_array().map_or(0, |all| {
                all.iter().filter(|one| one["name"] == "eth0" && one["sandbox"] == json!(namespace.path())).count()
            }),
            1,
            "{result}"
        );
        let mtu = result["interfaces"].to_string().contains("mtu");
        assert_eq!(mtu, version == "1.1.0", "{result}");
        call("DEL").unwrap();
    }
    namespace.remove();
}

#[test]
fn version_needs_no_agent() {
    let plugin = tests::cluster::binary();
    let mut command = std::process::Command::new(plugin);
    let output = output(command.env("CNI_COMMAND", "VERSION"), r#"{"cniVersion":"1.1.0"}"#);
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let versions = reply["supportedVersions"].as_array().unwrap();
    assert!(output.status.success() && versions.contains(&json!("1.1.0")) && versions.contains(&json!("0.3.1")));
}

#[test]
fn a_hundred_adds_at_once() {
    let (cluster, _log) = cluster();
    let node = cluster.node();
    let namespaces: Vec<Namespace> = (0..100).map(|i| node.pod_namespace(&format!("parallel-{i}"))).collect();
    let all = |command: &str| -> Vec<Value> {
        thread::scope(|scope| {
            let start = |namespace: &Namespace| {
                let call = CniCall::new(node, command, namespace.name()).namespace(&namespace.path());
                scope.spawn(move || call.run().unwrap_or_else(|error| panic!("{error:?}")))
            };
            let calls: Vec<_> = namespaces.iter().map(start).collect();
            calls.into_iter().map(|call| call.join().expect("the call succeeds")).collect()
        })
    };
    let added: Vec<_> = all("ADD").iter().flat_map(addresses).collect();
    let distinct: BTreeSet<_> = added.iter().collect();
    assert_eq!((added.len(), distinct.len()), (200, 200), "an address was given twice");
    let last = namespaces.last().unwrap();
    for address in added.iter().take(2) {
        tests::sandbox::run(last.command("ping").args(["-c1", "-W2", &address.to_string()]), "");
    }
    all("DEL");
    for namespace in &namespaces {
        assert!(!namespace.show("-brief link show").contains("eth0"));
        namespace.remove();
    }
}

#[test]
fn del_can_be_repeated_and_needs_no_namespace() {
    let (cluster, _log) = cluster();
    let node = cluster.node();
    let links = || node.namespace().show("-brief link show").lines().count();
    let namespace = node.pod_namespace("gone");
    let call = |command| CniCall::new(node, command, "gone-container").namespace(&namespace.path()).run();
    call("DEL").expect("what was never there is gone already");
    let result = call("ADD").unwrap();
    let given = addresses(&result);
    namespace.remove();
    call("DEL").expect("a namespace that is gone is no error");
    call("DEL").expect("nor is a second DEL");
    CniCall::new(node, "DEL", "gone-container").run().expect("nor is no namespace at all");
    let after = links();

    // What it had is free again: the pool runs out otherwise.
    let again = node.pod_namespace("again");
    let call = |command| CniCall::new(node, command, "again-container").namespace(&again.path()).run();
    assert_eq!(addresses(&call("ADD").unwrap()).len(), given.len());
    call("DEL").unwrap();
    assert!(links() <= after);
    again.remove();
}

#[test]
fn old_runtimes_can_use_the_conflist_and_new_ones_have_gc_and_status() {
    let (cluster, _log) = cluster();
    let text = fs::read_to_string(cluster.node().cni_conf_dir().join("10-fairlead.conflist")).unwrap();
    let conflist: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(conflist["cniVersion"], "1.0.0");
    assert_eq!(conflist["cniVersions"], json!(["1.0.0", "1.1.0"]));
    assert_eq!(conflist["plugins"][0]["capabilities"], json!({ "portMappings": true }));
}

#[test]
fn gc_takes_away_what_the_runtime_has_forgotten() {
    let (cluster, _log) = cluster();
    let node = cluster.node();
    let [kept, stale] = ["kept", "stale"].map(|name| node.pod_namespace(&format!("gc-{name}")));
    for namespace in [&kept, &stale] {
        let mut config = config(node, "1.1.0");
        config["name"] = json!("collected");
        let call = CniCall::new(node, "ADD", namespace.name()).namespace(&namespace.path());
        call.config(&config.to_string()).run().unwrap();
    }
    let gc = |name: &str, valid: Value| {
        let mut config = config(node, "1.1.0");
        config["name"] = json!(name);
        // Both names, as the reference library gives them.
        config["cni.dev/valid-attachments"] = valid.clone();
        config["cni.dev/attachments"] = valid;
        CniCall::new(node, "GC", "").config(&config.to_string()).run()
    };
    gc("another", json!([])).unwrap();
    assert!(stale.show("-brief link show").contains("eth0"), "another network's are none of its business");
    gc("collected", json!([{ "containerID": kept.name(), "ifname": "eth0" }])).unwrap();
    assert!(!stale.show("-brief link show").contains("eth0"));
    assert!(kept.show("-brief link show").contains("eth0"));
    gc("collected", Value::Null).unwrap();
    assert!(!kept.show("-brief link show").contains("eth0"), "null is how an empty list is written");
    let error = CniCall::new(node, "GC", "").config(&config(node, "1.1.0").to_string()).run().unwrap_err();
    assert_eq!(error.code, 7, "without a list nothing may be collected: {error:?}");
    kept.remove();
    stale.remove();
}

/// Breaks something of the pod whose interface and address are given.
type Damage<'a> = &'a dyn Fn(&str, IpAddr);

#[test]
fn check_sees_what_is_missing() {
    let (cluster, _log) = cluster();
    let node = cluster.node();
    let namespace = node.pod_namespace("check");
    let call = |command| CniCall::new(node, command, "check").namespace(&namespace.path());
    let maps = || {
        let dirs = fs::read_dir(node.bpffs()).unwrap().flatten().map(|entry| entry.path());
        let mut maps = dirs.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("maps-")));
        maps.next().expect("the tables are pinned")
    };
    let run = |program: &str, arguments: &str| {
        tests::sandbox::run(std::process::Command::new(program).args(arguments.split(' ')), "");
    };
    let damages: [(&str, Damage<'_>); 10] = [
        ("route to 0.0.0.0/0", &|_, _| namespace.ip("route del default")),
        ("address", &|_, ip| namespace.ip(&format!("address del {ip}/32 dev eth0"))),
        ("MTU of eth0", &|_, _| namespace.ip("link set eth0 mtu 1300")),
        ("is down", &|_, _| namespace.ip("link set eth0 down")),
        ("MTU of fl", &|host, _| node.namespace().ip(&format!("link set {host} mtu 1300"))),
        ("the route to", &|_, ip| node.namespace().ip(&format!("route del {ip}"))),
        ("neighbour", &|host, ip| node.namespace().ip(&format!("neighbour del {ip} dev {host}"))),
        ("program at", &|host, _| {
            let index = node.namespace().show(&format!("-brief -oneline link show {host}"));
            assert!(index.contains(host));
            let index: u32 = node
                .namespace()
                .show(&format!("-o link show {host}"))
                .split(':')
                .next()
                .and_then(|index| index.parse().ok())
                .expect("an interface has an index");
            fs::remove_file(node.bpffs().join(format!("links/tcx-{index}-ingress"))).unwrap();
        }),
        ("table entry", &|_, ip| {
            let IpAddr::V4(v4) = ip else { panic!("{ip} is none of IPv4") };
            let bytes: Vec<_> = v4.to_ipv6_mapped().octets().iter().map(ToString::to_string).collect();
            run("bpftool", &format!("map delete pinned {} key {}", maps().join("PODS").display(), bytes.join(" ")));
        }),
        ("no interface eth0", &|_, _| namespace.ip("link set eth0 down\nlink set eth0 name eth9")),
    ];
    for (expected, harm) in damages {
        let result = call("ADD").run().unwrap();
        call("CHECK").previous(&result).run().unwrap_or_else(|error| panic!("before {expected}: {error:?}"));
        let host = result["interfaces"][0]["name"].as_str().unwrap();
        harm(host, addresses(&result)[0]);
        let error = call("CHECK").previous(&result).run().expect_err(expected);
        assert!(error.code >= 100 && error.message.contains(expected), "{expected}: {error:?}");
        call("DEL").previous(&result).run().unwrap();
        assert_eq!(call("CHECK").previous(&result).run().unwrap_err().code, 3, "unknown after DEL");
    }
    namespace.remove();
}

#[test]
fn nonsense_is_an_error_that_says_so() {
    let (cluster, _log) = cluster();
    let node = cluster.node();
    let namespace = node.pod_namespace("nonsense");
    let add = || CniCall::new(node, "ADD", "nonsense").namespace(&namespace.path());
    let config = |change: fn(&mut Value)| {
        let mut config = config(node, "1.1.0");
        change(&mut config);
        config.to_string()
    };
    let calls = [
        ("command", add().set("CNI_COMMAND", "FROBNICATE"), 4),
        ("no container", add().set("CNI_CONTAINERID", ""), 4),
        ("container", add().set("CNI_CONTAINERID", "../../etc"), 4),
        ("no interface", add().set("CNI_IFNAME", ""), 4),
        ("interface too long", add().set("CNI_IFNAME", "a-name-of-more-than-fifteen"), 4),
        ("interface with a slash", add().set("CNI_IFNAME", "a/b"), 4),
        ("no namespace", CniCall::new(node, "ADD", "nonsense"), 4),
        ("namespace", add().namespace(Path::new("/dev/null")), 4),
        ("namespace missing", add().namespace(Path::new("/run/netns/there-is-none")), 4),
        ("arguments", add().set("CNI_ARGS", "K8S_POD_NAME"), 4),
        ("empty", add().config(""), 6),
        ("no JSON", add().config("{"), 6),
        ("no object", add().config("[]"), 6),
        ("version", add().config(&config(|c| c["cniVersion"] = json!("9.9.9"))), 1),
        ("version's type", add().config(&config(|c| c["cniVersion"] = json!(1))), 6),
        ("run directory's type", add().config(&config(|c| c["runDir"] = json!({}))), 6),
        ("run directory", add().config(&config(|c| c["runDir"] = json!("run"))), 7),
        ("no name", add().config(&config(|c| c["name"] = json!(""))), 7),
        ("mtu", add().config(&config(|c| c["mtu"] = json!(-1))), 7),
        ("mtu's type", add().config(&config(|c| c["mtu"] = json!("1500"))), 6),
        ("ipam", add().config(&config(|c| c["ipam"] = json!({ "type": "" }))), 7),
        (
            "port",
            add().config(&config(|c| {
                c["runtimeConfig"] = json!({ "portMappings": [{ "hostPort": 1, "containerPort": 0 }] })
            })),
            7,
        ),
        (
            "protocol",
            add().config(&config(|c| {
                c["runtimeConfig"] =
                    json!({ "portMappings": [{ "hostPort": 1, "containerPort": 1, "protocol": "dccp" }] })
            })),
            2,
        ),
    ];
    for (what, call, code) in calls {
        let error = call.run().expect_err(what);
        assert_eq!(error.code, code, "{what}: {error:?}");
        assert!(error.message.len() > 8, "{what}: {error:?}");
    }
    assert!(!namespace.show("-brief link show").contains("eth0"));
    add().run().expect("the agent goes on");
    CniCall::new(node, "DEL", "nonsense").namespace(&namespace.path()).run().unwrap();
    namespace.remove();
}

#[test]
fn without_an_agent_the_runtime_is_to_try_again() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let before = node.pod("before");
    node.kill_agent();
    let namespace = node.pod_namespace("retry");
    let add = || CniCall::new(node, "ADD", "retry").namespace(&namespace.path()).run();
    assert_eq!(add().unwrap_err().code, 11);
    assert_eq!(status(node).unwrap_err().code, 50);
    node.spawn_agent();
    node.wait_for_sync();
    let given = addresses(&add().unwrap());
    assert!(given.iter().all(|address| !before.addresses().contains(address)), "an address was given twice");
    status(node).expect("a running agent is ready");
}

#[test]
fn addresses_outlive_the_agent() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let pods = node.pods("kept", 3);
    let mut given: BTreeSet<_> = pods.iter().flat_map(|pod| pod.addresses().to_vec()).collect();
    for _ in 0..3 {
        node.kill_agent();
        node.spawn_agent();
        node.wait_for_sync();
        let namespace = node.pod_namespace(&format!("later-{}", given.len()));
        let result = CniCall::new(node, "ADD", namespace.name()).namespace(&namespace.path()).run().unwrap();
        for address in addresses(&result) {
            assert!(given.insert(address), "{address} was given twice");
        }
    }
    tests::sandbox::run(pods[0].command("ping").args(["-c1", "-W2", &pods[1].v4().to_string()]), "");
}

#[test]
fn an_exhausted_pool_is_named() {
    let cluster = Plan::default().node("node-a").pod_prefix(29).start();
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let mut namespaces = Vec::new();
    let error = loop {
        let namespace = node.pod_namespace(&format!("pool-{}", namespaces.len()));
        let added = CniCall::new(node, "ADD", namespace.name()).namespace(&namespace.path()).run();
        namespaces.push(namespace);
        match added {
            Ok(_) => assert!(namespaces.len() <= 8, "a /29 has eight addresses"),
            Err(error) => break error,
        }
    };
    assert!(error.code >= 100 && error.message.contains("10.244.1.0/29"), "{error:?}");
    assert_eq!(status(node).unwrap_err().code, 50);
    let problem = || node.problems().into_iter().find(|problem| problem.contains("10.244.1.0/29"));
    assert!(problem().is_some_and(|problem| problem.contains("exhausted")));
    CniCall::new(node, "DEL", namespaces[0].name()).namespace(&namespaces[0].path()).run().unwrap();
    assert_eq!(problem(), None, "an address is free again");
    status(node).expect("an address is free again");
    let last = namespaces.last().unwrap();
    CniCall::new(node, "ADD", last.name()).namespace(&last.path()).run().expect("an address is free again");
}

#[test]
fn a_full_disk_is_an_error_and_services_go_on() {
    let cluster = Plan::default().node("node-a").run_dir_bytes(1 << 20).start();
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let pods = node.pods("pod", 2);
    let _server = pods[1].serve(&[(tests::traffic::Transport::Tcp, 8080)]);

    let filler = node.run_dir().join("filler");
    while fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&filler)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 4096]))
        .is_ok()
    {}
    let namespace = node.pod_namespace("full");
    let add = || CniCall::new(node, "ADD", "full").namespace(&namespace.path()).run();
    let error = add().expect_err("an address that can't be remembered must not be given");
    assert!(error.message.contains("space"), "{error:?}");

    let mut service = cluster.service("full").tcp(80, 8080);
    cluster.apply(&service);
    service.set_backends([pods[1].endpoint()]);
    cluster.apply(&service);
    let dial = tests::traffic::Dial::new(&pods[0], tests::traffic::Transport::Tcp, service.v4(80));
    assert_eq!(dial.times(3).only_server(), pods[1].name());

    fs::remove_file(filler).unwrap();
    add().expect("there is room again");
}
