//! Random worlds and random packets, whole and broken.
//!
//! Addresses and ports are few, so that packets meet the same flows again and again. The strategies
//! are boxed: by value, one within another, they outgrow a test's stack.

use std::net::SocketAddr;

use datapath::abi::{Family, FrontendValue, PolicyVerdict, protocol};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    build::{self, Packet, Transport},
    case::{Frame, Program},
    place::{FAMILIES, Place},
    policies::{BOTH, Ports},
    world::{ServicePort, World},
};

const PROTOCOLS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

/// Everybody that packets come from and go to.
const PLACES: [Place; 14] = [
    Place::Pod(1),
    Place::Pod(2),
    Place::Pod(3),
    Place::RemotePod,
    Place::TunnelPod,
    Place::Peer,
    Place::Node,
    Place::Loopback,
    Place::Outside,
    Place::ExternalIp(1),
    Place::ClusterIp(10),
    Place::ClusterIp(20),
    Place::UnknownClusterIp,
    Place::Group,
];

const PORTS: [u16; 6] = [80, 81, 8080, 4000, NODE_PORT, super::world::SNAT_PORT];

const NODE_PORT: u16 = 30_080;

/// So many cases that a test run notices them little; `PROPTEST_CASES` takes a longer look.
pub fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { ProptestConfig { cases, ..default } }
}

/// Worlds in which every choice has one outcome: each Service has one backend or none.
pub fn plain_world() -> impl Strategy<Value = World> {
    let backend = || select(&[Place::Pod(1), Place::Pod(2), Place::RemotePod, Place::TunnelPod, Place::Node][..]);
    let service = (option::weighted(0.9, backend()), any::<bool>(), select(&[0u32, 10][..]));
    let kinds = [0, FrontendValue::KEEP_CLIENT, FrontendValue::DROP_EXTERNAL];
    let external = (option::weighted(0.9, backend()), select(kinds.to_vec()), any::<bool>());
    let parts = (vec(service, 6), vec(external, 6), 0u8..8, any::<bool>(), vec(option::weighted(0.3, judged()), 2));
    parts.prop_map(|(services, external, held, masquerades, judged)| {
        let mut world = World::new();
        if masquerades {
            world = world.masquerading();
        }
        let places = [(Place::Node, NODE_PORT), (Place::ExternalIp(1), 80)];
        let ports =
            places.into_iter().flat_map(|(ip, port)| PROTOCOLS.map(|protocol| ServicePort { ip, port, protocol }));
        for (port, (backend, flags, restricted)) in ports.zip(external) {
            let backends: Vec<_> = backend.into_iter().map(|place| (place, 8080)).collect();
            world = world.with_external(port, flags, &backends);
            if restricted {
                world = world.only_for(port, Place::Outside);
            }
        }
        let ports = [10, 20].into_iter().flat_map(|ip| PROTOCOLS.map(|protocol| (ip, protocol)));
        for ((ip, protocol), (backend, drops, affinity)) in ports.zip(services) {
            let port = ServicePort { ip: Place::ClusterIp(ip), port: 80, protocol };
            let backends: Vec<_> = backend.into_iter().map(|place| (place, 8080)).collect();
            world.add(port, &backends);
            world.frontend(port, |frontend| {
                frontend.affinity_seconds = affinity;
                frontend.flags = if drops { FrontendValue::DROP_INTERNAL } else { 0 };
            });
        }
        world.hold(Place::Pod(3), held == 0);
        for (pod, judged) in [Place::Pod(1), Place::Pod(2)].into_iter().zip(judged) {
            if let Some(judged) = judged {
                judge(&mut world, pod, judged);
            }
        }
        world
    })
}

/// What a pod's policies say.
#[derive(Clone, Copy, Debug)]
struct Judged {
    /// The isolated direction, or both.
    isolated: Option<u32>,
    /// What is said of anybody, and of one class of pods and of networks.
    said: [Option<u32>; 3],
    /// Whether some ports have rules of their own.
    ports: bool,
}

fn judged() -> impl Strategy<Value = Judged> {
    let isolated = option::of(select(&BOTH[..]));
    let rule = option::of(select(&[7, PolicyVerdict::DENY | 8, PolicyVerdict::DENY, PolicyVerdict::DEFAULT_ALLOW][..]));
    (isolated, [rule.clone(), rule.clone(), rule], any::<bool>()).prop_map(|(isolated, said, ports)| Judged {
        isolated,
        said,
        ports,
    })
}

fn judge(world: &mut World, pod: Place, judged: Judged) {
    const PODS: u32 = 1;
    const NETWORK: u32 = 2;
    let isolated = judged.isolated.map_or(BOTH.to_vec(), |direction| vec![direction]);
    world.judge(pod, &isolated);
    world.class_pod(Place::Pod(3), PODS);
    world.class_pod(Place::RemotePod, PODS);
    world.class_network(Place::Outside, [24, 48], NETWORK);
    world.class_network(Place::Pod(1), [16, 32], NETWORK);
    let list = Ports(9);
    for protocol in PROTOCOLS {
        world.rule_for(list, protocol, 8080, 16, 5);
        world.rule_for(list, protocol, 80, 12, PolicyVerdict::DENY | 6);
    }
    for direction in isolated {
        for (class, rule) in (0..).zip(judged.said) {
            let ports = if judged.ports { list.number() } else { 0 };
            if let Some(rule) = rule {
                world.say(pod, direction, class, PolicyVerdict { rule, ports });
            }
        }
    }
}

