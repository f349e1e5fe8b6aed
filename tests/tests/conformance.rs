//! kube-proxy's own truth table with real sockets, through a real agent.

use std::collections::{BTreeMap, BTreeSet};

use tests::{
    conformance::{Case, Expect, From, Packet, Pods, Stage, probe, read},
    privilege::root_or_skip,
};

/// Packets that are not sent, by case and what their names have in them, and why.
const LEFT_OUT: [(&str, &str, &str); 2] = [
    (
        "clusterip-general",
        "(SCTP)",
        "sockets of SCTP are a module that a kernel may lack; `datapath_*` have its packets",
    ),
    (
        "healthchecknodeport-open",
        "accepts HealthCheckNodePort",
        "by the case's flags the server listens at 127.0.0.1 only; upstream means that no rule drops the packet",
    ),
];

#[test]
fn at_sockets() {
    check(Pods::Own, &["--socket-lb=true"]);
}

#[test]
fn per_packet() {
    check(Pods::Own, &["--socket-lb=false"]);
}

#[test]
fn beside_another_plugin() {
    check(Pods::Foreign, &["--socket-lb=true"]);
}

fn check(pods: Pods, flags: &[&str]) {
    if !root_or_skip("kube-proxy's cases") {
        return;
    }
    // One run of the agent for all cases with the same flags.
    let mut cases = read();
    cases.sort_by_key(Stage::flags);
    let stage = Stage::new(&cases, pods, flags);
    let mut in_force = Stage::flags(&cases[0]);
    let (mut sent, mut wrong, mut left_out) = (0, vec![], BTreeMap::new());
    for case in &cases {
        if Stage::flags(case) != in_force {
            stage.restart_for(case);
            in_force = Stage::flags(case);
        }
        for step in &case.steps {
            stage.put(case, step);
            for packet in &step.packets {
                if let Some(why) = reason(case, packet, pods, flags) {
                    let (count, ids): &mut (usize, BTreeSet<_>) = left_out.entry(why).or_default();
                    *count += 1;
                    ids.insert(case.id.clone());
                    continue;
                }
                sent += 1;
                if let Err(what) = probe(&stage, step, packet) {
                    let place = format!("{}, step {}, {}", case.id, step.name, packet.name);
                    wrong.push(format!("{place}: {what}, but kube-proxy: {:?}", packet.expect));
                }
            }
        }
    }
    println!("{sent} packets of {} cases sent", cases.len());
    for (why, (count, ids)) in &left_out {
        println!("{count} not sent, since {why}: {ids:?}");
    }
    if !wrong.is_empty() {
        eprintln!("{}", stage.node().log());
    }
    assert!(wrong.is_empty(), "{} of {sent} packets are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let not_sent = left_out.values().map(|(count, _)| count).sum::<usize>();
    assert!(sent + not_sent >= 292, "only {sent} packets were sent; does the file lack some?");
    assert!(not_sent <= 26, "{not_sent} packets were not sent");
}

fn reason(case: &Case, packet: &Packet, pods: Pods, flags: &[&str]) -> Option<&'static str> {
    if pods == Pods::Foreign && packet.name.starts_with("hairpin") {
        return Some("of a pod that another plugin wired the socket hooks don't know that it dials itself");
    }
    if flags.contains(&"--socket-lb=false")
        && packet.from() == From::Localhost
        && matches!(packet.expect, Expect::Dnat { .. })
    {
        return Some("NodePorts at loopback addresses are served by the socket hooks");
    }
    if !case.knows_pods() && matches!(packet.from(), From::Pod | From::External) {
        return Some("Fairlead always knows who is a pod, and what kube-proxy does where it doesn't is never done");
    }
    let found = LEFT_OUT.iter().find(|(id, name, _)| *id == case.id && packet.name.contains(name));
    found.map(|(.., why)| *why)
}
