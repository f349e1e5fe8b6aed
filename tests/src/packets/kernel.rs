//! Runs what the host build did through the kernel programs, by `BPF_PROG_TEST_RUN`.
//!
//! Before each packet the maps are made to hold what the host's tables held; after
//! it they must hold what the host's tables hold then. The kernel's clock can't be
//! set, so times are kept as ages.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, PerCpuValues, RingBuf, lpm_trie},
    programs::{SchedClassifier, Xdp},
    util::nr_cpus,
};
use datapath::{
    abi::{
        AffinityKey, AffinityValue, Backend, DropReason, Event, EventControl, EventLoss, FlowKey, FlowValue,
        FragmentKey, FragmentValue, GATEWAY_MAC, LAYOUT, NodeState, PodValue, UplinkValue,
    },
    memory::MemoryTables,
    paths::Verdict,
    tables::Tables,
};
use nix::sched::{CloneFlags, unshare};

use super::{
    ages::{Clock, NANOS_PER_SECOND, same_but_for_time},
    case::{Frame, Program},
    encode::Encode,
    host::Record,
    world::{HOST_IFINDEX, OVERLAY_IFINDEX},
};

/// The object's path, as `cargo xtask build` leaves it.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/fairlead.bpf.o");

/// The programs that see packets.
const PROGRAMS: [&str; 10] = [
    "from_pod",
    "from_shaped_pod",
    "from_held_pod",
    "to_pod",
    "from_host",
    "from_host_loopback",
    "from_network",
    "from_overlay",
    "to_network",
    "to_overlay",
];

/// A network namespace's ways out: whatever there is, a packet finds a route.
const ROUTES: &str = "\
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 && \
    ip link set lo up && \
    ip link add out type veth peer name far && ip link set out up && ip link set far up && \
    ip route add default dev out && ip -6 route add default dev out";

/// The ring in which programs tell what happens.
const EVENTS: &str = "EVENTS";

/// The XDP program.
const FROM_WIRE: &str = "from_wire";

/// Entries of each hash: few, because looking for the next key walks all of them. Not fewer than the
/// least recently used ones need, which hand out free entries by the hundred.
const ENTRIES: u32 = 4096;

/// An interface that a forwarded packet came by.
const UPLINK: u32 = 2;

/// Who gets frames that come over the wire: the address of the interface on which the kernel runs them.
const LOOPBACK_MAC: [u8; 6] = [0; 6];

/// Who sent the frame.
const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

const ETHERNET: usize = 14;
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

/// The programs, loaded but attached to nothing.
pub struct Kernel {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
}

/// Whether the kernel ran the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It did, and agreed.
    Equal,
    /// `BPF_PROG_TEST_RUN` takes no frame so short.
    TooShort,
}

impl Kernel {
    /// Loads the object (`$FAIRLEAD_EBPF_OBJECT`, or what the build left). The thread is in a network namespace of
    /// its own from then on, in which it must stay.
    ///
    /// # Errors
    /// The object isn't there, or the kernel refuses a program.
    pub fn load() -> Result<Self> {
        Self::load_with(Some(ENTRIES))
    }

    /// The same with hashes of so many entries, or as large as they really are.
    ///
    /// # Errors
    /// As of [`Self::load`].
    pub fn load_with(entries: Option<u32>) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        let routed = Command::new("sh").args(["-c", ROUTES]).status().context("running sh")?;
        ensure!(routed.success(), "cannot make routes");
        let object = std::env::var("FAIRLEAD_EBPF_OBJECT").unwrap_or_else(|_| OBJECT.into());
        let mut loader = EbpfLoader::new();
        for table in ["FRONTENDS", "AFFINITY", "PODS", "POD_NETNS", "NETWORKS", "FLOWS", "FRAGMENTS", "SOCKET_PEERS"] {
            if let Some(entries) = entries {
                loader.map_max_entries(table, entries);
            }
        }
        let mut ebpf =
            loader.load_file(&object).with_context(|| format!("{object}; `cargo xtask build` makes the object"))?;
        for name in PROGRAMS {
            let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        let wire: &mut Xdp = ebpf.program_mut(FROM_WIRE).context("the object has no from_wire")?.try_into()?;
        wire.load().with_context(|| format!("loading {FROM_WIRE}"))?;
        let events = RingBuf::try_from(ebpf.take_map(EVENTS).context("the object has no EVENTS")?)?;
        Ok(Self { ebpf, events })
    }

