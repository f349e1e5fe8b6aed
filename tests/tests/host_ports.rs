//! hostPorts: ports of a node that are a pod's, as the runtime asks for them by CNI's portMappings.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CniCall, LogOnFailure, Node, Outside, Plan, Pod},
    traffic::{Dial, Outcome, Place, Transport},
    wait,
};

const ALL: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Sctp];
/// Long enough for anything on one machine, short enough to wait for what never comes.
const SHORT: Duration = Duration::from_millis(300);

fn port(host_port: u16, transport: Transport, host_ip: &str) -> Value {
    let protocol = transport.to_string();
    json!({ "hostPort": host_port, "containerPort": 8080, "protocol": protocol, "hostIP": host_ip })
}

/// A pod that has these ports of its node.
fn pod(node: &Node, name: &str, ports: &[Value]) -> Pod {
    node.pod_with(name, &[("portMappings", json!(ports))])
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn reached(from: &dyn Place, transport: Transport, address: SocketAddr) -> String {
    Dial::new(from, transport, address).times(3).only_server()
}

fn refused(from: &dyn Place, address: SocketAddr) -> bool {
    let outcome = Dial::new(from, Transport::Tcp, address).timeout(SHORT).once().outcome;
    matches!(outcome, Outcome::Refused | Outcome::Timeout)
}

#[test]
fn a_port_is_reached_from_everywhere() {
    for flag in ["--socket-lb=true", "--socket-lb=false"] {
        let cluster = Plan::default().node("node-a").node("node-b").far_node("node-c").flag(flag).start();
        let _log = LogOnFailure(&cluster);
        let [near, far, elsewhere] = [0, 1, 2].map(|i| &cluster.nodes()[i]);
        let server = pod(near, "server", &ALL.map(|transport| port(9080, transport, "")));
        let _serving = server.serve(&ALL.map(|transport| (transport, 8080)));
        let beside = near.pod("beside");
        let remote = far.pod("remote");
        let tunnelled = elsewhere.pod("tunnelled");
        let clients: [&dyn Place; 8] = [cluster.outside(), far, elsewhere, near, &beside, &remote, &tunnelled, &server];
        for address in near.addresses() {
            for transport in ALL {
                for client in clients {
                    let name = reached(client, transport, at(address, 9080));
                    assert_eq!(name, server.name(), "{flag}: {} to {transport} {address}", client.name());
                }
                let seen = Dial::new(cluster.outside(), transport, at(address, 9080)).once().client();
                assert!(Outside::ADDRESSES.contains(&seen), "{flag}: the client's own address is kept, not {seen}");
                let seen = Dial::new(&beside, transport, at(address, 9080)).once().client();
                assert_eq!(seen, beside.like(address), "{flag}: the pod's own address is kept");
                for pod in [&remote, &tunnelled] {
                    let seen = Dial::new(pod, transport, at(address, 9080)).once().client();
                    assert_eq!(seen, pod.like(address), "{flag}: {}: another node's, too", pod.name());
                }
            }
        }
        if flag == "--socket-lb=true" {
            let loopback = at("127.0.0.1".parse().unwrap(), 9080);
            assert_eq!(reached(near, Transport::Tcp, loopback), server.name());
            assert!(refused(&beside, loopback), "a pod's loopback is its own");
        }
        assert!(refused(cluster.outside(), at(far.addresses()[0], 9080)), "it is a port of the pod's node only");
        let own = near.addresses()[0];
        assert!(refused(cluster.outside(), at(own, 9081)), "other ports are none of its business");
    }
}

#[test]
fn an_address_may_be_named() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    node.namespace().ip("address add 192.0.2.200/24 dev eth0");
    let [v4, v6] = [node.addresses()[0], node.addresses()[1]];
    let second: IpAddr = "192.0.2.200".parse().unwrap();
    let server = pod(
        node,
        "named",
        &[
            port(9001, Transport::Tcp, "192.0.2.200"),
            port(9002, Transport::Tcp, "127.0.0.1"),
            port(9003, Transport::Tcp, "0.0.0.0"),
            port(9004, Transport::Tcp, "::"),
            port(9001, Transport::Udp, "192.0.2.200"),
            port(9001, Transport::Sctp, "192.0.2.200"),
        ],
    );
    let _serving = server.serve(&ALL.map(|transport| (transport, 8080)));
    let outside = cluster.outside();
    // An address that has just come is found within a second or so.
    let everywhere = || Dial::new(outside, Transport::Tcp, at(second, 9003)).timeout(SHORT).once().outcome;
    wait::until("the new address", Duration::from_secs(10), || matches!(everywhere(), Outcome::Ok(_)).then_some(()));
    for (address, ports) in
        [(v4, [false, false, true, false]), (second, [true, false, true, false]), (v6, [false, false, false, true])]
    {
        for (number, open) in (9001..).zip(ports) {
            if open {
                assert_eq!(reached(outside, Transport::Tcp, at(address, number)), server.name());
            } else {
                assert!(refused(outside, at(address, number)), "{address} {number}");
            }
        }
    }
    for transport in [Transport::Udp, Transport::Sctp] {
        assert_eq!(reached(outside, transport, at(second, 9001)), server.name());
        let outcome = Dial::new(outside, transport, at(v4, 9001)).timeout(SHORT).once().outcome;
        assert!(!matches!(outcome, Outcome::Ok(_)), "{transport}: {outcome:?}");
    }
    assert_eq!(reached(node, Transport::Tcp, at("127.0.0.1".parse().unwrap(), 9002)), server.name());
    assert!(refused(node, at(v4, 9002)), "127.0.0.1 is not the node's other addresses");
}

