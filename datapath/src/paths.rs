//! The way of a packet through each program: what becomes of it and why.
//!
//! ```text
//! pod ──► from_pod ──┬─ local pod ─► un-NAT ─► the pod's namespace
//!                    ├─ flow or frontend ─► NAT ─► local pod or node
//!                    └─ anything else ─► node
//! node ─► to_pod ──► un-NAT ─► pod        (what the node's stack delivers)
//! node ─► from_host ─► as from_pod         (the node's own packets to Services)
//! wire ─► from_network ─► un-NAT ─► local pod or node
//! ```
//!
//! Invariant: a packet between pods of one node that needs no translation costs
//! one look-up. What was rewritten is delivered or dropped, never passed half done.

use crate::{
    abi::{Addr, DropReason, Family, FlowKey, FragmentValue, FrontendKey, NetworkValue, PodValue},
    packet::{
        Packet,
        headers::{Fragment, Headers, Transport},
        icmp_error,
        reject::{self, Answer},
        rewrite,
    },
    select::{self, Refusal, Scope},
    tables::Tables,
    track::{self, Opening},
};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the node's network stack.
    Pass,
    /// Into a pod on this node, past the stack.
    ToPod(PodValue),
    /// The packet has become an answer to its sender: back where it came from.
    Answer,
    /// The node's own packet has got another destination: back into the node's
    /// stack, to be routed there.
    Reroute,
    /// Dropped.
    Drop(DropReason),
}

/// A packet that a pod sent.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T) -> Verdict {
    if let Some(pod) = tables.pod(&headers.dst) {
        let pod = *pod;
        return deliver(packet, headers, tables, &pod);
    }
    translate(packet, headers, tables)
}

/// A packet that a held pod sent: only the node itself may get it (and groups on
/// the link, by which neighbours are found).
#[inline(always)]
pub fn from_held_pod<T: Tables>(headers: &Headers, tables: &T) -> Verdict {
    if tables.network(&headers.dst) == NetworkValue::NODE || is_multicast(&headers.dst) {
        Verdict::Pass
    } else {
        Verdict::Drop(DropReason::PodHeld)
    }
}

/// A packet that the node's stack sends into a pod; `from_node`: the node itself made it.
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T, from_node: bool) -> Verdict {
    let Some(pod) = tables.pod(&headers.dst) else { return Verdict::Pass };
    let pod = *pod;
    let open = PodValue { flags: if from_node { 0 } else { pod.flags }, ..pod };
    match deliver(packet, headers, tables, &open) {
        Verdict::ToPod(_) => Verdict::Pass,
        other => other,
    }
}

/// A packet that the node itself sends to a Service's address, led through our device.
///
/// What is for no Service must not go back to the stack, which would lead it
/// here again.
#[inline(always)]
pub fn from_host<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T) -> Verdict {
    let asked = headers.dst;
    if is_multicast(&asked) {
        return Verdict::Pass;
    }
    match translate(packet, headers, tables) {
        Verdict::Pass if headers.dst == asked => Verdict::Drop(DropReason::UnknownClusterIp),
        Verdict::Pass => Verdict::Reroute,
        other => other,
    }
}

/// A packet that came to the node over the wire.
#[inline(always)]
pub fn from_network<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T) -> Verdict {
    if let Some(pod) = tables.pod(&headers.dst) {
        let pod = *pod;
        return deliver(packet, headers, tables, &pod);
    }
    match follow_flow(packet, headers, tables) {
        Some(verdict) => verdict,
        None => Verdict::Pass,
    }
}

/// Delivers to a local pod, undoing the translation of the flow that the packet answers.
#[inline(always)]
fn deliver<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T, pod: &PodValue) -> Verdict {
    if pod.flags & PodValue::HELD != 0 {
        return Verdict::Drop(DropReason::PodHeld);
    }
    let suspects = match headers.transport {
        Transport::IcmpError => !0,
        _ => PodValue::nat_bit(headers.protocol),
    };
    if pod.nat_protocols & suspects != 0 {
        match undo(packet, headers, tables) {
            Ok(()) => {}
            Err(reason) => return Verdict::Drop(reason),
        }
    }
    Verdict::ToPod(*pod)
}

/// Undoes the translation of a flow if the packet comes back along one.
#[inline(always)]
fn undo<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T) -> Result<(), DropReason> {
    if headers.transport == Transport::IcmpError {
        return translate_error(packet, headers, tables).map(|_| ());
    }
    let Some(key) = flow_key(headers, tables) else { return Ok(()) };
    let Some(flow) = track::find(tables, headers, &key) else { return Ok(()) };
    remember_fragment(headers, tables);
    rewrite::rewrite(packet, headers, &track::ends(&flow)).map_err(|_| DropReason::RewriteFailed)
}

/// Rewrites a packet of a tracked flow, or of a new one to a frontend; passes any other.
#[inline(always)]
fn translate<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T) -> Verdict {
    if let Some(verdict) = follow_flow(packet, headers, tables) {
        return verdict;
    }
    if headers.fragment != Fragment::Later && track::has_ports(headers.protocol) {
        let frontend = FrontendKey::new(headers.dst, headers.dst_port, headers.protocol);
        if let Some(value) = tables.frontend(&frontend) {
            let value = *value;
            let client = headers.src;
            return match select::select(tables, &value, Scope::Internal, Some(&client)) {
                Ok(backend) => {
                    let masquerade = masquerade_address(headers, tables, &backend.addr);
                    let opening = Opening { service: value.service, scope: Scope::Internal, backend, masquerade };
                    begin(packet, headers, tables, &opening)
                }
                Err(refusal) => refuse(packet, headers, refusal),
            };
        }
    }
    if tables.frontend(&FrontendKey::whole_address(headers.dst)).is_some() {
        return match headers.fragment {
            Fragment::Later => Verdict::Drop(DropReason::FragmentOrphan),
            _ => refuse(packet, headers, Refusal::Reject),
        };
    }
    if tables.network(&headers.dst) == NetworkValue::SERVICE {
        return Verdict::Drop(DropReason::UnknownClusterIp);
    }
    Verdict::Pass
}

