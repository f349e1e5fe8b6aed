//! Runs cases through the host build of the datapath.
//!
//! Around the decisions stands what the kernel programs do around them; it must
//! be the same as in `ebpf-programs/src/traffic.rs`.

use std::fmt;

use datapath::{
    abi::{Event, EventHook},
    memory::{MemoryPacket, MemoryTables},
    paths::{self, Verdict, Work, glance},
    tables::Tables,
};

use super::{
    case::{Case, Expected, Frame, Program, Step},
    check,
};

/// One packet, and the tables before and after it.
#[derive(Clone)]
pub struct Record {
    /// The case and the packet's number in it.
    pub name: String,
    /// Where the packet was met.
    pub program: Program,
    /// The packet.
    pub frame: Frame,
    /// The tables before.
    pub before: MemoryTables,
    /// What became of it.
    pub verdict: Verdict,
    /// The packet after.
    pub packet: Vec<u8>,
    /// What who listens is told of it, but for the time.
    pub event: Option<Event>,
    /// The tables after.
    pub after: MemoryTables,
}

/// All but the tables.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = Frame { packet: self.packet.clone(), ..self.frame.clone() };
        let Self { name, program, frame, verdict, .. } = self;
        write!(f, "{name}: {program:?}\n  {frame:?}\n  {verdict:?}\n  {after:?}")
    }
}

/// Judges one packet.
pub fn judge<T: Tables>(program: Program, tables: &mut T, frame: &Frame) -> (Verdict, Vec<u8>) {
    let (verdict, packet, _) = judge_and_tell(program, tables, frame);
    (verdict, packet)
}

/// The same, and what who listens is told of it.
fn judge_and_tell<T: Tables>(program: Program, tables: &mut T, frame: &Frame) -> (Verdict, Vec<u8>, Option<Event>) {
    let Some(family) = frame.family() else { return (Verdict::Pass, frame.packet.clone(), None) };
    let mut packet = MemoryPacket(frame.packet.clone());
    let mut work = Work::EMPTY;
    let passes = match program {
        Program::FromNetwork => paths::carries_overlay(&packet, family, tables),
        Program::ToNetwork => !paths::node_may_answer(tables),
        _ => false,
    };
    if passes {
        return (Verdict::Pass, packet.0, None);
    }
    let settled = match program {
        Program::FromPod => glance::from_pod(&mut packet, family, &mut work, tables),
        Program::FromNetwork | Program::FromOverlay => glance::into_pod(&mut packet, family, &mut work, tables),
        Program::NodeToPod | Program::DeviceToPod | Program::ForwardedToPod => {
            glance::to_pod(&packet, family, &mut work, tables)
        }
        _ => false,
    };
    if settled {
        return (work.verdict, packet.0, None);
    }
    match work.read(&packet, family) {
        Err(reason) => work.verdict = Verdict::Drop(reason),
        Ok(()) => match program {
            Program::FromPod => paths::from_pod(&mut packet, &mut work, tables),
            Program::FromShapedPod => paths::from_shaped_pod(&mut packet, &mut work, tables),
            Program::FromHeldPod => paths::from_held_pod(&mut work, tables),
            Program::NodeToPod | Program::DeviceToPod => paths::to_pod(&mut packet, &mut work, tables, true),
            Program::ForwardedToPod => paths::to_pod(&mut packet, &mut work, tables, false),
            Program::FromHost => paths::from_host(&mut packet, &mut work, tables),
            Program::FromHostLoopback => paths::from_host_loopback(&mut packet, &mut work, tables),
            Program::FromNetwork | Program::FromOverlay => paths::from_network(&mut packet, &mut work, tables),
            Program::ToNetwork => paths::to_network(&mut packet, &mut work, tables),
            Program::ToOverlay => paths::to_overlay(&mut packet, &mut work, tables, true),
            Program::ForwardedToOverlay => paths::to_overlay(&mut packet, &mut work, tables, false),
        },
    }
    let event = event(&work, program);
    (work.verdict, packet.0, event)
}

fn event(work: &Work, program: Program) -> Option<Event> {
    let dropped = match work.verdict {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    };
    if dropped.is_none() && !work.has_news() {
        return None;
    }
    let hook = match program {
        Program::FromPod | Program::FromShapedPod | Program::FromHeldPod => EventHook::FromPod,
        Program::NodeToPod | Program::DeviceToPod | Program::ForwardedToPod => EventHook::ToPod,
        Program::FromHost => EventHook::FromHost,
        Program::FromHostLoopback => EventHook::Loopback,
        Program::FromNetwork | Program::FromOverlay => EventHook::FromNetwork,
        Program::ToNetwork => EventHook::ToNetwork,
        Program::ToOverlay | Program::ForwardedToOverlay => EventHook::ToOverlay,
    };
    Some(paths::event(work, paths::kind(work, dropped), dropped, hook, 0))
}

/// Judges one packet and keeps what it did.
pub fn record(name: String, program: Program, tables: &mut MemoryTables, frame: &Frame) -> Record {
    let before = tables.clone();
    let (verdict, packet, event) = judge_and_tell(program, tables, frame);
    Record { name, program, frame: frame.clone(), before, verdict, packet, event, after: tables.clone() }
}

/// Runs a case.
///
/// # Errors
/// In what the datapath did otherwise than the case says.
pub fn run(case: &Case) -> Result<Vec<Record>, String> {
    let mut world = case.world.clone();
    let mut records = Vec::new();
    for step in &case.steps {
        match step {
            Step::Change(change) => change(&mut world),
            Step::Wait(seconds) => world.wait(*seconds),
            Step::Packet { program, frame, expected, becomes } => {
                let name = format!("{}, packet {}", case.name, records.len() + 1);
                let record = record(name, *program, &mut world.tables, frame);
                compare(&record, *expected, becomes).map_err(|wrong| format!("{}: {wrong}", record.name))?;
                records.push(record);
            }
        }
    }
    Ok(records)
}

fn compare(record: &Record, expected: Expected, becomes: &Frame) -> Result<(), String> {
    let as_expected = match (expected, record.verdict) {
        (Expected::Pass, Verdict::Pass)
        | (Expected::Answer, Verdict::Answer)
        | (Expected::Reroute, Verdict::Reroute)
        | (Expected::Forward, Verdict::Forward) => true,
        (Expected::Tunnel(place), Verdict::Tunnel(end)) => {
            record.frame.family().is_some_and(|family| place.addr(family) == end)
        }
        (Expected::Drop(expected), Verdict::Drop(reason)) => expected == reason,
        (Expected::ToPod(place), Verdict::ToPod(pod)) => {
            let Some(family) = record.frame.family() else { return Err("only IP goes to a pod".into()) };
            let known = record.after.pods.get(&place.addr(family));
            known.is_some_and(|known| (known.ifindex, known.mac) == (pod.ifindex, pod.mac))
        }
        _ => false,
    };
    if !as_expected {
        return Err(format!("expected {expected:?}, got {:?}", record.verdict));
    }
    if matches!(record.verdict, Verdict::Drop(_)) {
        return Ok(());
    }
    if record.packet != becomes.packet {
        return Err(format!("expected {becomes:?}\n{record}"));
    }
    // What came in with right checksums goes out with right checksums.
    if record.frame.family().is_some() && check::sound(&record.frame.packet).is_ok() {
        check::sound(&record.packet).map_err(|wrong| format!("what it became is broken: {wrong}"))?;
    }
    Ok(())
}
