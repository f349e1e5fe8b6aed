//! What `fairlead why` finds out from the live tables, against what the kernel's programs do over
//! the same: random Services, random packets.

use std::{cell::RefCell, fs, net::SocketAddr};

use datapath::{
    abi::{Family, FrontendValue, PodValue, protocol},
    memory::MemoryPacket,
    paths::Work,
};
use node_agent::{inspect::why::Place as Meets, kernel::live_tables::LiveTables};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};
use tests::{
    packets::{
        build,
        case::{Frame, Program},
        host,
        kernel::{Kernel, Replayed},
        place::{FAMILIES, Place},
        world::{ServicePort, World},
    },
    privilege,
    sandbox::mount_filesystem,
};

const BACKENDS: [Place; 5] = [Place::Pod(1), Place::Pod(2), Place::RemotePod, Place::TunnelPod, Place::Node];
const CLIENTS: [Place; 6] =
    [Place::Pod(1), Place::Pod(2), Place::Node, Place::RemotePod, Place::Router, Place::Outside];

/// A Service. One backend at most, so that nothing is left to chance.
#[derive(Clone, Debug)]
struct Service {
    ip: Place,
    protocol: u8,
    backend: Option<Place>,
    flags: u32,
    affinity: bool,
    source_range: bool,
}

fn service() -> impl Strategy<Value = Service> {
    let ip = select(&[Place::ClusterIp(1), Place::ClusterIp(2), Place::ExternalIp(1), Place::Node][..]);
    let protocol = select(&[protocol::TCP, protocol::UDP, protocol::SCTP][..]);
    let flags =
        select(&[0, FrontendValue::KEEP_CLIENT, FrontendValue::DROP_INTERNAL, FrontendValue::DROP_EXTERNAL][..]);
    let fields = (ip, protocol, proptest::option::of(select(&BACKENDS[..])), flags, any::<bool>(), any::<bool>());
    fields.prop_map(|(ip, protocol, backend, flags, affinity, source_range)| Service {
        ip,
        protocol,
        backend,
        flags,
        affinity,
        source_range,
    })
}

/// A packet, and who sends it.
#[derive(Clone, Debug)]
struct Sent {
    client: Place,
    to: Place,
    port: u16,
    protocol: u8,
    family: Family,
    held: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let to = select(vec![
        Place::ClusterIp(1),
        Place::ClusterIp(2),
        Place::ExternalIp(1),
        Place::Node,
        Place::Pod(2),
        Place::RemotePod,
        Place::TunnelPod,
        Place::Outside,
        Place::UnknownClusterIp,
    ]);
    let protocol = select(&[protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP][..]);
    let port = select(&[80_u16, 80, 80, 81][..]);
    let fields = (select(&CLIENTS[..]), to, port, protocol, select(&FAMILIES[..]), prop::bool::weighted(0.05));
    fields.prop_map(|(client, to, port, protocol, family, held)| Sent { client, to, port, protocol, family, held })
}

fn world(services: &[Service], masquerades: bool) -> World {
    let mut world = World::new();
    if masquerades {
        world = world.masquerading();
    }
    for service in services {
        let port = ServicePort { ip: service.ip, port: 80, protocol: service.protocol };
        let backends: Vec<_> = service.backend.iter().map(|place| (*place, 8080)).collect();
        world = match service.ip {
            Place::ClusterIp(_) => world.with(port, &backends),
            _ => world.with_external(port, service.flags, &backends),
        };
        if service.source_range && service.ip != Place::Node {
            world = world.only_for(port, Place::Outside);
        }
        world.frontend(port, |frontend| {
            frontend.flags |= service.flags & (FrontendValue::DROP_INTERNAL | FrontendValue::DROP_EXTERNAL);
            frontend.affinity_seconds = if service.affinity { 60 } else { 0 };
        });
    }
    world
}

