//! What pods send to outside the cluster: the node's address hides theirs.
//!
//! Invariant: what is masqueraded comes back to its pod, and what can't come back
//! isn't. This module must not know Services.

use super::{Verdict, Work, translate};
use crate::{
    abi::{DropReason, FlowValue, NodeConfig},
    masquerade::Sender,
    packet::headers::{Fragment, Transport},
    tables::Tables,
};

/// Sends a pod's packet out of the cluster. What is for the link itself, what belongs
/// to no flow (an echo's reply that nobody asked for, other protocols), and all of it on
/// a node that doesn't masquerade goes the stack's way, as it is.
#[inline(always)]
pub(super) fn leave<T: Tables>(work: &mut Work, tables: &mut T) {
    if prepare(work, tables) {
        translate::begin_prepared(work, tables, Sender::Pod);
    }
}

/// Prepares the packet's flow; false: it begins none, and the verdict says what becomes
/// of it.
#[inline(never)]
fn prepare<T: Tables>(work: &mut Work, tables: &mut T) -> bool {
    let headers = &work.headers;
    work.verdict = Verdict::Pass;
    let Some(node) = tables.node() else { return false };
    let hides = node.address(headers.family);
    let (src, dst) = (&headers.src, &headers.dst);
    let on_link = dst.is_group() || dst.is_link_local_v6() || src.is_link_local_v6();
    if node.flags & NodeConfig::MASQUERADE_PODS == 0 || hides.is_unspecified() || on_link || src.is_unspecified() {
        return false;
    }
    if headers.fragment == Fragment::Later {
        work.verdict = Verdict::Drop(DropReason::FragmentOrphan);
        return false;
    }
    if !headers.has_flow() || headers.transport == Transport::EchoReply {
        return false;
    }
    work.flow.forward = FlowValue {
        src: hides,
        dst: headers.dst,
        src_port: headers.src_port,
        dst_port: headers.dst_port,
        flags: FlowValue::OUT,
        ..FlowValue::EMPTY
    };
    work.flow.reverse.flags = translate::out_flag(tables, src);
    work.key = headers.flow();
    true
}
