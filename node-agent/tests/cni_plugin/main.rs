//! The CNI plugin against the agent's half of it, with real interfaces in network
//! namespaces and no eBPF.

mod faults;
#[path = "../netns/namespace.rs"]
mod namespace;
mod node;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use ipnetwork::IpNetwork;
use namespace::{Namespace, privileged};
use node::Node;
use node_agent::{
    cni::plugin::Code,
    kernel::netlink::{Link, Route, VethEnd},
};
use serde_json::{Value, json};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("a result has addresses");
    ips.iter().map(|ip| ip["address"].as_str().unwrap().parse::<IpNetwork>().unwrap().ip()).collect()
}

fn code<T>(result: Result<T, (u64, String)>) -> u64 {
    result.err().map_or(0, |(code, _)| code)
}

fn ours(code: Code) -> u64 {
    u64::from(code.number())
}

fn pod_link(pod: &Namespace) -> Option<Link> {
    pod.netlink(async |netlink| netlink.link("eth0").await)
}

/// A TCP connection from one namespace to a listener in another; returns the
/// client's address as the listener sees it.
fn connect(from: &Namespace, to: &Namespace, ip: IpAddr) -> IpAddr {
    let listener = to.run(|| TcpListener::bind(SocketAddr::new(ip, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"hello").unwrap();
            peer.ip()
        });
        let mut stream = from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap());
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "hello");
        server.join().unwrap()
    })
}

#[test]
fn a_pods_life() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let (pod, other) = (Namespace::new(), Namespace::new());

    let result = node.command("ADD", "a", &pod.path).unwrap();
    assert_eq!(addresses(&result), ["10.1.0.2".parse::<IpAddr>().unwrap(), "fd00:1::2".parse().unwrap()]);
    let link = pod_link(&pod).unwrap();
    assert_eq!((link.mtu, link.up), (1450, true));
    assert_eq!(result["interfaces"][1]["mtu"], 1450);
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path.to_str().unwrap());
    assert_eq!(result["interfaces"][0]["name"], json!(node.interfaces()[0]));

    let to_other = addresses(&node.command("ADD", "b", &other.path).unwrap());
    for (ip, node_ip) in addresses(&result).iter().zip(["192.0.2.1", "2001:db8::1"]) {
        assert_eq!(connect(&node.namespace, &pod, *ip).to_string(), node_ip, "node to pod");
        let from = connect(&other, &pod, *ip);
        assert!(to_other.contains(&from), "pod to pod, from {from}");
        connect(&pod, &node.namespace, node_ip.parse().unwrap());
    }

    let mut with_result = node.config();
    with_result["prevResult"] = result.clone();
    node.command_with("CHECK", "a", &pod.path, &with_result).unwrap();
    assert_eq!(node.command("ADD", "a", &pod.path).unwrap(), result, "the same again");
    node.command_with("CHECK", "a", &pod.path, &with_result).unwrap();

    node.stop_agent();
    node.start_agent();
    node.command_with("CHECK", "a", &pod.path, &with_result).unwrap();
    for ip in addresses(&result) {
        connect(&node.namespace, &pod, ip);
    }

    node.command("DEL", "a", &pod.path).unwrap();
    assert_eq!(pod_link(&pod), None);
    node.command("DEL", "a", &pod.path).unwrap();
    assert_eq!(code(node.command_with("CHECK", "a", &pod.path, &with_result)), ours(Code::UnknownContainer));
    assert_eq!(node.interfaces().len(), 1);
}

