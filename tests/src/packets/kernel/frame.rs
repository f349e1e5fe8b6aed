//! The frame in which a packet comes, and the one that its program must leave.

use datapath::{
    abi::{Family, GATEWAY_MAC},
    paths::Verdict,
};

use super::super::{
    case::{Frame, Program},
    host::Record,
};

/// Who gets frames that come over the wire: the address of the interface on which the kernel runs them.
const LOOPBACK_MAC: [u8; 6] = [0; 6];

/// Who sent the frame.
const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

const ETHERNET: usize = 14;
/// The frame that comes.
pub(super) fn with_ethernet(program: Program, frame: &Frame) -> Vec<u8> {
    [&receiver(program)[..], &SENDER_MAC, &frame.ethertype.to_be_bytes(), &frame.packet].concat()
}

fn receiver(program: Program) -> [u8; 6] {
    if program == Program::FromNetwork { LOOPBACK_MAC } else { GATEWAY_MAC }
}

fn leaves_by_overlay(program: Program) -> bool {
    matches!(program, Program::ToOverlay | Program::ForwardedToOverlay)
}

/// Whether somebody's queueing discipline has the packet next.
fn is_shaped(program: Program) -> bool {
    matches!(program, Program::FromShapedPod | Program::FromJudgedShapedPod)
}

/// Whether the packet goes where the verdict says by going on.
pub(super) fn goes_on(program: Program, verdict: Verdict) -> bool {
    match verdict {
        Verdict::Tunnel(_) => leaves_by_overlay(program) || is_shaped(program),
        Verdict::ToPod(_) | Verdict::Forward => is_shaped(program),
        _ => false,
    }
}

/// The frame as the program must leave it: addressed to whom it goes next.
pub(super) fn expected_frame(record: &Record, sent: &[u8]) -> Vec<u8> {
    let program = record.program;
    let (to, from) = match (record.verdict, program) {
        (Verdict::ToPod(_) | Verdict::Tunnel(_), program) if is_shaped(program) => (receiver(program), SENDER_MAC),
        (Verdict::ToPod(pod), _) => (pod.mac, GATEWAY_MAC),
        (Verdict::Answer | Verdict::Reroute, Program::FromHost) => (GATEWAY_MAC, SENDER_MAC),
        (
            Verdict::Answer,
            Program::FromPod
            | Program::FromShapedPod
            | Program::FromJudgedPod
            | Program::FromJudgedShapedPod
            | Program::FromNetwork
            | Program::FromOverlay,
        ) => (SENDER_MAC, receiver(program)),
        (Verdict::Answer | Verdict::Reroute, _) => (GATEWAY_MAC, GATEWAY_MAC),
        (Verdict::Tunnel(_), _) if leaves_by_overlay(program) => (GATEWAY_MAC, GATEWAY_MAC),
        _ => (receiver(program), SENDER_MAC),
    };
    [&to[..], &from, &sent[12..ETHERNET], &record.packet].concat()
}

/// The kernel's test run wants a frame to hold the IP header that its EtherType says.
pub(super) fn is_too_short(frame: &Frame) -> bool {
    frame.packet.len() < if frame.family() == Some(Family::V6) { 40 } else { 20 }
}