#[test]
fn a_port_lives_as_long_as_its_pod() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let address = at(node.addresses()[0], 9080);
    let outside = cluster.outside();

    let first = pod(node, "first", &[port(9080, Transport::Tcp, "")]);
    let _serving = first.serve(&[(Transport::Tcp, 8080)]);
    assert_eq!(reached(outside, Transport::Tcp, address), first.name());
    node.kill_agent();
    assert_eq!(reached(outside, Transport::Tcp, address), first.name(), "without an agent");
    node.spawn_agent();
    node.wait_for_sync();
    assert_eq!(reached(outside, Transport::Tcp, address), first.name(), "after a restart");

    // Another that wants the same waits for it.
    let second = pod(node, "second", &[port(9080, Transport::Tcp, "192.0.2.11")]);
    let _serving_too = second.serve(&[(Transport::Tcp, 8080)]);
    assert_eq!(reached(outside, Transport::Tcp, address), first.name());
    let problems = node.problems().join("\n");
    assert!(problems.contains(second.name()) && problems.contains("192.0.2.11:9080"), "{problems}");
    first.cni("DEL").run().unwrap();
    assert_eq!(reached(outside, Transport::Tcp, address), second.name());
    assert!(!node.problems().join("\n").contains("9080"));

    let config = json!({
        "cniVersion": "1.1.0", "name": "fairlead", "type": "fairlead", "runDir": node.run_dir(),
        "cni.dev/valid-attachments": [],
    });
    CniCall::new(node, "GC", "").config(&config.to_string()).run().unwrap();
    assert!(refused(outside, address), "what is collected has no port any more");
}

#[test]
fn a_node_port_of_the_same_number_is_reported() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let server = pod(node, "server", &[port(30080, Transport::Tcp, "")]);
    let _serving = server.serve(&[(Transport::Tcp, 8080)]);
    let service = cluster.service("nodeport").tcp(80, 8080).backends([server.endpoint()]);
    for mut manifest in service.manifests() {
        if manifest["kind"] == "Service" {
            manifest["spec"]["type"] = json!("NodePort");
            manifest["spec"]["ports"][0]["nodePort"] = json!(30080);
        }
        cluster.directory().put(&manifest);
    }
    cluster.wait_for_sync();
    let problems = node.problems().join("\n");
    assert!(problems.contains("30080") && problems.contains(server.name()), "{problems}");
    assert_eq!(reached(cluster.outside(), Transport::Tcp, at(node.addresses()[0], 30080)), server.name());
}