/// Rewrites a packet of a tracked flow, in either direction; `None`: of no flow.
#[inline(always)]
fn follow_flow<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T) -> Option<Verdict> {
    if headers.transport == Transport::IcmpError {
        return match translate_error(packet, headers, tables) {
            Ok(true) => Some(onward(headers, tables)),
            Ok(false) => None,
            Err(reason) => Some(Verdict::Drop(reason)),
        };
    }
    let key = flow_key(headers, tables)?;
    let flow = track::find(tables, headers, &key)?;
    remember_fragment(headers, tables);
    Some(send(packet, headers, tables, &track::ends(&flow)))
}

/// Begins a flow and sends its first packet on.
#[inline(always)]
fn begin<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T, opening: &Opening) -> Verdict {
    let key = headers.flow();
    remember_fragment(headers, tables);
    match track::open(tables, &key, opening) {
        Ok(flow) => send(packet, headers, tables, &track::ends(&flow)),
        Err(reason) => Verdict::Drop(reason),
    }
}

#[inline(always)]
fn send<P: Packet, T: Tables>(packet: &mut P, headers: &mut Headers, tables: &mut T, ends: &rewrite::Ends) -> Verdict {
    match rewrite::rewrite(packet, headers, ends) {
        Ok(()) => onward(headers, tables),
        Err(_) => Verdict::Drop(DropReason::RewriteFailed),
    }
}

/// Where a rewritten packet goes: into a local pod, or to the node's stack.
#[inline(always)]
fn onward<T: Tables>(headers: &Headers, tables: &T) -> Verdict {
    match tables.pod(&headers.dst) {
        Some(pod) if pod.flags & PodValue::HELD != 0 => Verdict::Drop(DropReason::PodHeld),
        Some(pod) => Verdict::ToPod(*pod),
        None => Verdict::Pass,
    }
}

#[inline(always)]
fn refuse<P: Packet>(packet: &mut P, headers: &Headers, refusal: Refusal) -> Verdict {
    match refusal {
        Refusal::Drop(reason) => Verdict::Drop(reason),
        Refusal::Reject => match reject::reject(packet, headers) {
            Ok(Answer::Ready) => Verdict::Answer,
            Ok(Answer::Silence) => Verdict::Drop(DropReason::Rejected),
            Err(_) => Verdict::Drop(DropReason::RejectFailed),
        },
    }
}

/// Translates an ICMP error about a tracked flow; false: it is about none.
#[inline(always)]
fn translate_error<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &mut Headers,
    tables: &mut T,
) -> Result<bool, DropReason> {
    let Ok(quote) = icmp_error::quoted(packet, headers) else { return Ok(false) };
    if !track::has_ports(quote.protocol) || quote.fragment == Fragment::Later {
        return Ok(false);
    }
    let Some(flow) = tables.flow(&quote.flow().reversed(), |_| {}) else { return Ok(false) };
    icmp_error::rewrite_error(packet, headers, &quote, &track::ends(&flow)).map_err(|_| DropReason::RewriteFailed)?;
    Ok(true)
}

/// The flow of a packet; a later fragment has the ports that its first one had.
#[inline(always)]
fn flow_key<T: Tables>(headers: &mut Headers, tables: &T) -> Option<FlowKey> {
    if !track::has_ports(headers.protocol) {
        return None;
    }
    if headers.fragment == Fragment::Later {
        let ports = tables.fragment(&headers.datagram())?;
        headers.src_port = ports.src_port;
        headers.dst_port = ports.dst_port;
    }
    Some(headers.flow())
}

#[inline(always)]
fn remember_fragment<T: Tables>(headers: &Headers, tables: &mut T) {
    if headers.fragment == Fragment::First {
        let ports = FragmentValue { src_port: headers.src_port, dst_port: headers.dst_port };
        tables.set_fragment(&headers.datagram(), &ports);
    }
}

/// The address that must stand in for the client's own, if the backend's answer
/// would else go past us.
///
/// A pod that reaches itself through its Service sees the node's address, or the
/// Service's where the node has none of that family. A node that reaches its own
/// address sees the Service's, so that the answer is led through our device too.
#[inline(always)]
fn masquerade_address<T: Tables>(headers: &Headers, tables: &T, backend: &Addr) -> Option<Addr> {
    if headers.src == *backend && tables.pod(backend).is_some() {
        let node = tables.node().map(|node| match headers.family {
            Family::V4 => node.v4,
            Family::V6 => node.v6,
        });
        return Some(node.filter(|addr| !addr.is_unspecified()).unwrap_or(headers.dst));
    }
    let both_node = tables.network(&headers.src) == NetworkValue::NODE && tables.network(backend) == NetworkValue::NODE;
    both_node.then_some(headers.dst)
}

/// Whether an address is a group's: 224.0.0.0/4 (RFC 5771), ff00::/8 (RFC 4291).
#[inline(always)]
fn is_multicast(addr: &Addr) -> bool {
    match addr.family() {
        Family::V4 => addr.v4_word().to_ne_bytes()[0] >> 4 == 0xe,
        Family::V6 => addr.0[0].to_ne_bytes()[0] == 0xff,
    }
}