/// The packet, and where it is met.
fn packet(sent: &Sent) -> Option<(Program, Frame)> {
    let src: SocketAddr = sent.client.at(sent.family, 4000);
    let dst = sent.to.at(sent.family, sent.port);
    let packet = match sent.protocol {
        protocol::TCP => build::tcp(src, dst, build::SYN),
        protocol::UDP => build::udp(src, dst),
        protocol::SCTP => build::sctp(src, dst),
        _ => build::echo(src.ip(), dst.ip()),
    };
    let program = match (sent.client, sent.to) {
        (client, to) if client == to => return None,
        (Place::Pod(_), _) if sent.held => Program::FromHeldPod,
        (Place::Pod(_), _) => Program::FromPod,
        (Place::Node, Place::Pod(_)) => Program::NodeToPod,
        (Place::Node, _) => Program::FromHost,
        _ => Program::FromNetwork,
    };
    Some((program, Frame::from(&packet)))
}

#[test]
fn why_and_the_kernel_agree() {
    if !privilege::root_or_skip("why_and_the_kernel_agree") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    mount_filesystem("bpf", directory.path(), None);
    let maps = directory.path().join("maps");
    fs::create_dir(&maps).unwrap();
    let kernel = RefCell::new(Kernel::load_with(None).unwrap());
    kernel.borrow().pin(&maps).unwrap();
    let compared = RefCell::new(0);
    let strategy = (vec(service(), 1..5), any::<bool>(), vec(sent(), 1..5));
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&strategy, |(services, masquerades, packets)| {
        let mut world = world(&services, masquerades);
        for sent in &packets {
            let Some((program, frame)) = packet(sent) else { continue };
            world.hold(Place::Pod(1), sent.held && sent.client == Place::Pod(1));
            world.hold(Place::Pod(2), sent.held && sent.client == Place::Pod(2));
            check(&mut kernel.borrow_mut(), &maps, &mut world, sent, program, &frame)?;
            *compared.borrow_mut() += 1;
        }
        Ok(())
    });
    nix::mount::umount2(directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    outcome.unwrap();
    let compared = compared.into_inner();
    println!("{compared} packets judged alike");
    assert!(compared > 50, "hardly any packet was judged");
}

/// One packet, by the live tables and by the kernel.
fn check(
    kernel: &mut Kernel,
    maps: &std::path::Path,
    world: &mut World,
    sent: &Sent,
    program: Program,
    frame: &Frame,
) -> Result<(), TestCaseError> {
    let fail = |what: &str, error: anyhow::Error| TestCaseError::fail(format!("{sent:?}: {what}: {error:#}"));
    kernel.fill_tables(&world.tables).map_err(|error| fail("filling the tables", error))?;
    let pod = || world.tables.pods.get(&sent.client.addr(sent.family)).copied().unwrap_or_default();
    let place = match program {
        Program::FromPod => Meets::FromPod(pod()),
        Program::FromHeldPod => Meets::FromPod(PodValue { flags: PodValue::HELD, ..pod() }),
        Program::NodeToPod => Meets::NodeToPod,
        Program::FromHost => Meets::FromHost,
        _ => Meets::FromNetwork,
    };
    let mut live = LiveTables::open(maps).map_err(|error| fail("opening the tables", error.into()))?;
    let (mut work, mut packet) = (Work::EMPTY, MemoryPacket(frame.packet.clone()));
    place.met().judge(&mut packet, sent.family, &mut work, &mut live);
    if let Some(error) = live.trouble() {
        return Err(fail("reading the tables", error.into()));
    }
    kernel.holds(&world.tables).map_err(|error| fail("asking has changed the tables", error))?;

    let record = host::record(format!("{sent:?}"), program, &mut world.tables, frame);
    let replayed = kernel.replay(&record).map_err(|error| fail("the kernel", error))?;
    prop_assert_eq!(replayed, Replayed::Equal);
    prop_assert_eq!(work.verdict, record.verdict, "{:?}: why on the left, the kernel on the right", sent);
    if !matches!(work.verdict, datapath::paths::Verdict::Drop(_)) {
        prop_assert_eq!(&packet.0, &record.packet, "{:?}: why on the left, the kernel on the right", sent);
    }
    Ok(())
}