    /// Runs the record's packet over its tables and compares all that came of it.
    ///
    /// # Errors
    /// What differed.
    pub fn replay(&mut self, record: &Record) -> Result<Replayed> {
        loop {
            let clock = Clock::at(&record.before)?;
            let replayed = self.replay_at(record, &clock);
            // For the host no second has begun since the tables were written; in that of the
            // kernel flows may be looked after.
            if replayed.is_ok() || clock.is_in_its_second()? {
                return replayed;
            }
            drop(self.events());
        }
    }

    fn replay_at(&mut self, record: &Record, clock: &Clock) -> Result<Replayed> {
        self.write(&record.before, clock).context("writing the tables")?;
        let drops_before = self.drops()?;
        let sent = with_ethernet(record.program, &record.frame);
        let Some((returned, frame)) = self.run(record.program, &sent)? else {
            ensure!(is_too_short(&record.frame), "the kernel refuses to run it");
            return Ok(Replayed::TooShort);
        };
        let expected = match record.verdict {
            Verdict::Pass => TC_ACT_UNSPEC,
            verdict if goes_on(record.program, verdict) => TC_ACT_UNSPEC,
            Verdict::Drop(_) => TC_ACT_SHOT,
            _ => TC_ACT_REDIRECT,
        };
        ensure!(returned == expected, "{:?} on the host, {returned} from the kernel", record.verdict);
        self.compare_drops(&drops_before, record)?;
        if !matches!(record.verdict, Verdict::Drop(_)) {
            let expected = expected_frame(record, &sent);
            ensure!(frame == expected, "the frame\n  became   {frame:02x?}\n  expected {expected:02x?}");
        }
        self.compare_tables(&record.after, clock)?;
        self.compare_events(record)?;
        Ok(Replayed::Equal)
    }

