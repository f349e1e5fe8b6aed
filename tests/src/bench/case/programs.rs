//! What a packet costs in each program, and what each program is made of.
//!
//! The node's programs are loaded once more, over its live tables, and run by
//! BPF_PROG_TEST_RUN with packets between its real pods.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramInfo, SchedClassifier, TestRun, TestRunOptions},
};
use datapath::abi::LAYOUT;
use etherparse::PacketBuilder;
use node_agent::kernel::bpffs::Bpffs;

use Packet::{Kept, Translated};

use crate::bench::{
    Context,
    arena::Arena,
    bed::Bed,
    figure::{Section, median, whole},
    variant::{Side, Variant},
    workload::PORT,
};
use crate::packets::object;

/// The number of Services: a look-up costs the same at any.
const SERVICES: usize = 10;
/// Runs of each packet, one at a time.
const RUNS: u16 = 5_000;
/// Runs of each packet that can be run in one go.
const REPEAT: u32 = 100_000;
/// An address that no node and no pod has.
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The frames' addresses. A test run takes the receiver's for the loopback device's, which is
/// zero: frames to another host only pass.
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TO: [u8; 6] = [0; 6];

/// What a tc program says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Pass = -1,
    Redirect = 7,
    Drop = 2,
}

/// A packet, made anew for every run so that flows can differ.
type Make = Box<dyn Fn(u16) -> Vec<u8>>;

/// Whether the program leaves the packet's addresses as they are. If it doesn't,
/// a second run in one go would see another packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packet {
    Kept,
    Translated,
}

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let seconds = context.settings.seconds.to_string();
    let arena = context.arena_with(&[Variant::Direct, Variant::Fairlead], SERVICES, Side::Pod)?;
    let mut ebpf = load(arena)?;
    let mut sizes = Section::new("programs", "Programs as loaded", "");
    sizes.table = sizes_table(&mut ebpf)?;
    let mut costs = Section::new("programs", "Cost of a packet by program", "ns");
    costs.table = costs_table(&ebpf, arena)?;
    costs.notes.push(format!(
        "By BPF_PROG_TEST_RUN. Alone: the median of {} runs of one packet, less that of a frame which no program reads. \
         Repeated: the mean of {} runs in one go, which only a packet that isn't translated can be.",
        whole(RUNS.into()),
        whole(REPEAT.into())
    ));
    let mut connect = Section::new("programs", "connect() of a UDP socket", "ns");
    let measure = |bed: &Bed| Ok([bed.run_load("reconnect", &["--seconds", &seconds])?.p50_us * 1000.0]);
    [connect.series] = arena.take_turns(3, measure)?;
    connect.notes.push("With Fairlead, to a ClusterIP by the socket hook; otherwise there is no hook.".into());
    Ok(vec![sizes, costs, connect])
}

fn load(arena: &Arena) -> Result<Ebpf> {
    let cluster = arena.cluster().context("Fairlead is not among the variants")?;
    let maps = Bpffs::existing(&cluster.node().bpffs()).context("the agent has pinned no tables")?.maps();
    let object = object::path();
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for table in LAYOUT {
        loader.map_pin_path(table.name, maps.join(table.name));
    }
    let failed = || format!("can't load {}; `cargo xtask build` makes it", object.display());
    let mut ebpf = loader.load_file(&object).with_context(failed)?;
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::Xdp(program) => program.load(),
            other => bail!("{name} is a {:?} program, of which this benchmark knows nothing", other.prog_type()),
        }
        .with_context(|| format!("the kernel refuses {name}"))?;
    }
    Ok(ebpf)
}

fn sizes_table(ebpf: &mut Ebpf) -> Result<Vec<Vec<String>>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (name, program) in ebpf.programs() {
        let info: ProgramInfo = program.info()?;
        // An instruction is 8 bytes.
        let figures = [info.size_translated().map(|bytes| bytes / 8), info.verified_instruction_count()];
        let figures = figures.map(|figure| figure.map_or("unknown".into(), |figure| whole(figure.into())));
        rows.push([vec![name.to_owned()], figures.to_vec(), vec![whole(info.size_jitted().into())]].concat());
    }
    rows.sort();
    let heading = ["Program", "Instructions", "Looked at by the verifier", "Bytes of machine code"];
    Ok([vec![heading.map(str::to_owned).to_vec()], rows].concat())
}

