//! Runs cases through the host build of the datapath.

use std::fmt;

use datapath::{
    abi::Event,
    memory::{MemoryPacket, MemoryTables},
    met::Met,
    paths::{self, Verdict, Work},
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
    let met = program.met();
    met.judge(&mut packet, family, &mut work, tables);
    (work.verdict, packet.0, event(&work, met))
}

fn event(work: &Work, met: Met) -> Option<Event> {
    let dropped = match work.verdict {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    };
    if dropped.is_none() && !work.has_news() {
        return None;
    }
    Some(paths::event(work, paths::kind(work, dropped), dropped, met.hook(), 0))
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
    check::counted(record)?;
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
