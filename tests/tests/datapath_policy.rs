//! Where policy stands on a packet's way, over tables in memory: what is asked, what answers pass,
//! and what becomes of a flow when policies change.

use std::net::SocketAddr;

use datapath::{
    abi::{
        DropReason, Family, PodPolicy, PolicyDenial, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey,
        direction, protocol,
    },
    memory::{MemoryPacket, MemoryTables},
    paths::{self, Verdict, Work},
};
use tests::packets::{
    build::{self, Packet, answering, opening, udp},
    place::{FAMILIES, Place},
    world::{ServicePort, World},
};

const POD: Place = Place::Pod(1);
const NEIGHBOUR: Place = Place::Pod(2);
const FRIEND: Place = Place::RemotePod;
const STRANGER: Place = Place::Outside;
const GENERATION: u32 = 1;
const CLASS: u32 = 7;
const LIST: u32 = GENERATION << PodPolicy::GENERATION_SHIFT | 3;
const RULE: u32 = 9;

/// The set of a pod that is isolated so.
const fn set(isolated: u32) -> u32 {
    GENERATION << PodPolicy::GENERATION_SHIFT | isolated | 1
}

/// The pod is isolated so; what its policies allow is in which direction, a friend at port 80 of TCP and UDP.
fn world(isolated: u32, allowed: &[u32]) -> MemoryTables {
    let mut tables = World::new().with(SERVICE, &[(POD, 80)]).tables;
    tables.policy_epoch = 1;
    for family in FAMILIES {
        let pod = tables.pods.get_mut(&POD.addr(family)).unwrap();
        pod.policy_set = set(isolated);
        tables.policy.peers.insert(PolicyPeerKey { addr: FRIEND.addr(family), generation: GENERATION }, CLASS);
    }
    for protocol in [protocol::TCP, protocol::UDP] {
        tables.policy.ports.insert(PolicyPortKey::exact(LIST, protocol, datapath::abi::Be16::new(80)), RULE);
    }
    for direction in allowed {
        let key = PolicyVerdictKey { set: set(isolated), class: CLASS, direction: *direction };
        tables.policy.verdicts.insert(key, PolicyVerdict { rule: 0, ports: LIST });
    }
    tables
}

const SERVICE: ServicePort = ServicePort { ip: Place::ClusterIp(10), port: 80, protocol: protocol::UDP };

/// The node's end of the pod's pair.
const IFINDEX: u32 = 101;

fn run(
    tables: &mut MemoryTables,
    packet: &Packet,
    by: impl FnOnce(&mut MemoryPacket, &mut Work, &mut MemoryTables),
) -> Option<DropReason> {
    let mut bytes = MemoryPacket(packet.bytes());
    let mut work = Work::EMPTY;
    work.read(&bytes, packet.family()).unwrap();
    by(&mut bytes, &mut work, tables);
    match work.verdict {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    }
}

fn sends(tables: &mut MemoryTables, packet: &Packet) -> Option<DropReason> {
    run(tables, packet, |bytes, work, tables| paths::from_judged_pod(bytes, work, tables, IFINDEX))
}

fn gets(tables: &mut MemoryTables, packet: &Packet) -> Option<DropReason> {
    run(tables, packet, paths::from_network)
}

fn ends(family: Family, other: Place) -> (SocketAddr, SocketAddr) {
    (other.at(family, 40_000), POD.at(family, 80))
}

const IN: Option<DropReason> = Some(DropReason::IngressDenied);
const OUT: Option<DropReason> = Some(DropReason::EgressDenied);
const BOTH: u32 = PodPolicy::BOTH;