    /// Says whether somebody listens to events.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn listen(&mut self, control: &EventControl) -> Result<()> {
        Ok(self.array::<16>("EVENT_CONTROL")?.set(0, control.bytes(), 0)?)
    }

    /// What has been told since this was last asked.
    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.next().map(|bytes| Event::from_bytes(&bytes))).collect()
    }

    /// How many events were not told, by why.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn event_losses(&mut self) -> Result<Vec<u64>> {
        self.per_cpu_sums("EVENT_LOSSES", EventLoss::COUNT)
    }

    fn compare_events(&mut self, record: &Record) -> Result<()> {
        let heard = self.array::<16>("EVENT_CONTROL")?.get(&0, 0)? != [0; 16];
        let told: Vec<_> = self.events().into_iter().map(|event| Event { time: 0, ..event }).collect();
        let expected: Vec<_> = record.event.into_iter().filter(|_| heard).collect();
        ensure!(told == expected, "told\n  {told:#?}\n  expected {expected:#?}");
        Ok(())
    }

    /// Runs the record's packet over its tables so many times.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn run_again(&mut self, record: &Record, times: u32) -> Result<()> {
        self.fill_tables(&record.before)?;
        let sent = with_ethernet(record.program, &record.frame);
        for _ in 0..times {
            ensure!(self.run(record.program, &sent)?.is_some(), "the kernel refuses to run it");
        }
        Ok(())
    }

    /// What the program returns, and the frame after; `None`: the kernel doesn't run such a frame.
    fn run(&mut self, program: Program, frame: &[u8]) -> Result<Option<(i32, Vec<u8>)>> {
        let (name, came_by) = match program {
            Program::FromPod => ("from_pod", UPLINK),
            Program::FromShapedPod => ("from_shaped_pod", UPLINK),
            Program::FromHeldPod => ("from_held_pod", UPLINK),
            Program::NodeToPod => ("to_pod", 0),
            Program::DeviceToPod => ("to_pod", HOST_IFINDEX),
            Program::ForwardedToPod => ("to_pod", UPLINK),
            Program::FromHost => ("from_host", 0),
            Program::FromHostLoopback => ("from_host_loopback", 0),
            Program::FromNetwork => ("from_network", UPLINK),
            Program::FromOverlay => ("from_overlay", OVERLAY_IFINDEX),
            Program::ToNetwork => ("to_network", 0),
            Program::ToOverlay => ("to_overlay", 0),
            Program::ForwardedToOverlay => ("to_overlay", UPLINK),
        };
        let program: &SchedClassifier =
            self.ebpf.program(name).with_context(|| format!("the object has no {name}"))?.try_into()?;
        let mut after = vec![0; frame.len() + 256];
        // `__sk_buff` as far as `ingress_ifindex`, the tenth word; all else is for the kernel to fill in.
        let mut context = [0u8; 40];
        context[36..].copy_from_slice(&came_by.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            repeat: 1,
            ..Default::default()
        };
        match program.test_run(options) {
            Ok(result) => {
                after.truncate(result.data_size_out as usize);
                Ok(Some((result.return_value as i32, after)))
            }
            Err(aya::programs::ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(nix::libc::EINVAL) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("BPF_PROG_TEST_RUN"),
        }
    }

    /// Pins the maps, as large as they really are, in a directory on bpffs, where an agent would have them.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn pin(&self, directory: &Path) -> Result<()> {
        // The ring is in other hands.
        for layout in LAYOUT.iter().filter(|layout| layout.name != EVENTS) {
            let map = self.ebpf.map(layout.name).with_context(|| format!("the object has no {}", layout.name))?;
            map.pin(directory.join(layout.name)).with_context(|| format!("pinning {}", layout.name))?;
        }
        Ok(())
    }

    /// Makes the maps hold the tables as they are now.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn fill_tables(&mut self, tables: &MemoryTables) -> Result<()> {
        let clock = Clock::at(tables)?;
        self.write(tables, &clock).context("writing the tables")
    }

    /// Whether the maps hold the tables as they are now.
    ///
    /// # Errors
    /// What differs.
    pub fn holds(&mut self, tables: &MemoryTables) -> Result<()> {
        let clock = Clock::at(tables)?;
        self.compare_tables(tables, &clock)
    }

    /// Says that frames can be sent by an interface.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn open_uplink(&mut self, ifindex: u32) -> Result<()> {
        let sends = UplinkValue::SENDS_BACK | UplinkValue::SENDS;
        let mut value = [0; 16];
        value[..4].copy_from_slice(&ifindex.to_ne_bytes());
        value[4..8].copy_from_slice(&sends.to_ne_bytes());
        Ok(self.array::<16>("UPLINKS")?.set(UplinkValue::slot(ifindex), value, 0)?)
    }

    /// The program that packets from the wire meet first.
    ///
    /// # Errors
    /// The object has none.
    pub fn wire(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program(FROM_WIRE).context("the object has no from_wire")?.try_into()?)
    }

    /// Forgets what packets at XDP have found of addresses: tables change faster here than that holds.
    fn forget_concerns(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("CONCERNS").context("the object has no CONCERNS")?;
        let mut concerns: PerCpuArray<_, [u8; 32]> = map.try_into()?;
        let cpus = nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        for slot in 0..concerns.len() {
            concerns.set(slot, PerCpuValues::try_from(vec![[0; 32]; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Makes the maps hold the tables.
    fn write(&mut self, tables: &MemoryTables, clock: &Clock) -> Result<()> {
        self.forget_concerns()?;
        let node = tables.node.bytes();
        self.array::<64>("NODE_CONFIG")?.set(0, node, 0)?;
        let mut connections = self.array::<4>("CONNECTIONS")?;
        for id in 0..tables.backends.len() as u32 {
            connections.set(id, tables.connections(id).bytes(), 0)?;
        }
        self.array::<4>("NODE_STATE")?.set(0, tables.node_state.bytes(), 0)?;
        let mut blocks = self.array::<4>("BLOCKS")?;
        for (index, id) in tables.blocks.iter().enumerate() {
            blocks.set(index as u32, id.bytes(), 0)?;
        }
        let mut backends = self.array::<32>("BACKENDS")?;
        let beyond = std::iter::repeat_n(&Backend { flags: 0, ..EMPTY_BACKEND }, 8);
        for (id, backend) in tables.backends.iter().chain(beyond).enumerate() {
            backends.set(id as u32, backend.bytes(), 0)?;
        }
        self.fill::<20, 32>("FRONTENDS", encode(&tables.frontends))?;
        self.fill::<16, 24>("PODS", encode(&tables.pods))?;
        self.fill::<40, 56>("FLOWS", encode(&clock.flows_for_kernel(&tables.flows)))?;
        self.fill::<20, 16>("AFFINITY", encode(&clock.affinity_for_kernel(&tables.affinity)))?;
        self.fill::<40, 8>("FRAGMENTS", encode(&tables.fragments))?;
        self.fill_source_ranges(tables)?;
        let map = self.ebpf.map_mut("NETWORKS").context("the object has no NETWORKS")?;
        let mut networks: lpm_trie::LpmTrie<_, [u8; 16], [u8; 20]> = map.try_into()?;
        for (key, network) in &tables.networks {
            let key = lpm_trie::Key::new(key.prefix_len, key.addr.bytes());
            networks.insert(&key, network.bytes(), 0)?;
        }
        Ok(())
    }

    fn fill_source_ranges(&mut self, tables: &MemoryTables) -> Result<()> {
        let map = self.ebpf.map_mut("SOURCE_RANGES").context("the object has no SOURCE_RANGES")?;
        let mut ranges: lpm_trie::LpmTrie<_, [u8; 20], u32> = map.try_into()?;
        let present: Vec<_> = ranges.keys().collect::<Result<_, _>>()?;
        for key in &present {
            ranges.remove(key)?;
        }
        for range in &tables.source_ranges {
            let data: Vec<u8> = [&range.service.to_ne_bytes()[..], &range.addr.bytes()].concat();
            let data = data.try_into().expect("a service and an address are twenty bytes");
            ranges.insert(&lpm_trie::Key::new(range.prefix_len, data), 1, 0)?;
        }
        Ok(())
    }

    fn array<const V: usize>(&mut self, name: &str) -> Result<Array<&mut MapData, [u8; V]>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("the object has no {name}"))?;
        Array::try_from(map).with_context(|| name.to_owned())
    }

    fn hash<const K: usize, const V: usize>(
        &mut self,
        name: &str,
    ) -> Result<BpfHashMap<&mut MapData, [u8; K], [u8; V]>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("the object has no {name}"))?;
        BpfHashMap::try_from(map).with_context(|| name.to_owned())
    }

    fn fill<const K: usize, const V: usize>(&mut self, name: &str, entries: BTreeMap<[u8; K], [u8; V]>) -> Result<()> {
        let present = self.contents::<K, V>(name)?;
        let mut map = self.hash::<K, V>(name)?;
        for key in present.keys().filter(|key| !entries.contains_key(*key)) {
            map.remove(key)?;
        }
        for (key, value) in entries.iter().filter(|(key, value)| present.get(*key) != Some(*value)) {
            map.insert(key, value, 0)?;
        }
        Ok(())
    }

    fn contents<const K: usize, const V: usize>(&mut self, name: &str) -> Result<BTreeMap<[u8; K], [u8; V]>> {
        self.hash::<K, V>(name)?.iter().map(|entry| entry.with_context(|| name.to_owned())).collect()
    }

    fn compare_tables(&mut self, after: &MemoryTables, clock: &Clock) -> Result<()> {
        let flows: HashMap<FlowKey, FlowValue> = decode(&self.contents::<40, 56>("FLOWS")?);
        let expected = clock.flows_for_kernel(&after.flows);
        same_but_for_time("FLOWS", &flows, &expected, |flow| {
            let seen = u64::from(flow.last_seen);
            (FlowValue { last_seen: 0, ..*flow }, seen)
        })?;
        let affinity: HashMap<AffinityKey, AffinityValue> = decode(&self.contents::<20, 16>("AFFINITY")?);
        let expected = clock.affinity_for_kernel(&after.affinity);
        same_but_for_time("AFFINITY", &affinity, &expected, |bound| {
            (AffinityValue { last_used: 0, ..*bound }, bound.last_used / NANOS_PER_SECOND)
        })?;
        let pods: HashMap<_, PodValue> = decode(&self.contents::<16, 24>("PODS")?);
        same_but_for_time("PODS", &pods, &after.pods, |pod| (*pod, 0))?;
        let connections = self.array::<4>("CONNECTIONS")?;
        for id in 0..after.backends.len() as u32 {
            let (kernel, host) = (u32::from_bytes(&connections.get(&id, 0)?), after.connections(id));
            ensure!(kernel == host, "backend {id} has {kernel} connections in the kernel, {host} on the host");
        }
        let state = NodeState::from_bytes(&self.array::<4>("NODE_STATE")?.get(&0, 0)?);
        ensure!(state == after.node_state, "NODE_STATE\n  kernel {state:?}\n  host   {:?}", after.node_state);
        let fragments: HashMap<FragmentKey, FragmentValue> = decode(&self.contents::<40, 8>("FRAGMENTS")?);
        same_but_for_time("FRAGMENTS", &fragments, &after.fragments, |ports| (*ports, 0))
    }

    fn drops(&mut self) -> Result<Vec<u64>> {
        self.per_cpu_sums("DROPS", DropReason::COUNT)
    }

    fn per_cpu_sums(&self, name: &str, count: u32) -> Result<Vec<u64>> {
        let map = self.ebpf.map(name).with_context(|| format!("the object has no {name}"))?;
        let counters: PerCpuArray<_, u64> = map.try_into()?;
        (0..count).map(|index| Ok(counters.get(&index, 0)?.iter().sum())).collect()
    }

    fn compare_drops(&mut self, before: &[u64], record: &Record) -> Result<()> {
        let after = self.drops()?;
        for reason in DropReason::ALL {
            let counted = after[*reason as usize] - before[*reason as usize];
            let expected = u64::from(record.verdict == Verdict::Drop(*reason));
            if counted != expected {
                bail!("{:?} on the host, but {counted} counted of {}", record.verdict, reason.name());
            }
        }
        Ok(())
    }
}