fn costs_table(ebpf: &Ebpf, arena: &Arena) -> Result<Vec<Vec<String>>> {
    let bed = arena.bed(Variant::Fairlead).context("Fairlead is not among the variants")?;
    let node = arena.cluster().context("Fairlead is not among the variants")?.node();
    let SocketAddr::V4(node) = SocketAddr::from((node.addresses()[0], 0)) else { bail!("the node has no IPv4") };
    let (client, backend, node) = (bed.pods[0].address, bed.pods[1].address, *node.ip());
    let SocketAddr::V4(service) = bed.targets[0] else { bail!("the Service has no IPv4") };
    let service = *service.ip();
    let tcp = |from: Ipv4Addr, to: Ipv4Addr| -> Make { Box::new(move |_| tcp_packet(from, to, 40_000)) };
    let udp = |from: Ipv4Addr, to: Ipv4Addr| -> Make { Box::new(move |_| udp_packet(from, to, 40_000, PORT)) };
    let new_udp =
        |from: Ipv4Addr, to: Ipv4Addr| -> Make { Box::new(move |run| udp_packet(from, to, 41_000 + run, PORT)) };
    let packets: Vec<(&str, &str, Make, Packet, Says)> = vec![
        ("from_pod", "TCP to a pod on the node", tcp(client, backend), Kept, Says::Redirect),
        ("from_pod", "UDP to a ClusterIP, first of its flow", new_udp(client, service), Translated, Says::Redirect),
        ("from_pod", "UDP to a ClusterIP", udp(client, service), Translated, Says::Redirect),
        ("from_pod", "TCP to the world", tcp(client, WORLD), Kept, Says::Pass),
        ("from_held_pod", "TCP to a pod on the node", tcp(client, backend), Kept, Says::Drop),
        ("to_pod", "TCP from the node", tcp(node, backend), Kept, Says::Pass),
        ("from_host", "UDP to a ClusterIP", udp(node, service), Translated, Says::Redirect),
        ("from_network", "TCP to a pod", tcp(WORLD, backend), Kept, Says::Redirect),
        ("from_network", "TCP to the node", tcp(WORLD, node), Kept, Says::Pass),
    ];
    let alone_for_nothing = alone(classifier(ebpf, "from_pod")?, &|_| vec![0; 64], Says::Pass)?;
    let mut rows = vec![["Program", "Packet", "ns alone", "ns repeated"].map(str::to_owned).to_vec()];
    for (name, packet, make, kind, says) in packets {
        let what = || format!("{name}, {packet}");
        let program = classifier(ebpf, name)?;
        let cost = alone(program, &make, says).with_context(what)?;
        let repeated = match kind {
            Kept => whole(once(program, &make(0), REPEAT, says).with_context(what)?),
            Translated => String::new(),
        };
        rows.push(vec![name.to_owned(), packet.to_owned(), whole((cost - alone_for_nothing).max(0.0)), repeated]);
    }
    Ok(rows)
}

fn classifier<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a SchedClassifier> {
    let program = ebpf.program(name).with_context(|| format!("there is no program {name}"))?;
    program.try_into().with_context(|| format!("{name} is no tc program"))
}

/// The median time of a run in nanoseconds, the timing included. Every run must say the same.
fn alone(program: &SchedClassifier, make: &dyn Fn(u16) -> Vec<u8>, says: Says) -> Result<f64> {
    let times = (0..RUNS).map(|run| once(program, &make(run), 1, says)).collect::<Result<Vec<f64>>>()?;
    Ok(median(&times))
}

/// The mean time of a run in nanoseconds, of so many in one go.
fn once(program: &SchedClassifier, packet: &[u8], repeat: u32, says: Says) -> Result<f64> {
    let result = program.test_run(TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::new() })?;
    let said = result.return_value.cast_signed();
    ensure!(said == says as i32, "the program said {said} where {} is right", says as i32);
    Ok(result.duration.as_nanos() as f64)
}

fn tcp_packet(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(FROM, TO).ipv4(from.octets(), to.octets(), 64);
    write(builder.tcp(port, PORT, 1, 1000).ack(1), |builder, bytes| builder.write(bytes, &[0; 64]))
}

fn udp_packet(from: Ipv4Addr, to: Ipv4Addr, port: u16, to_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(FROM, TO).ipv4(from.octets(), to.octets(), 64);
    write(builder.udp(port, to_port), |builder, bytes| builder.write(bytes, &[0; 64]))
}

fn write<B, E: std::fmt::Debug>(builder: B, write: impl FnOnce(B, &mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(builder, &mut bytes).expect("a packet of this size is possible");
    bytes
}