#[test]
fn what_is_allowed_passes_with_its_answers_and_nothing_else_does() {
    for family in FAMILIES {
        for protocol in [protocol::TCP, protocol::UDP] {
            let (friend, pod) = ends(family, FRIEND);
            let (stranger, _) = ends(family, STRANGER);
            let mut tables = world(BOTH, &[direction::INGRESS]);
            // TCP that nobody noted may be older than the policy.
            let unasked = if protocol == protocol::TCP { None } else { OUT };
            assert_eq!(sends(&mut tables, &answering(protocol, pod, friend)), unasked);
            assert_eq!(gets(&mut tables, &opening(protocol, stranger, pod)), IN);
            assert_eq!(gets(&mut tables, &opening(protocol, friend, POD.at(family, 81))), IN);
            assert_eq!(gets(&mut tables, &opening(protocol, friend, pod)), None);
            assert_eq!(sends(&mut tables, &answering(protocol, pod, friend)), None);
            assert_eq!(sends(&mut tables, &opening(protocol, POD.at(family, 9), FRIEND.at(family, 80))), OUT);
            // And the other way round.
            let mut tables = world(BOTH, &[direction::EGRESS]);
            let (from, to) = (POD.at(family, 40_000), FRIEND.at(family, 80));
            assert_eq!(
                gets(&mut tables, &answering(protocol, to, from)).is_some(),
                protocol != protocol::TCP,
                "{protocol}"
            );
            assert_eq!(sends(&mut tables, &opening(protocol, from, to)), None);
            assert_eq!(gets(&mut tables, &answering(protocol, to, from)), None);
            assert_eq!(gets(&mut tables, &opening(protocol, FRIEND.at(family, 5), pod)), IN);
        }
    }
}

