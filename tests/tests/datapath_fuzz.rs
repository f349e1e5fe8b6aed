//! Any bytes at all through every path, on the host and in the kernel.

use std::{cell::RefCell, collections::HashSet};

use datapath::{abi::DropReason, paths::Verdict};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tests::{
    packets::{
        case::{Frame, Program},
        check::{self, Seen},
        host::{self, Record},
        kernel::Kernel,
        stream,
        world::World,
    },
    privilege,
};

fn run(world: World, packets: Vec<(Program, Frame)>) -> Vec<Record> {
    let mut tables = world.tables;
    packets
        .into_iter()
        .enumerate()
        .map(|(number, (program, frame))| host::record(format!("packet {number}"), program, &mut tables, &frame))
        .collect()
}

/// Whether Services' packets are met there.
fn translates(program: Program) -> bool {
    matches!(
        program,
        Program::FromPod
            | Program::FromShapedPod
            | Program::FromJudgedPod
            | Program::FromJudgedShapedPod
            | Program::FromHost
            | Program::FromHostLoopback
            | Program::FromNetwork
            | Program::FromOverlay
    )
}

/// What every verdict must keep to, whatever the packet.
fn well_formed(record: &Record) -> Result<(), String> {
    let Record { program, frame, verdict, packet, after, .. } = record;
    let at_home = match (program, verdict) {
        (_, Verdict::Pass | Verdict::Drop(_)) => true,
        (program, Verdict::ToPod(pod)) if translates(*program) => {
            after.pods.values().any(|known| known.ifindex == pod.ifindex && known.mac == pod.mac)
        }
        (program, Verdict::Answer | Verdict::Reroute) => translates(*program),
        (
            Program::FromPod | Program::FromShapedPod | Program::FromJudgedPod | Program::FromJudgedShapedPod,
            Verdict::Forward | Verdict::Tunnel(_),
        ) => true,
        (Program::FromNetwork | Program::FromOverlay, Verdict::Forward) => true,
        (Program::ToOverlay | Program::ForwardedToOverlay, Verdict::Tunnel(_)) => true,
        _ => false,
    };
    if !at_home {
        return Err("no such verdict is given there".into());
    }
    match verdict {
        Verdict::Drop(_) => return Ok(()),
        Verdict::Answer => answers(&frame.packet, packet)?,
        _ if packet.len() != frame.packet.len() => return Err("the length changed".into()),
        _ if check::sound(&frame.packet).is_ok() => {
            check::sound(packet)?;
            same_payload(&frame.packet, packet)?;
        }
        _ => {}
    }
    Ok(())
}

/// An answer is sound whatever it answers (but for what it quotes), as long as its header says, and
/// goes back to the sender.
fn answers(asked: &[u8], answer: &[u8]) -> Result<(), String> {
    if check::sound(asked).is_ok() { check::sound(answer) } else { check::sound_outside(answer) }?;
    let header_says = match answer[0] >> 4 {
        4 => usize::from(u16::from_be_bytes([answer[2], answer[3]])),
        _ => usize::from(u16::from_be_bytes([answer[4], answer[5]])) + 40,
    };
    let swapped = match answer[0] >> 4 {
        4 => answer[12..16] == asked[16..20] && answer[16..20] == asked[12..16],
        _ => answer[8..24] == asked[24..40] && answer[24..40] == asked[8..24],
    };
    match (header_says == answer.len(), swapped) {
        (false, _) => Err(format!("the answer has {} bytes, its header says {header_says}", answer.len())),
        (_, false) => Err("the answer goes to somebody else".into()),
        _ => Ok(()),
    }
}

fn same_payload(before: &[u8], after: &[u8]) -> Result<(), String> {
    let (before, after) = (Seen::read(before)?, Seen::read(after)?);
    let has_ports = matches!(before.protocol, 6 | 17 | 132) && !before.fragmented;
    let same = !has_ports || before.payload() == after.payload();
    if same && before.protocol == after.protocol { Ok(()) } else { Err("the payload changed".into()) }
}

proptest! {
    #![proptest_config(stream::cases(100))]

    #[test]
    fn nothing_breaks_the_host_build(
        world in stream::plain_world(),
        packets in vec(stream::packet(), 1..40),
    ) {
        for record in run(world, packets) {
            if let Err(wrong) = well_formed(&record) {
                prop_assert!(false, "{wrong}\n{record}");
            }
            if let Err(wrong) = check::mirrored(&record.after) {
                prop_assert!(false, "{wrong}\n{record}");
            }
        }
    }
}

/// Streams that reach nothing would show nothing.
#[test]
fn the_streams_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let streams = (stream::plain_world(), vec(stream::packet(), 40));
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let (world, packets) = streams.new_tree(&mut runner).unwrap().current();
        seen.extend(run(world, packets).iter().map(|record| match record.verdict {
            Verdict::Drop(reason) => reason.name(),
            Verdict::ToPod(_) if record.packet != record.frame.packet => "rewritten, into a pod",
            Verdict::ToPod(_) => "into a pod",
            Verdict::Pass if record.packet != record.frame.packet => "rewritten, passes",
            Verdict::Pass => "passes",
            Verdict::Answer => "answered",
            Verdict::Reroute => "rerouted",
            Verdict::Forward => "forwarded",
            Verdict::Tunnel(_) => "tunnelled",
        }));
    }
    // Tables in memory are never full, whole worlds name no missing backend, packets in memory can
    // always be changed to an answer, and to every place there is a way. And nobody takes over.
    let out_of_reach = [
        DropReason::FlowTableFull,
        DropReason::BackendMissing,
        DropReason::RejectFailed,
        DropReason::NoRoute,
        DropReason::TooBig,
        DropReason::ChangingOver,
    ];
    let reasons = DropReason::ALL.iter().filter(|reason| !out_of_reach.contains(reason)).map(|reason| reason.name());
    let verdicts = [
        "rewritten, into a pod",
        "into a pod",
        "rewritten, passes",
        "passes",
        "answered",
        "rerouted",
        "forwarded",
        "tunnelled",
    ];
    let missing: Vec<&str> = reasons.chain(verdicts).filter(|outcome| !seen.contains(outcome)).collect();
    assert!(missing.is_empty(), "no packet was {missing:?}");
}

#[test]
fn the_kernel_does_what_the_host_does_with_anything() {
    if !privilege::root_or_skip("the_kernel_does_what_the_host_does_with_anything") {
        return;
    }
    let kernel = RefCell::new(Kernel::load().unwrap());
    proptest!(stream::cases(20), |(world in stream::plain_world(), packets in vec(stream::packet(), 1..40))| {
        for record in run(world, packets) {
            if let Err(wrong) = kernel.borrow_mut().replay(&record) {
                prop_assert!(false, "{wrong:#}\n{record}");
            }
        }
    });
}
