//! What becomes of a packet that was to go out by the network and can't.
//!
//! Invariant: who sent it learns of it as it would from the node's own stack, if that
//! is possible at all; what is dropped is counted.

use super::{Verdict, Work};
use crate::{
    abi::DropReason,
    packet::{
        AccessError, Packet,
        headers::Transport,
        reject::{self, Answer},
        rewrite,
    },
};

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The node has no route to there.
    NoRoute,
    /// The way takes packets up to this length only.
    TooBig(u16),
}

/// Says what becomes of a packet that [`Verdict::Forward`] was said of. It gets its ends
/// back, as far as somebody is to see it again.
#[inline(always)]
pub fn unsendable<P: Packet>(packet: &mut P, work: &mut Work, trouble: Trouble) {
    let lost = match trouble {
        Trouble::NoRoute => DropReason::NoRoute,
        Trouble::TooBig(_) => DropReason::TooBig,
    };
    work.verdict = Verdict::Drop(lost);
    if work.headers.transport == Transport::IcmpError {
        return;
    }
    // A Service's packet means nothing to the stack; a pod's own, of no Service, it refuses
    // by what its routes say.
    let of_service = work.changes.ends && work.member.service != 0;
    if trouble == Trouble::NoRoute && of_service {
        return;
    }
    if give_back(packet, work).is_err() {
        work.verdict = Verdict::Drop(DropReason::RewriteFailed);
        return;
    }
    match trouble {
        Trouble::NoRoute => work.verdict = Verdict::Pass,
        Trouble::TooBig(mtu) => match reject::too_big(packet, &work.headers, mtu) {
            Ok(Answer::Ready) => work.verdict = Verdict::Answer,
            Ok(Answer::Silence) => {}
            Err(_) => work.verdict = Verdict::Drop(DropReason::RejectFailed),
        },
    }
}

#[inline(always)]
fn give_back<P: Packet>(packet: &mut P, work: &mut Work) -> Result<(), AccessError> {
    if work.changes.ends {
        rewrite::rewrite(packet, &mut work.headers, &work.came_with)?;
    }
    let hops = work.headers.hops.wrapping_add(1);
    rewrite::set_hops(packet, &mut work.headers, hops)
}