/// A free id's entry.
const EMPTY_BACKEND: Backend = Backend {
    addr: datapath::abi::Addr::UNSPECIFIED,
    port: datapath::abi::Be16::ZERO,
    flags: 0,
    service: 0,
    generation: 0,
    pad: 0,
};

fn encode<K: Encode, V: Encode, const KB: usize, const VB: usize>(
    table: &HashMap<K, V>,
) -> BTreeMap<[u8; KB], [u8; VB]> {
    table.iter().map(|(key, value)| (key.bytes(), value.bytes())).collect()
}

fn decode<K: Encode + Eq + std::hash::Hash, V: Encode, const KB: usize, const VB: usize>(
    table: &BTreeMap<[u8; KB], [u8; VB]>,
) -> HashMap<K, V> {
    table.iter().map(|(key, value)| (K::from_bytes(key), V::from_bytes(value))).collect()
}

fn with_ethernet(program: Program, frame: &Frame) -> Vec<u8> {
    [&receiver(program)[..], &SENDER_MAC, &frame.ethertype.to_be_bytes(), &frame.packet].concat()
}

fn receiver(program: Program) -> [u8; 6] {
    if program == Program::FromNetwork { LOOPBACK_MAC } else { GATEWAY_MAC }
}

fn leaves_by_overlay(program: Program) -> bool {
    matches!(program, Program::ToOverlay | Program::ForwardedToOverlay)
}