/// A packet somewhere: mostly a whole one, now and then a broken one.
pub fn packet() -> BoxedStrategy<(Program, Frame)> {
    let frame = prop_oneof![
        8 => whole().prop_map(Frame::from),
        4 => fragment(),
        4 => error().prop_map(Frame::from),
        8 => mutated(prop_oneof![whole().prop_map(Frame::from), fragment(), error().prop_map(Frame::from)].boxed()),
        1 => garbage(),
    ];
    let program = prop_oneof![
        6 => Just(Program::FromPod),
        2 => Just(Program::FromHost),
        3 => Just(Program::FromNetwork),
        4 => select(&Program::ALL[..]),
    ];
    (program, frame).boxed()
}

/// One end of a packet: anybody, or those between whom most flows are.
fn end(family: Family) -> BoxedStrategy<SocketAddr> {
    let anybody = (select(&PLACES[..]), select(&PORTS[..]));
    let client = (select(&[Place::Pod(1), Place::Pod(2), Place::Node][..]), select(&[4000, 8080][..]));
    let service = (select(&[Place::ClusterIp(10), Place::ClusterIp(20), Place::ExternalIp(1)][..]), Just(80));
    let outside = (Just(Place::Outside), select(&[4000, 80][..]));
    let node_port = (Just(Place::Node), Just(NODE_PORT));
    prop_oneof![2 => anybody, 4 => client, 3 => service, 2 => outside, 1 => node_port]
        .prop_map(move |(place, port)| place.at(family, port))
        .boxed()
}

fn whole() -> BoxedStrategy<Packet> {
    select(&FAMILIES[..])
        .prop_flat_map(|family| {
            let transport = prop_oneof![
                3 => (any::<u8>(), any::<u32>(), any::<u32>())
                    .prop_map(|(flags, seq, ack)| Transport::Tcp { flags, seq, ack, window: 1 }),
                2 => any::<bool>().prop_map(move |sum| Transport::Udp { checksum: sum || family == Family::V6 }),
                2 => any::<u32>().prop_map(|tag| Transport::Sctp { tag }),
                1 => (any::<u8>(), any::<u8>(), any::<[u8; 4]>())
                    .prop_map(|(kind, code, rest)| Transport::Icmp { kind, code, rest }),
                1 => any::<bool>().prop_map(move |reply| echo(family, reply)),
                1 => select(&[0u8, 2, 41, 47, 50, 59, 89][..]).prop_map(Transport::Other),
            ];
            let options = prop_oneof![3 => Just(0usize), 1 => 1usize..=10];
            let extensions = prop_oneof![3 => Just(Vec::new()), 1 => vec(extension(), 1..9)];
            let ends = (end(family), end(family));
            (ends, transport, vec(any::<u8>(), 0..80), options, extensions, any::<u32>()).prop_map(
                move |((src, dst), transport, payload, options, extensions, identification)| {
                    let packet = Packet { transport, payload, ..build::udp(src, dst) }.identified(identification % 4);
                    match family {
                        Family::V4 => packet.options(&vec![1; options * 4]),
                        Family::V6 => Packet { extensions, ..packet },
                    }
                },
            )
        })
        .boxed()
}

/// An echo with one of two identifiers: a pod's own, or the one that hides it.
fn echo(family: Family, reply: bool) -> Transport {
    let kind = match (family, reply) {
        (Family::V4, false) => 8,
        (Family::V4, true) => 0,
        (Family::V6, false) => 128,
        (Family::V6, true) => 129,
    };
    let identifier = if reply { super::world::SNAT_PORT } else { 7 };
    let [a, b] = identifier.to_be_bytes();
    Transport::Icmp { kind, code: 0, rest: [a, b, 0, 1] }
}

fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let options = (select(&[0u8, 43, 60][..]), 0u8..3).prop_map(|(number, longer)| {
        let body = [vec![longer], vec![0; 6 + 8 * usize::from(longer)]].concat();
        (number, body)
    });
    prop_oneof![5 => options, 1 => Just((51, [vec![1], vec![0; 10]].concat()))]
}

fn fragment() -> BoxedStrategy<Frame> {
    (whole(), 0usize..8, any::<bool>())
        .prop_map(|(packet, at, first)| {
            let longest = packet.bytes().len() - packet.network_len();
            let [head, tail] = packet.fragments((at * 8).min(longest / 8 * 8));
            Frame::ip(packet.family(), if first { head } else { tail })
        })
        .boxed()
}

fn error() -> BoxedStrategy<Packet> {
    (whole(), any::<u8>(), 0usize..120)
        .prop_flat_map(|(quoted, kind, len)| {
            let family = quoted.family();
            let mut quote = quoted.bytes();
            quote.truncate(len.max(20));
            let kind = match family {
                Family::V4 => [3, 4, 5, 11, 12][usize::from(kind) % 5],
                Family::V6 => kind % 128,
            };
            let sender = prop_oneof![2 => Just(quoted.dst), 1 => end(family)];
            sender.prop_map(move |sender| build::icmp(sender.ip(), quoted.src.ip(), kind, 0, &quote))
        })
        .boxed()
}

/// Some bytes changed, some cut off, some added.
fn mutated(frame: BoxedStrategy<Frame>) -> BoxedStrategy<Frame> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (frame, changes, 0usize..400, vec(any::<u8>(), 0..8))
        .prop_map(|(mut frame, changes, keep, trailer)| {
            let packet = &mut frame.packet;
            for (at, byte) in changes {
                let at = at.index(packet.len().min(60));
                packet[at] = byte;
            }
            packet.truncate(keep);
            packet.extend(trailer);
            frame
        })
        .boxed()
}

fn garbage() -> BoxedStrategy<Frame> {
    (any::<u16>(), select(&FAMILIES[..]), any::<bool>(), vec(any::<u8>(), 0..200))
        .prop_map(
            |(ethertype, family, is_ip, packet)| {
                if is_ip { Frame::ip(family, packet) } else { Frame { ethertype, packet } }
            },
        )
        .boxed()
}