#[test]
fn what_denies_is_counted() {
    let mut tables = world(BOTH, &[direction::INGRESS, direction::EGRESS]);
    let (friend, pod) = ends(Family::V4, FRIEND);
    let (stranger, _) = ends(Family::V4, STRANGER);
    let denying = |said, set, direction| PolicyDenial { rule: said, set, direction };
    let denied = |tables: &MemoryTables| {
        let mut all: Vec<_> = tables.policy_denials.iter().map(|(denial, count)| (*denial, *count)).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(gets(&mut tables, &opening(protocol::TCP, friend, pod)), None);
    assert_eq!(denied(&tables), []);
    for _ in 0..2 {
        assert_eq!(gets(&mut tables, &opening(protocol::TCP, stranger, pod)), IN);
    }
    assert_eq!(sends(&mut tables, &udp(pod, stranger)), OUT);
    let defaults = [(denying(0, set(BOTH), direction::INGRESS), 2), (denying(0, set(BOTH), direction::EGRESS), 1)];
    assert_eq!(denied(&tables), defaults);
    // A rule that denies is named whatever set it is of, and whoever is allowed as an address, too.
    let key = PolicyVerdictKey { set: set(BOTH), class: CLASS, direction: direction::INGRESS };
    tables.policy.verdicts.insert(key, PolicyVerdict { rule: PolicyVerdict::DENY | RULE, ports: 0 });
    let anybody = PolicyVerdictKey { class: 0, ..key };
    tables.policy.verdicts.insert(anybody, PolicyVerdict { rule: PolicyVerdict::DEFAULT_ALLOW, ports: 0 });
    tables.policy_epoch += 1;
    assert_eq!(gets(&mut tables, &opening(protocol::TCP, stranger, pod)), None);
    assert_eq!(gets(&mut tables, &opening(protocol::TCP, friend, pod)), IN);
    let by_rule = (denying(RULE, GENERATION << PodPolicy::GENERATION_SHIFT, direction::INGRESS), 1);
    assert_eq!(denied(&tables), [defaults[0], defaults[1], by_rule]);
}

#[test]
fn one_direction_alone_lets_the_other_be_answered() {
    for family in FAMILIES {
        let (from, to) = (POD.at(family, 9), STRANGER.at(family, 53));
        let mut tables = world(PodPolicy::INGRESS, &[]);
        assert_eq!(gets(&mut tables, &udp(to, from)), IN);
        assert_eq!(sends(&mut tables, &udp(from, to)), None);
        assert_eq!(gets(&mut tables, &udp(to, from)), None);
        tables.now += 200 * 1_000_000_000;
        assert_eq!(gets(&mut tables, &udp(to, from)), IN, "too late for an answer");
        let mut tables = world(PodPolicy::EGRESS, &[]);
        assert_eq!(sends(&mut tables, &udp(from, to)), OUT);
        assert_eq!(gets(&mut tables, &udp(to, from)), None);
        assert_eq!(sends(&mut tables, &udp(from, to)), None);
    }
}

#[test]
fn a_denied_attempt_is_no_reason_to_deny_the_other_end() {
    // Both ends are local and judged, and use one port; only one may begin.
    let family = Family::V4;
    let mut tables = world(PodPolicy::INGRESS, &[]);
    let neighbour = tables.pods.get_mut(&NEIGHBOUR.addr(family)).unwrap();
    neighbour.policy_set = set(PodPolicy::EGRESS);
    let key = PolicyVerdictKey { set: set(PodPolicy::EGRESS), class: 0, direction: direction::EGRESS };
    tables.policy.verdicts.insert(key, PolicyVerdict { rule: RULE, ports: 0 });
    let (pod, other) = (POD.at(family, 500), NEIGHBOUR.at(family, 500));
    let tried = run(&mut tables, &udp(other, pod), |b, w, t| paths::from_judged_pod(b, w, t, IFINDEX + 1));
    assert_eq!(tried, IN);
    assert_eq!(sends(&mut tables, &udp(pod, other)), None, "the pod may begin");
    let answered = run(&mut tables, &udp(other, pod), |b, w, t| paths::from_judged_pod(b, w, t, IFINDEX + 1));
    assert_eq!(answered, None);
}

#[test]
fn a_change_is_felt_by_what_is_established() {
    for family in FAMILIES {
        let (friend, pod) = ends(family, FRIEND);
        let mut tables = world(PodPolicy::INGRESS, &[direction::INGRESS]);
        assert_eq!(gets(&mut tables, &opening(protocol::TCP, friend, pod)), None);
        tables.policy.verdicts.clear();
        assert_eq!(gets(&mut tables, &answering(protocol::TCP, friend, pod)), None, "known for this epoch");
        tables.policy_epoch += 1;
        assert_eq!(gets(&mut tables, &answering(protocol::TCP, friend, pod)), IN);
    }
}

#[test]
fn the_node_groups_and_errors_pass_and_icmp_needs_a_rule_without_ports() {
    for family in FAMILIES {
        let mut tables = world(BOTH, &[direction::INGRESS, direction::EGRESS]);
        let (friend, pod) = ends(family, FRIEND);
        assert_eq!(sends(&mut tables, &opening(protocol::TCP, POD.at(family, 9), Place::Node.at(family, 22))), None);
        let (src, dst) = (POD.ip(family), FRIEND.ip(family));
        assert_eq!(sends(&mut tables, &build::echo(src, dst)), OUT);
        let dialled = udp(friend, pod);
        let error = build::port_unreachable(src, dst, &dialled.bytes());
        assert_eq!(sends(&mut tables, &error), OUT, "about nothing");
        assert_eq!(gets(&mut tables, &dialled), None);
        assert_eq!(sends(&mut tables, &error), None);
        assert_eq!(
            sends(&mut tables, &udp(FRIEND.at(family, 9), STRANGER.at(family, 9))),
            Some(DropReason::SourceForged)
        );
        let key = PolicyVerdictKey { set: set(BOTH), class: 0, direction: direction::EGRESS };
        tables.policy.verdicts.insert(key, PolicyVerdict { rule: RULE, ports: 0 });
        assert_eq!(sends(&mut tables, &build::echo(src, STRANGER.ip(family))), None);
    }
}

#[test]
fn a_pod_that_no_policy_selects_notes_nothing() {
    for family in FAMILIES {
        let mut tables = world(BOTH, &[]);
        let (from, to) = (NEIGHBOUR.at(family, 9), Place::Pod(3).at(family, 53));
        assert_eq!(run(&mut tables, &udp(from, to), paths::from_pod), None);
        assert_eq!(run(&mut tables, &udp(STRANGER.at(family, 9), from), paths::from_network), None);
        assert!(tables.policy_flows.is_empty());
        assert_eq!(run(&mut tables, &udp(from, POD.at(family, 80)), paths::from_pod), IN);
    }
}

#[test]
fn behind_a_service_the_backend_and_the_true_client_are_judged() {
    for family in FAMILIES {
        let mut tables = world(PodPolicy::INGRESS, &[]);
        let service = SERVICE.ip.at(family, 80);
        let client = NEIGHBOUR.at(family, 9);
        assert_eq!(run(&mut tables, &udp(client, service), paths::from_pod), IN);
        tables.policy.peers.insert(PolicyPeerKey { addr: NEIGHBOUR.addr(family), generation: GENERATION }, CLASS);
        let key = PolicyVerdictKey { set: set(PodPolicy::INGRESS), class: CLASS, direction: direction::INGRESS };
        tables.policy.verdicts.insert(key, PolicyVerdict { rule: 0, ports: LIST });
        tables.policy_epoch += 1;
        assert_eq!(run(&mut tables, &udp(client, service), paths::from_pod), None);
        // Itself, by way of the Service.
        assert_eq!(sends(&mut tables, &udp(POD.at(family, 9), service)), None);
    }
}
