//! Answers that go to the client directly (`--load-balancer-mode=dsr`): who is outside
//! keeps its address, whichever node its packets come to first.
//!
//! A backend on another node is reached with the client's address as the source, and the
//! first packets of the flow announce to that node which address and port were dialled. It
//! notes the flow, as if the client had come there, and un-translates what the backend
//! answers.
//!
//! Invariant: a flow is answered directly only if its backend's node learns of it before
//! the backend does. What is heard is believed only where it can be true, and never at
//! the cost of a flow that is there.

use super::{Verdict, Work, translate};
use crate::{
    abi::{Addr, DropReason, FlowKey, FlowValue, FrontendKey, FrontendValue, NetworkValue, NodeConfig, protocol},
    destination,
    masquerade::Client,
    packet::{
        Packet,
        announcement::{self, Announcement},
        headers::{Headers, Transport},
    },
    tables::Tables,
    track,
};

/// Who answers the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// This node; what hides the client is [`crate::masquerade`]'s to say.
    ThisNode,
    /// This node, whose pod may see the client.
    OpenHere,
    /// The backend's node, which is told what was dialled.
    Directly,
}

/// Who answers a client that has dialled a frontend with these flags.
#[inline(never)]
pub(super) fn answers<T: Tables>(tables: &T, headers: &Headers, flags: u32, client: Client, backend: &Addr) -> Answers {
    let Some(node) = tables.node() else { return Answers::ThisNode };
    let hides = node.address(headers.family);
    let applies = node.flags & NodeConfig::DIRECT_ANSWERS != 0
        && client == Client::Outside
        && flags & (FrontendValue::EXTERNAL | FrontendValue::KEEP_CLIENT) == FrontendValue::EXTERNAL
        // Another node may be the backend's own.
        && tables.network_kind(&headers.src) == 0;
    if !applies || hides.is_unspecified() {
        return Answers::ThisNode;
    }
    if tables.pod(backend).is_some() {
        return Answers::OpenHere;
    }
    // Of this node's addresses the others know the primary ones.
    let known = headers.dst == hides || tables.network_kind(&headers.dst) != NetworkValue::NODE;
    let reached = tables.network(backend).is_some_and(|network| {
        matches!(network.kind, NetworkValue::PODS | NetworkValue::PEER) && network.tunnel.is_unspecified()
    });
    if known && reached && is_announceable(headers, flags) { Answers::Directly } else { Answers::ThisNode }
}

/// Whether a flow that begins with such a packet is known to its backend's node in time. In
/// mid-connection that may be so already, where any node would have chosen this backend.
#[inline(always)]
const fn is_announceable(headers: &Headers, flags: u32) -> bool {
    let goes_on = matches!(headers.transport, Transport::Tcp(_)) && !headers.opens;
    announcement::fits(headers) || goes_on && headers.is_plain() && flags & FrontendValue::MAGLEV != 0
}

/// Hears an announcement, and takes it out of the packet. One that isn't believed stays in
/// it, and means nothing. False: the packet is dropped, and the verdict says why.
#[inline(never)]
pub(super) fn hear<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) -> bool {
    let Some(told) = announcement::read(packet, &work.headers) else { return true };
    let Some(service) = believed(tables, &work.headers, &told) else { return true };
    let headers = &work.headers;
    // The client's packets won't pass by the flow, so that it is open is heard here.
    let opened =
        if matches!(headers.transport, Transport::Tcp(_)) && !headers.opens { FlowValue::ESTABLISHED } else { 0 };
    work.key = FlowKey { dst: told.addr, dst_port: told.port, ..headers.flow() };
    work.flow.forward = FlowValue {
        src: headers.src,
        dst: headers.dst,
        src_port: headers.src_port,
        dst_port: headers.dst_port,
        service,
        flags: FlowValue::EXTERNAL | opened,
        ..FlowValue::EMPTY
    };
    work.flow.reverse.flags = FlowValue::OUT;
    let heard = match track::adopt(tables, &work.key, &mut work.flow) {
        Ok(()) => announcement::remove(packet, &mut work.headers).map_err(|_| DropReason::RewriteFailed),
        Err(reason) => Err(reason),
    };
    match heard {
        Ok(()) => {
            translate::note_ends(work, tables);
            true
        }
        Err(reason) => {
            work.verdict = Verdict::Drop(reason);
            false
        }
    }
}

/// The service port that was dialled, if that can be: by somebody outside, at an address
/// that serves such clients here or at another node, with a backend on this node.
#[inline(always)]
fn believed<T: Tables>(tables: &T, headers: &Headers, told: &Announcement) -> Option<u32> {
    let node = tables.node()?;
    let possible = node.flags & NodeConfig::DIRECT_ANSWERS != 0
        && matches!(headers.protocol, protocol::TCP | protocol::UDP)
        && headers.has_ports()
        && tables.network_kind(&headers.src) == 0
        && !destination::leads_out(tables, &headers.dst);
    if !possible {
        return None;
    }
    let exact = tables.frontend(&FrontendKey::new(told.addr, told.port, headers.protocol));
    let frontend = match exact {
        None if tables.network_kind(&told.addr) == NetworkValue::PEER => {
            tables.frontend(&FrontendKey::node_port(headers.family, told.port, headers.protocol))?
        }
        exact => exact?,
    };
    let kind = FrontendValue::EXTERNAL | FrontendValue::KEEP_CLIENT;
    (frontend.flags & kind == FrontendValue::EXTERNAL).then_some(frontend.service)
}