/// Whether the packet goes where the verdict says by going on.
fn goes_on(program: Program, verdict: Verdict) -> bool {
    match verdict {
        Verdict::Tunnel(_) => leaves_by_overlay(program) || program == Program::FromShapedPod,
        Verdict::ToPod(_) | Verdict::Forward => program == Program::FromShapedPod,
        _ => false,
    }
}

/// The frame as the program must leave it: addressed to whom it goes next.
fn expected_frame(record: &Record, sent: &[u8]) -> Vec<u8> {
    let program = record.program;
    let (to, from) = match (record.verdict, program) {
        (Verdict::ToPod(_) | Verdict::Tunnel(_), Program::FromShapedPod) => (receiver(program), SENDER_MAC),
        (Verdict::ToPod(pod), _) => (pod.mac, GATEWAY_MAC),
        (Verdict::Answer | Verdict::Reroute, Program::FromHost) => (GATEWAY_MAC, SENDER_MAC),
        (Verdict::Answer, Program::FromPod | Program::FromShapedPod | Program::FromNetwork | Program::FromOverlay) => {
            (SENDER_MAC, receiver(program))
        }
        (Verdict::Answer | Verdict::Reroute, _) => (GATEWAY_MAC, GATEWAY_MAC),
        (Verdict::Tunnel(_), _) if leaves_by_overlay(program) => (GATEWAY_MAC, GATEWAY_MAC),
        _ => (receiver(program), SENDER_MAC),
    };
    [&to[..], &from, &sent[12..ETHERNET], &record.packet].concat()
}

/// The kernel's test run wants a frame to hold the IP header that its EtherType says.
fn is_too_short(frame: &Frame) -> bool {
    frame.packet.len() < if frame.family() == Some(datapath::abi::Family::V6) { 40 } else { 20 }
}
