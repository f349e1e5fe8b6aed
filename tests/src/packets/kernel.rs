//! Runs what the host build did through the kernel programs, by `BPF_PROG_TEST_RUN`.
//!
//! Before each packet the maps are made to hold what the host's tables held; after
//! it they must hold what the host's tables hold then. The kernel's clock can't be
//! set, so times are kept as ages.

mod frame;
mod maps;
mod policy;

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{MapData, RingBuf},
    programs::{SchedClassifier, Xdp},
};
use datapath::{
    abi::{DropReason, Event, EventControl, EventLoss, LAYOUT, UplinkValue},
    memory::MemoryTables,
    paths::Verdict,
};
use nix::sched::{CloneFlags, unshare};

use self::{
    frame::{expected_frame, goes_on, is_too_short, with_ethernet},
    maps::Maps,
};
use super::{
    ages::Clock,
    case::Program,
    encode::Encode,
    host::Record,
    object,
    world::{HOST_IFINDEX, OVERLAY_IFINDEX},
};

/// The programs that see packets.
const PROGRAMS: [&str; 12] = [
    "from_pod",
    "from_shaped_pod",
    "from_judged_pod",
    "from_judged_shaped_pod",
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

/// The hashes.
const HASHES: [&str; 13] = [
    "FRONTENDS",
    "AFFINITY",
    "PODS",
    "POD_NETNS",
    "NETWORKS",
    "FLOWS",
    "FRAGMENTS",
    "SOCKET_PEERS",
    "POLICY_PEERS",
    "POLICY_VERDICTS",
    "POLICY_FLOWS",
    "POLICY_DENIALS",
    "SERVICE_CONNECTIONS",
];

/// The ring in which programs tell what happens.
const EVENTS: &str = "EVENTS";

/// The XDP program.
const FROM_WIRE: &str = "from_wire";

/// Entries of each hash: few, because looking for the next key walks all of them. Not fewer than the
/// least recently used ones need, which hand out free entries by the hundred.
const ENTRIES: u32 = 4096;

/// An interface that a forwarded packet came by.
const UPLINK: u32 = 2;

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
        let mut loader = EbpfLoader::new();
        for table in HASHES {
            if let Some(entries) = entries {
                loader.map_max_entries(table, entries);
            }
        }
        let mut ebpf = object::load(&mut loader)?;
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
        self.maps().write(&record.before, clock).context("writing the tables")?;
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
        self.maps().compare(&record.after, clock)?;
        self.compare_events(record)?;
        Ok(Replayed::Equal)
    }

    /// Says whether somebody listens to events.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn listen(&mut self, control: &EventControl) -> Result<()> {
        Ok(self.maps().array::<16>("EVENT_CONTROL")?.set(0, control.bytes(), 0)?)
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
        self.maps().per_cpu_sums("EVENT_LOSSES", EventLoss::COUNT)
    }

    fn maps(&mut self) -> Maps<'_> {
        Maps(&mut self.ebpf)
    }

    fn compare_events(&mut self, record: &Record) -> Result<()> {
        let heard = self.maps().array::<16>("EVENT_CONTROL")?.get(&0, 0)? != [0; 16];
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
            Program::FromJudgedPod => ("from_judged_pod", UPLINK),
            Program::FromJudgedShapedPod => ("from_judged_shaped_pod", UPLINK),
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
        self.maps().write(tables, &clock).context("writing the tables")
    }

    /// Whether the maps hold the tables as they are now.
    ///
    /// # Errors
    /// What differs.
    pub fn holds(&mut self, tables: &MemoryTables) -> Result<()> {
        let clock = Clock::at(tables)?;
        self.maps().compare(tables, &clock)
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
        Ok(self.maps().array::<16>("UPLINKS")?.set(UplinkValue::slot(ifindex), value, 0)?)
    }

    /// The program that packets from the wire meet first.
    ///
    /// # Errors
    /// The object has none.
    pub fn wire(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program(FROM_WIRE).context("the object has no from_wire")?.try_into()?)
    }

    fn drops(&mut self) -> Result<Vec<u64>> {
        self.maps().per_cpu_sums("DROPS", DropReason::COUNT)
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