#[test]
fn check_finds_what_is_missing() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let pod = Namespace::new();
    let result = node.command("ADD", "a", &pod.path).unwrap();
    let mut with_result = node.config();
    with_result["prevResult"] = result.clone();
    let host_ifname = node.interfaces().remove(0);
    let ip = addresses(&result)[0];

    let damage: [(&str, &dyn Fn()); 5] = [
        ("route to 10.1.0.2", &|| {
            node.namespace.netlink(async |netlink| {
                let ifindex = netlink.link(&host_ifname).await?.unwrap().index;
                assert!(netlink.delete_route(&Route::to_host(ip, ifindex)).await?);
                assert!(!netlink.delete_route(&Route::to_host(ip, ifindex)).await?);
                Ok(())
            });
        }),
        ("neighbour entry of 10.1.0.2", &|| {
            node.namespace.netlink(async |netlink| {
                let ifindex = netlink.link(&host_ifname).await?.unwrap().index;
                assert!(netlink.delete_neighbour(ifindex, ip).await?);
                Ok(())
            });
        }),
        ("lost its route to ::/0", &|| {
            pod.netlink(async |netlink| {
                let ifindex = netlink.link("eth0").await?.unwrap().index;
                assert!(netlink.delete_route(&Route::default_via("fe80::1".parse().unwrap(), ifindex)).await?);
                Ok(())
            });
        }),
        ("neighbour entry for 169.254.1.1", &|| {
            pod.netlink(async |netlink| {
                let ifindex = netlink.link("eth0").await?.unwrap().index;
                assert!(netlink.delete_neighbour(ifindex, "169.254.1.1".parse().unwrap()).await?);
                Ok(())
            });
        }),
        ("no interface eth0 in the pod", &|| {
            pod.netlink(async |netlink| netlink.delete_link("eth0").await);
            let eth0 = VethEnd { name: &host_ifname, mac: [2, 0, 0, 0, 0, 1], mtu: 1500 };
            let peer = VethEnd { name: "peer", mac: [2, 0, 0, 0, 0, 2], mtu: 1500 };
            node.namespace.netlink(async |netlink| netlink.add_veth(&eth0, &peer, None).await);
        }),
    ];
    for (expected, harm) in damage {
        node.command_with("CHECK", "a", &pod.path, &with_result).unwrap();
        harm();
        let (code, message) = node.command_with("CHECK", "a", &pod.path, &with_result).unwrap_err();
        assert_eq!(code, ours(Code::Mismatch), "{message}");
        let by_node = message.contains(" is down") && expected.contains("no interface");
        assert!(message.contains(expected) || by_node, "{expected}: {message}");
        // An ADD puts right whatever is still ours.
        if expected.contains("no interface") {
            node.command("DEL", "a", &pod.path).unwrap();
        }
        with_result["prevResult"] = node.command("ADD", "a", &pod.path).unwrap();
    }
}

#[test]
fn a_hundred_at_once_while_the_agent_restarts() {
    if !privileged() {
        return;
    }
    const PODS: usize = 100;
    let run_dir = tempfile::tempdir().unwrap();
    // As many addresses as pods (61 + 29 + 5 + 5), so that the search goes round and every slip shows.
    let cidrs = ["10.1.0.0/26", "10.2.0.0/27", "10.3.0.0/29", "10.4.0.0/29", "fd00:1::/64"];
    let node = Node::new(run_dir.path(), &cidrs);
    let pods: Vec<Namespace> = (0..PODS).map(|_| Namespace::new()).collect();
    // As a runtime does: try again what is to be tried again.
    let persist = |command: &str, i: usize| {
        loop {
            match node.command(command, &format!("pod-{i}"), &pods[i].path) {
                Err((code, _)) if code == ours(Code::TryAgain) => thread::sleep(Duration::from_millis(10)),
                other => return other.unwrap(),
            }
        }
    };
    let results: Vec<Value> = thread::scope(|scope| {
        // Half of them come, go and come again, so that addresses are reserved at all times.
        let life = move |i: usize| {
            if i.is_multiple_of(2) {
                persist("ADD", i);
                persist("DEL", i);
            }
            persist("ADD", i)
        };
        let adds: Vec<_> = (0..PODS).map(|i| scope.spawn(move || life(i))).collect();
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(100));
            node.stop_agent();
            node.start_agent();
        }
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let given: Vec<IpAddr> = results.iter().flat_map(addresses).collect();
    assert_eq!(given.len(), 2 * PODS);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 2 * PODS, "no address is given twice: {given:?}");
    assert_eq!(node.interfaces().len(), PODS);
    for (pod, result) in pods.iter().zip(&results).step_by(9) {
        for ip in addresses(result) {
            connect(&node.namespace, pod, ip);
        }
    }
    thread::scope(|scope| (0..PODS).for_each(|i| drop(scope.spawn(move || persist("DEL", i)))));
    assert_eq!(node.interfaces(), [] as [String; 0]);
    assert_eq!(node.namespace.netlink(async |netlink| netlink.our_routes().await), []);
    let saved: Value = serde_json::from_slice(&fs::read(run_dir.path().join("pods.json")).unwrap()).unwrap();
    assert_eq!(saved["attachments"], json!([]));
}

