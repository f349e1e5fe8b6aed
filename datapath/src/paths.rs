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

pub mod wire;

use crate::{
    abi::{Addr, Be16, DropReason, Family, FlowKey, FlowValue, FragmentValue, NetworkValue, PodValue},
    destination::{self, Destination},
    packet::{
        Packet,
        headers::{self, Fragment, Headers, Transport},
        icmp_error,
        reject::{self, Answer},
        rewrite::{self, Ends},
    },
    select::{self, Refusal, Scope},
    tables::Tables,
    track::{self, Found, NewFlow},
};

/// What is at hand while a packet is judged. It's too large for the kernel's
/// stack, and lives beside it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The packet's headers, kept true as it is rewritten.
    pub headers: Headers,
    /// The headers that an ICMP error quotes.
    inner: Headers,
    /// The key of the packet's flow.
    key: FlowKey,
    /// What the packet becomes.
    ends: Ends,
    /// The flow that it begins.
    flow: NewFlow,
}

impl Work {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        headers: Headers::EMPTY,
        inner: Headers::EMPTY,
        key: Headers::EMPTY.flow(),
        ends: Ends { src: Addr::UNSPECIFIED, dst: Addr::UNSPECIFIED, src_port: Be16::ZERO, dst_port: Be16::ZERO },
        flow: NewFlow::EMPTY,
    };

    /// Reads the packet's headers; what an earlier packet left here is forgotten.
    ///
    /// # Errors
    /// The reason for which a packet like this is dropped.
    #[inline(always)]
    pub fn read<P: Packet>(&mut self, packet: &P, family: Family) -> Result<(), DropReason> {
        self.headers = Headers::EMPTY;
        headers::parse(packet, family, &mut self.headers)
    }
}

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
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) -> Verdict {
    match tables.pod(&work.headers.dst) {
        Some(pod) => {
            let pod = *pod;
            deliver(packet, work, tables, &pod)
        }
        None => translate(packet, work, tables),
    }
}

/// A packet that a held pod sent: only the node itself may get it (and groups on
/// the link, by which neighbours are found).
#[inline(always)]
pub fn from_held_pod<T: Tables>(work: &Work, tables: &T) -> Verdict {
    let dst = &work.headers.dst;
    if tables.network_kind(dst) == NetworkValue::NODE || is_multicast(dst) {
        Verdict::Pass
    } else {
        Verdict::Drop(DropReason::PodHeld)
    }
}

/// A packet that the node's stack sends into a pod; `from_node`: the node itself made it.
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, from_node: bool) -> Verdict {
    let Some(pod) = tables.pod(&work.headers.dst) else { return Verdict::Pass };
    let mut pod = *pod;
    if from_node {
        pod.flags &= !PodValue::HELD;
    }
    match deliver(packet, work, tables, &pod) {
        Verdict::ToPod(_) => Verdict::Pass,
        other => other,
    }
}

/// A packet that the node itself sends to a Service's address, led through our device.
///
/// What is for no Service must not go back to the stack, which would lead it
/// here again.
#[inline(always)]
pub fn from_host<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) -> Verdict {
    let asked = work.headers.dst;
    if is_multicast(&asked) {
        return Verdict::Pass;
    }
    match translate(packet, work, tables) {
        Verdict::Pass if work.headers.dst == asked => Verdict::Drop(DropReason::UnknownClusterIp),
        Verdict::Pass => Verdict::Reroute,
        other => other,
    }
}

