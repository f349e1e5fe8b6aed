//! What a packet costs at XDP, beside a program that only sends it back.
//!
//! The program is loaded over tables of its own, of their real size, on a node with a
//! route and a neighbour, and run by BPF_PROG_TEST_RUN.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions, Xdp},
};
use datapath::{
    abi::{Be16, Family, FlowKey, FlowValue, FrontendKey, FrontendValue, protocol},
    memory::MemoryTables,
};

use crate::{
    bench::{
        Context,
        figure::{Section, Target, median, whole},
        xdp_code,
    },
    packets::{
        build::{ACK, SYN, tcp, udp},
        case::Frame,
        kernel::Kernel,
        place::{FAMILIES, Place},
        wire::{Node, with_ethernet},
        world::{ServicePort, World},
    },
};

/// Runs of each packet, one at a time.
const RUNS: u16 = 5_000;
/// Runs of one packet in one go: no more than it has hops to go.
const REPEAT: u32 = 200;
/// How often so many.
const ROUNDS: usize = 500;

/// The address that has NodePorts. The node's own would not do: the second of two flows
/// that make packets of one another is forwarded to it.
const FRONT: Place = Place::ClusterIp(1);
const NODE_PORT: u16 = 30_080;
const PORT: u16 = 8080;
const CLIENT_PORT: u16 = 40_000;

/// What the program says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Pass = 2,
    Tx = 3,
    Redirect = 4,
}

/// A packet, made anew for every run so that flows can differ.
type Make = Box<dyn Fn(u16) -> Frame + Send + Sync>;

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    context.settings.progress("a node of its own, without an agent");
    let node = Node::new()?;
    let mut kernel = Kernel::load_with(None)?;
    kernel.fill_tables(&tables())?;
    kernel.open_uplink(node.uplink())?;
    let bounce = xdp_code::bounce()?;
    node.run(|| measure(&kernel, &bounce))?
}

/// A Service with a NodePort whose backend is elsewhere, and two flows each of which
/// makes of a packet one of the other.
fn tables() -> MemoryTables {
    let service = |protocol| ServicePort { ip: FRONT, port: NODE_PORT, protocol };
    let mut world = World::new()
        .with(service(protocol::TCP), &[(Place::RemotePod, PORT)])
        .with(service(protocol::UDP), &[(Place::RemotePod, PORT)]);
    let tables = &mut world.tables;
    // More ports than there are runs that each begin a flow.
    (tables.node.snat_port_first, tables.node.snat_port_last) = (45_000, 65_535);
    for family in FAMILIES {
        let whole =
            FrontendValue { flags: FrontendValue::NODE_PORTS | FrontendValue::PASS_UNUSED, ..Default::default() };
        for place in [FRONT, Place::Node, Place::RemotePod] {
            tables.frontends.insert(FrontendKey::whole_address(place.addr(family)), whole);
        }
        for number in [protocol::TCP, protocol::UDP] {
            let key = FrontendKey::new(FRONT.addr(family), Be16::new(NODE_PORT), number);
            let mut frontend = tables.frontends.remove(&key).expect("the world has the Service");
            frontend.flags |= FrontendValue::EXTERNAL;
            tables.frontends.insert(FrontendKey::node_port(family, Be16::new(NODE_PORT), number), frontend);
            go_in_circles(tables, family, number, &frontend);
        }
    }
    world.tables
}

/// One more flow from the node to the backend, which turns its packets into those that it came from.
fn go_in_circles(tables: &mut MemoryTables, family: Family, number: u8, frontend: &FrontendValue) {
    let [client, front, node, backend] =
        [Place::Outside, FRONT, Place::Node, Place::RemotePod].map(|place| place.addr(family));
    let [client_port, node_port, port] = [CLIENT_PORT, NODE_PORT, PORT].map(Be16::new);
    let chosen = tables.blocks[frontend.internal.base as usize];
    let snat = Be16::new(61_001);
    let there =
        FlowKey { src: client, dst: front, src_port: client_port, dst_port: node_port, protocol: number.into() };
    let back = FlowKey { src: node, dst: backend, src_port: snat, dst_port: port, protocol: number.into() };
    let becomes = |key: &FlowKey| FlowValue {
        src: key.src,
        dst: key.dst,
        src_port: key.src_port,
        dst_port: key.dst_port,
        service: frontend.service,
        backend: chosen,
        generation: 1,
        flags: FlowValue::ESTABLISHED | FlowValue::OUT,
        last_seen: (tables.now / 1_000_000_000) as u32,
    };
    let (forward, circle) = (becomes(&back), becomes(&there));
    tables.flows.insert(there, forward);
    tables.flows.insert(back, circle);
    // Their mirrors, which are looked for once a second.
    let reverse = |value: FlowValue| FlowValue { flags: value.flags | FlowValue::REVERSE, ..value };
    tables.flows.insert(back.reversed(), reverse(becomes(&there.reversed())));
    tables.flows.insert(there.reversed(), reverse(becomes(&back.reversed())));
}