#[test]
fn del_needs_no_namespace() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &["10.1.0.0/30"]);
    for netns in ["", "/nonexistent", "/etc/passwd"] {
        let pod = Namespace::new();
        node.command("ADD", "a", &pod.path).unwrap();
        node.command("DEL", "a", Path::new(netns)).unwrap();
        assert_eq!(node.interfaces(), [] as [String; 0], "{netns:?}");
    }
    let pod = Namespace::new();
    node.command("ADD", "a", &pod.path).unwrap();
    let path = pod.path.clone();
    drop(pod);
    node.command("DEL", "a", &path).unwrap();
    node.command("ADD", "b", &Namespace::new().path).unwrap();
}

#[test]
fn a_half_done_add_is_done_again() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let pod = Namespace::new();
    // The interface stands, the agent has never heard of it.
    node.command("ADD", "a", &pod.path).unwrap();
    node.stop_agent();
    fs::remove_file(run_dir.path().join("pods.json")).unwrap();
    node.start_agent();
    let elsewhere = node.command("ADD", "b", &Namespace::new().path).unwrap();
    let result = node.command("ADD", "a", &pod.path).unwrap();
    assert_ne!(addresses(&result), addresses(&elsewhere));
    let in_pod = pod.netlink(async |netlink| netlink.addresses().await);
    let in_pod: Vec<IpAddr> = in_pod.iter().filter(|a| a.global && !a.ip.is_loopback()).map(|a| a.ip).collect();
    assert_eq!(in_pod, addresses(&result), "no address of before is left");
    for ip in in_pod {
        connect(&node.namespace, &pod, ip);
    }
    // The same container in another namespace, as after a restart of its sandbox.
    let other = Namespace::new();
    let moved = node.command("ADD", "a", &other.path).unwrap();
    assert_eq!(addresses(&moved), addresses(&result));
    assert_eq!(pod_link(&pod), None);
    connect(&node.namespace, &other, addresses(&moved)[0]);
}

#[test]
fn pods_that_the_agent_does_not_know_are_held() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let pods: Vec<_> = ["known", "new"].map(|name| (name, Namespace::new())).into();
    for (name, pod) in &pods {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}");
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", *name),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", pod.path.to_str().unwrap()),
            ("CNI_ARGS", &args),
        ];
        node.plugin(&variables, &node.config().to_string()).unwrap();
    }
    assert_eq!(node.held.lock().unwrap().iter().collect::<Vec<_>>(), ["new"]);
}

#[test]
fn gc_removes_what_the_runtime_does_not_know() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let (kept, stale) = (Namespace::new(), Namespace::new());
    node.command("ADD", "kept", &kept.path).unwrap();
    node.command("ADD", "stale", &stale.path).unwrap();
    let mut config = node.config();
    assert_eq!(code(node.command_with("GC", "-", Path::new(""), &config)), ours(Code::InvalidConfig));
    config["cni.dev/valid-attachments"] = json!([{ "containerID": "kept", "ifname": "eth0" }]);
    node.command_with("GC", "-", Path::new(""), &config).unwrap();
    assert!(pod_link(&kept).is_some());
    assert_eq!(pod_link(&stale), None);
}

#[test]
fn every_version_of_cni() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let versions = node.plugin(&[("CNI_COMMAND", "VERSION")], "").unwrap();
    let supported: Vec<String> = serde_json::from_value(versions["supportedVersions"].clone()).unwrap();
    assert_eq!(supported.len(), 7);
    for version in supported {
        let pod = Namespace::new();
        let mut config = node.config();
        config["cniVersion"] = json!(version);
        let result = node.command_with("ADD", "a", &pod.path, &config).unwrap();
        assert_eq!(result["cniVersion"], json!(version));
        let old = version.as_str() < "0.3.0";
        assert_eq!((result.get("ip4").is_some(), result.get("ips").is_some()), (old, !old), "{version}");
        config["prevResult"] = result;
        let check = node.command_with("CHECK", "a", &pod.path, &config);
        let expected = if version.as_str() < "0.4.0" { ours(Code::IncompatibleVersion) } else { 0 };
        assert_eq!(code(check), expected, "{version}");
        node.command_with("DEL", "a", &pod.path, &config).unwrap();
    }
}