/// A packet that came to the node over the wire.
#[inline(always)]
pub fn from_network<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) -> Verdict {
    if let Some(pod) = tables.pod(&work.headers.dst) {
        let pod = *pod;
        return deliver(packet, work, tables, &pod);
    }
    match follow_flow(packet, work, tables) {
        Ok(true) => onward(&work.headers, tables),
        Ok(false) => Verdict::Pass,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Delivers to a local pod, undoing the translation of the flow that the packet answers.
#[inline(always)]
fn deliver<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, pod: &PodValue) -> Verdict {
    if pod.flags & PodValue::HELD != 0 {
        return Verdict::Drop(DropReason::PodHeld);
    }
    let suspects = match work.headers.transport {
        Transport::IcmpError => !0,
        _ => PodValue::nat_bit(work.headers.protocol),
    };
    if pod.nat_protocols & suspects == 0 {
        return Verdict::ToPod(*pod);
    }
    match follow_flow(packet, work, tables) {
        Ok(_) => Verdict::ToPod(*pod),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Rewrites a packet of a tracked flow, or of a new one to a frontend; passes any other.
#[inline(always)]
fn translate<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) -> Verdict {
    match follow_flow(packet, work, tables) {
        Ok(true) => return onward(&work.headers, tables),
        Ok(false) => {}
        Err(reason) => return Verdict::Drop(reason),
    }
    match prepare_flow(work, tables) {
        Prepared::Flow => return begin_flow(packet, work, tables),
        Prepared::Nothing => {}
        Prepared::Rejected => return refuse(packet, &work.headers, Refusal::Reject),
        Prepared::Dropped(reason) => return Verdict::Drop(reason),
    }
    if tables.network_kind(&work.headers.dst) == NetworkValue::SERVICE {
        return Verdict::Drop(DropReason::UnknownClusterIp);
    }
    Verdict::Pass
}

/// Rewrites a packet of a tracked flow, in either direction, or an ICMP error
/// about one; false: it is of none.
#[inline(always)]
fn follow_flow<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) -> Result<bool, DropReason> {
    let rewritten = if work.headers.transport == Transport::IcmpError {
        let Some(quote) = find_quoted(packet, work, tables) else { return Ok(false) };
        icmp_error::rewrite_error(packet, &mut work.headers, quote, &work.ends)
    } else {
        let found = find_flow(work, tables);
        if !found.is_flow() {
            return Ok(false);
        }
        if found.is_last() {
            track::end(tables, &work.key, &work.ends);
        }
        rewrite::rewrite(packet, &mut work.headers, &work.ends)
    };
    rewritten.map_err(|_| DropReason::RewriteFailed)?;
    Ok(true)
}

/// What a packet that is of no flow begins.
///
/// One word, whatever it says: a call that gives back a word for the case and
/// another for its reason leaves the second unset in some, and the verifier
/// refuses a program that so much as moves what wasn't set.
enum Prepared {
    /// The flow in [`Work::flow`].
    Flow,
    /// It is for nothing of ours.
    Nothing,
    Rejected,
    Dropped(DropReason),
}

/// Prepares a flow if the packet is for a frontend.
#[inline(never)]
fn prepare_flow<T: Tables>(work: &mut Work, tables: &mut T) -> Prepared {
    let headers = &work.headers;
    let protocol = if track::has_ports(headers.protocol) { headers.protocol } else { 0 };
    let frontend = match destination::find(tables, headers.dst, headers.dst_port, protocol) {
        Destination::Frontend(frontend) => frontend,
        Destination::Foreign => return Prepared::Nothing,
        Destination::Unused if headers.fragment == Fragment::Later => {
            return Prepared::Dropped(DropReason::FragmentOrphan);
        }
        Destination::Unused => return Prepared::Rejected,
    };
    let backend = match select::select(tables, &frontend, Scope::Internal, Some(&headers.src)) {
        Ok(backend) => backend,
        Err(Refusal::Reject) => return Prepared::Rejected,
        Err(Refusal::Drop(reason)) => return Prepared::Dropped(reason),
    };
    work.flow.forward = FlowValue {
        src: source_address(headers, tables, &backend.addr),
        dst: backend.addr,
        src_port: headers.src_port,
        dst_port: backend.port,
        service: frontend.service,
        backend: backend.id,
        generation: backend.generation,
        flags: 0,
        last_seen: 0,
    };
    work.key = headers.flow();
    Prepared::Flow
}

/// Begins the prepared flow and sends its first packet on.
#[inline(always)]
fn begin_flow<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) -> Verdict {
    if let Err(reason) = track::open(tables, &work.key, &mut work.flow) {
        return Verdict::Drop(reason);
    }
    remember_fragment(&work.headers, tables);
    work.ends = track::ends(&work.flow.forward);
    match rewrite::rewrite(packet, &mut work.headers, &work.ends) {
        Ok(()) => onward(&work.headers, tables),
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

/// Finds the flow that an ICMP error is about, and notes what the error becomes.
#[inline(never)]
fn find_quoted<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T) -> Option<icmp_error::Quote> {
    work.inner = Headers::EMPTY;
    let quote = icmp_error::quoted(packet, &work.headers, &mut work.inner)?;
    work.key = work.inner.flow().reversed();
    let ends = &mut work.ends;
    tables.flow(&work.key, |flow| *ends = track::ends(flow))?;
    Some(quote)
}

/// Finds the packet's flow, and notes what it becomes. A later fragment has the
/// ports that its first one had.
#[inline(always)]
fn find_flow<T: Tables>(work: &mut Work, tables: &mut T) -> Found {
    let headers = &mut work.headers;
    if !track::has_ports(headers.protocol) {
        return Found::NO_FLOW;
    }
    if headers.fragment == Fragment::Later {
        let Some(ports) = tables.fragment(&headers.datagram()) else { return Found::NO_FLOW };
        headers.src_port = ports.src_port;
        headers.dst_port = ports.dst_port;
    }
    work.key = headers.flow();
    let found = track::find(tables, headers, &work.key, &mut work.ends);
    if found.is_flow() {
        remember_fragment(headers, tables);
    }
    found
}

#[inline(always)]
fn remember_fragment<T: Tables>(headers: &Headers, tables: &mut T) {
    if headers.fragment == Fragment::First {
        let ports = FragmentValue { src_port: headers.src_port, dst_port: headers.dst_port };
        tables.set_fragment(&headers.datagram(), &ports);
    }
}

/// The source address that the backend sees: the client's own, unless the
/// answer to it would go past us.
///
/// A pod that reaches itself through its Service sees the node's address, or the
/// Service's where the node has none of that family. A node that reaches its own
/// address sees the Service's, so that the answer is led through our device too.
#[inline(always)]
fn source_address<T: Tables>(headers: &Headers, tables: &T, backend: &Addr) -> Addr {
    if headers.src == *backend && tables.pod(backend).is_some() {
        let node = tables.node().map_or(Addr::UNSPECIFIED, |node| match headers.family {
            Family::V4 => node.v4,
            Family::V6 => node.v6,
        });
        return if node.is_unspecified() { headers.dst } else { node };
    }
    if tables.network_kind(&headers.src) == NetworkValue::NODE && tables.network_kind(backend) == NetworkValue::NODE {
        return headers.dst;
    }
    headers.src
}

/// Whether an address is a group's: 224.0.0.0/4 (RFC 5771), ff00::/8 (RFC 4291).
#[inline(always)]
fn is_multicast(addr: &Addr) -> bool {
    match addr.family() {
        Family::V4 => addr.v4_word().to_ne_bytes()[0] >> 4 == 0xe,
        Family::V6 => addr.0[0].to_ne_bytes()[0] == 0xff,
    }
}