fn measure(kernel: &Kernel, bounce: &Ebpf) -> Result<Vec<Section>> {
    let program = kernel.wire()?;
    let mut section = Section::new("xdp", "Cost of a packet at XDP", "ns");
    section.table = vec![["Packet", "ns alone", "ns repeated"].map(str::to_owned).to_vec()];
    let bare: &Xdp = bounce.program("prog").context("the object has one program")?.try_into()?;
    let [v4, v6] = FAMILIES;
    let to_node_port = |family: Family, port: u16| (Place::Outside.at(family, port), FRONT.at(family, NODE_PORT));
    let tcp_of = move |family: Family| -> Make {
        let (from, to) = to_node_port(family, CLIENT_PORT);
        Box::new(move |_| with_hops(tcp(from, to, ACK)))
    };
    let udp_of = move |family: Family| -> Make {
        let (from, to) = to_node_port(family, CLIENT_PORT);
        Box::new(move |_| with_hops(udp(from, to)))
    };
    let new: Make = Box::new(move |run| {
        let (from, to) = to_node_port(v4, 20_000 + run);
        tcp(from, to, SYN).into()
    });
    let other: Make = Box::new(move |_| tcp(Place::Outside.at(v4, CLIENT_PORT), Place::Group.at(v4, 80), ACK).into());
    let unused: Make = Box::new(move |_| tcp(Place::Outside.at(v4, CLIENT_PORT), Place::Node.at(v4, 22), ACK).into());

    let (alone_bare, repeated_bare) = (alone(bare, &other, Says::Tx)?, repeated(bare, &other(0), Says::Tx)?);
    section.table.push(vec!["a bare XDP_TX program".into(), whole(alone_bare), whole(repeated_bare)]);
    let mut cost = |what: &str, make: &Make, says: Says, repeats: bool| -> Result<f64> {
        let single = alone(program, make, says).context(what.to_owned())?;
        let many = if repeats { Some(repeated(program, &make(0), says).context(what.to_owned())?) } else { None };
        section.table.push(vec![what.into(), whole(single), many.map(whole).unwrap_or_default()]);
        Ok(many.unwrap_or(single))
    };
    let not_ours = cost("for no Service", &other, Says::Pass, true)?;
    cost("to the node, for no Service", &unused, Says::Pass, true)?;
    let established = cost("to a NodePort, TCP, backend elsewhere", &tcp_of(v4), Says::Redirect, true)?;
    cost("to a NodePort, UDP, backend elsewhere", &udp_of(v4), Says::Redirect, true)?;
    cost("to a NodePort, TCP over IPv6, backend elsewhere", &tcp_of(v6), Says::Redirect, true)?;
    cost("to a NodePort, first of its flow", &new, Says::Redirect, false)?;
    section.check("Established NodePort flow to a backend elsewhere", established, "ns", Target::Below(200.0));
    section.check("Packet for no Service", not_ours, "ns", Target::Below(60.0));
    section.notes.push(format!(
        "By BPF_PROG_TEST_RUN. Alone: the median of {} runs of one packet, the timing and a cold cache included. \
         Repeated: the median of {ROUNDS} means of {REPEAT} runs in one go, for which two flows turn the packet into \
         one of each other.",
        whole(RUNS.into())
    ));
    Ok(vec![section])
}

/// With as many hops to go as it can have.
fn with_hops(packet: crate::packets::build::Packet) -> Frame {
    crate::packets::build::Packet { ttl: 255, ..packet }.into()
}

/// The median time of a run in nanoseconds, the timing included. Every run must say the same.
fn alone(program: &Xdp, make: &Make, says: Says) -> Result<f64> {
    let times = (0..RUNS).map(|run| once(program, &make(run), 1, says)).collect::<Result<Vec<f64>>>()?;
    Ok(median(&times))
}

/// The median of the mean times of a run in nanoseconds, of many in one go.
fn repeated(program: &Xdp, frame: &Frame, says: Says) -> Result<f64> {
    let times = (0..ROUNDS).map(|_| once(program, frame, REPEAT, says)).collect::<Result<Vec<f64>>>()?;
    Ok(median(&times))
}

/// The mean time of a run in nanoseconds, of so many in one go.
fn once(program: &Xdp, frame: &Frame, repeat: u32, says: Says) -> Result<f64> {
    let frame = with_ethernet(&frame.ethertype, [2, 0, 0, 0, 0, 0x0a], [2, 0, 0, 0, 0, 0x0b], &frame.packet);
    let result = program.test_run(TestRunOptions { data_in: Some(&frame), repeat, ..TestRunOptions::new() })?;
    ensure!(
        result.return_value == says as u32,
        "the program said {} where {} is right",
        result.return_value,
        says as u32
    );
    Ok(result.duration.as_nanos() as f64)
}
