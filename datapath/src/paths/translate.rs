//! Translating a packet: by the flow that it belongs to, or by the one that it begins.
//!
//! Invariant: where a packet goes is known before it is rewritten, so that one which
//! may not go there is still as it came. This module must not know which program asks,
//! but for whose packet it is.

use super::{
    Verdict, Work,
    direct::{self, Answers},
    events,
};
use crate::{
    abi::{Addr, DropReason, FlowValue, FragmentValue, FrontendValue, PodValue},
    destination::{self, Destination},
    handover,
    masquerade::{self, Client, Sender},
    packet::{
        AccessError, Packet,
        announcement::{self, Announcement},
        headers::{Fragment, Headers, Transport, tcp_flags},
        icmp_error::{self, Quote},
        reject::{self, Answer},
        rewrite::{self, Ends, Plain},
    },
    select::{self, Dial, Refusal, Scope},
    tables::Tables,
    track::{self, Found, Steady},
};

/// A packet's place in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// See [`FlowValue::service`].
    pub service: u32,
    /// It comes from the backend.
    pub reverse: bool,
    /// It goes out by the network, see [`FlowValue::OUT`].
    pub out: bool,
    /// It is the last.
    ended: bool,
    /// It tells its backend's node of the flow, if it takes that.
    announced: bool,
    /// It is an ICMP error about a packet of the flow, by which it travels back.
    is_error: bool,
    /// Which the error quotes.
    quote: Quote,
}

impl Member {
    /// In none.
    pub const NONE: Self = Self {
        service: 0,
        reverse: false,
        out: false,
        ended: false,
        announced: false,
        is_error: false,
        quote: Quote::EMPTY,
    };

    #[inline(always)]
    fn of(Found { reverse, out, ended, announced, service }: Found) -> Self {
        Self { service, reverse, out, ended, announced, ..Self::NONE }
    }
}

/// Translates a packet of a tracked flow, or of a new one to a frontend; false: it is
/// for nothing of ours. (The same answer is given by all that follow here.)
#[inline(always)]
pub(super) fn translate<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, sender: Sender) -> bool {
    follow(packet, work, tables, sender) || begin(packet, work, tables, sender)
}

/// Directs a packet of a tracked flow, in either direction, or an ICMP error about one,
/// to where it goes.
#[inline(always)]
pub(super) fn follow<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T, sender: Sender) -> bool {
    let found = find(packet, work, tables);
    if found {
        direct(work, tables, sender);
    }
    found
}

/// Undoes the translation of a packet that answers one. Where it goes stands.
#[inline(always)]
pub(super) fn answer<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T) {
    if find(packet, work, tables) && work.member.reverse {
        work.changes.ends = true;
    }
}

/// Begins a flow to a frontend.
#[inline(always)]
pub(super) fn begin<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, sender: Sender) -> bool {
    match prepare(work, tables, sender) {
        Prepared::Nothing => return false,
        Prepared::Flow => begin_prepared(work, tables, sender),
        Prepared::Rejected => refuse(packet, work),
        // The verdict says what becomes of it.
        Prepared::Dropped | Prepared::Left => {}
    }
    true
}

/// Begins the prepared flow and directs its first packet.
///
/// A function of its own, so that of all that was known before it is called nothing is
/// known to the verifier any more: it walks all attempts to find a port once then, and
/// not once for every way that leads here.
#[inline(never)]
pub(super) fn begin_prepared<T: Tables>(work: &mut Work, tables: &mut T, sender: Sender) {
    let goes_out = work.flow.forward.flags & FlowValue::OUT != 0 && sender != Sender::Node;
    if goes_out && work.headers.hops <= 1 {
        work.verdict = Verdict::Pass;
        return;
    }
    match open(work, tables) {
        Ok(()) => direct(work, tables, sender),
        Err(reason) => work.verdict = Verdict::Drop(reason),
    }
}

/// Opens the prepared flow.
#[inline(always)]
pub(super) fn open<T: Tables>(work: &mut Work, tables: &mut T) -> Result<(), DropReason> {
    track::open(tables, &work.key, &mut work.flow)?;
    work.occurred |= events::BEGAN;
    note_ends(work, tables);
    remember_fragment(&work.headers, tables);
    // Another CPU may have been first, and then its choice stands.
    take_place(work);
    Ok(())
}

/// Notes what the first packet of the flow becomes, and its place in it.
#[inline(always)]
pub(super) fn take_place(work: &mut Work) {
    let forward = &work.flow.forward;
    work.ends = track::ends(forward);
    let [out, announced] = [FlowValue::OUT, FlowValue::DIRECT].map(|bit| forward.flags & bit != 0);
    work.member = Member { service: forward.service, out, announced, ..Member::NONE };
}

/// Looks for the packet's flow, and notes its place in it and what it becomes.
#[inline(never)]
fn find<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T) -> bool {
    if work.headers.transport == Transport::IcmpError {
        find_quoted(packet, work, tables)
    } else {
        find_flow(work, tables)
    }
}

/// Directs the packet to where it goes with its new ends. One whose hops run out goes to
/// the stack as it came, which tells its sender.
#[inline(never)]
pub(super) fn direct<T: Tables>(work: &mut Work, tables: &mut T, sender: Sender) {
    // What the stack made it can send, too, wherever its routes lead.
    let forwards = work.member.out && sender != Sender::Node;
    if forwards && work.headers.hops <= 1 {
        work.verdict = Verdict::Pass;
        return;
    }
    work.changes = Changes { ends: true, hops: forwards };
    if forwards {
        work.verdict = Verdict::Forward;
    } else if work.member.out {
        work.verdict = Verdict::Reroute;
    } else if let Some(pod) = tables.pod(&work.ends.dst) {
        if pod.flags & PodValue::HELD != 0 {
            work.changes.ends = false;
            work.verdict = Verdict::Drop(DropReason::PodHeld);
        } else {
            work.verdict = Verdict::ToPod(*pod);
        }
    } else if sender == Sender::Node || destination::is_own(tables, &work.ends.src) {
        work.verdict = Verdict::Reroute;
    } else {
        work.verdict = Verdict::Pass;
    }
}

/// What is to be written into the packet, once it is known where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changes {
    /// It gets the ends that its flow says.
    pub ends: bool,
    /// It makes a hop.
    pub hops: bool,
}

impl Changes {
    /// Nothing.
    pub const NONE: Self = Self { ends: false, hops: false };
}

/// Writes what is to be written into the packet. The one place for all of a program's
/// ways, so that the verifier needn't walk it for each.
#[inline(never)]
pub(super) fn write<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    let Changes { ends, hops } = work.changes;
    let mut written = Ok(());
    if ends {
        written = apply(packet, work, tables, hops);
    } else if hops {
        written = rewrite::take_hop(packet, &mut work.headers);
    }
    if written.is_ok() && ends && work.member.announced && announcement::fits(&work.headers) {
        let told = Announcement { addr: work.came_with.dst, port: work.came_with.dst_port };
        written = announcement::add(packet, &mut work.headers, &told);
    }
    if written.is_err() {
        work.verdict = Verdict::Drop(DropReason::RewriteFailed);
    }
}

/// Forgets the packet's flow if this is its last.
#[inline(always)]
pub(super) fn end_flow<T: Tables>(work: &mut Work, tables: &mut T) {
    if work.member.ended {
        work.occurred |= events::CLOSED;
        track::end(tables, &work.key, &work.ends);
    }
}

/// Rewrites the packet as its flow says; `hop`: it makes one, too.
///
/// # Errors
/// It could not be rewritten, and may be half written.
#[inline(always)]
fn apply<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, hop: bool) -> Result<(), AccessError> {
    end_flow(work, tables);
    let headers = &mut work.headers;
    work.came_with =
        Ends { src: headers.src, dst: headers.dst, src_port: headers.src_port, dst_port: headers.dst_port };
    if headers.is_plain() {
        return rewrite::rewrite_plain(packet, headers, &work.ends, Plain { hop, finished: false });
    }
    if work.member.is_error {
        icmp_error::rewrite_error(packet, headers, &work.member.quote, &work.ends)?;
    } else {
        rewrite::rewrite(packet, headers, &work.ends)?;
    }
    if hop { rewrite::take_hop(packet, headers) } else { Ok(()) }
}

/// What [`prepare`] found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prepared {
    /// The packet begins the flow in [`Work::flow`].
    Flow,
    /// It is for nothing of ours.
    Nothing,
    /// It must be refused.
    Rejected,
    /// It must be dropped: the verdict says why.
    Dropped,
    /// It is left to netfilter, which may know its connection.
    Left,
}

/// Prepares a flow if the packet is for a frontend.
#[inline(never)]
pub(super) fn prepare<T: Tables>(work: &mut Work, tables: &mut T, sender: Sender) -> Prepared {
    if handover::is_left(&work.headers, tables, sender) {
        work.verdict = Verdict::Pass;
        return Prepared::Left;
    }
    match prepare_for_frontend(work, tables, sender) {
        Ok(true) => Prepared::Flow,
        Ok(false) => Prepared::Nothing,
        Err(Refusal::Reject) => Prepared::Rejected,
        Err(Refusal::Drop(reason)) => {
            work.verdict = Verdict::Drop(reason);
            Prepared::Dropped
        }
    }
}

#[inline(always)]
fn prepare_for_frontend<T: Tables>(work: &mut Work, tables: &mut T, sender: Sender) -> Result<bool, Refusal> {
    let headers = &work.headers;
    let protocol = if headers.has_ports() { headers.protocol } else { 0 };
    let frontend = match destination::find(tables, headers.dst, headers.dst_port, protocol) {
        Destination::Frontend(frontend) => frontend,
        Destination::Foreign => return Ok(false),
        Destination::Unused if headers.fragment == Fragment::Later => {
            return Err(Refusal::Drop(DropReason::FragmentOrphan));
        }
        Destination::Unused => return Err(Refusal::Reject),
    };
    let restricted = frontend.flags & FrontendValue::SOURCE_RANGES != 0;
    if restricted && !tables.in_source_ranges(frontend.service, &headers.src) {
        return Err(Refusal::Drop(DropReason::SourceNotAllowed));
    }
    let client = sender.client(tables, &headers.src);
    let scope = client.scope(&frontend);
    let dial =
        Dial { client: headers.src, client_port: headers.src_port, port: headers.dst_port, protocol: headers.protocol };
    let backend = select::select(tables, &frontend, scope, Some(&dial))?;
    let counted = if frontend.flags & FrontendValue::LEAST_CONNECTIONS != 0 { FlowValue::COUNTED } else { 0 };
    let external = if scope == Scope::External { FlowValue::EXTERNAL } else { 0 };
    let answers = direct::answers(tables, headers, frontend.flags, client, &backend.addr);
    let direct = if answers == Answers::Directly { FlowValue::DIRECT } else { 0 };
    work.flow.forward = FlowValue {
        src: match answers {
            Answers::ThisNode => masquerade::source(tables, headers, frontend.flags, client, &backend.addr),
            Answers::OpenHere | Answers::Directly => headers.src,
        },
        dst: backend.addr,
        src_port: headers.src_port,
        dst_port: backend.port,
        service: frontend.service,
        backend: backend.id,
        generation: backend.generation,
        flags: external | counted | direct | out_flag(tables, &backend.addr),
        ..FlowValue::EMPTY
    };
    let client_out = if client == Client::Node { 0 } else { out_flag(tables, &headers.src) };
    work.flow.reverse.flags = client_out;
    work.key = headers.flow();
    Ok(true)
}

/// [`FlowValue::OUT`] for packets to an address.
#[inline(always)]
pub(super) fn out_flag<T: Tables>(tables: &T, addr: &Addr) -> u32 {
    if destination::leads_out(tables, addr) { FlowValue::OUT } else { 0 }
}

/// Notes who the new flow's ends are, so that their packets are looked up: those to the
/// client, if it is a pod of this node, and those from the backend if it isn't, since
/// they are met where they leave.
#[inline(always)]
pub(super) fn note_ends<T: Tables>(work: &Work, tables: &mut T) {
    let protocol = work.headers.protocol;
    let client = &work.key.src;
    if tables.pod(client).is_some() {
        tables.mark_nat(client, PodValue::client_bit(protocol));
        if work.flow.forward.src == *client {
            return;
        }
    }
    let backend = &work.flow.forward.dst;
    if tables.pod(backend).is_some() {
        tables.mark_nat(backend, PodValue::server_bit(protocol));
    } else if work.flow.forward.flags & FlowValue::OUT == 0 {
        tables.mark_node_nat(PodValue::server_bit(protocol));
    }
}

#[inline(always)]
fn refuse<P: Packet>(packet: &mut P, work: &mut Work) {
    match reject::reject(packet, &work.headers) {
        Ok(Answer::Ready) => {
            work.occurred |= events::REFUSED;
            work.verdict = Verdict::Answer;
        }
        Ok(Answer::Silence) => work.verdict = Verdict::Drop(DropReason::Rejected),
        Err(_) => work.verdict = Verdict::Drop(DropReason::RejectFailed),
    }
}

/// Finds the flow that an ICMP error is about. The error's way along it is that of
/// packets that answer the quoted one.
#[inline(never)]
fn find_quoted<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T) -> bool {
    work.inner = Headers::EMPTY;
    let Some(quote) = icmp_error::quoted(packet, &work.headers, &mut work.inner) else { return false };
    work.key = work.inner.flow().reversed();
    let (ends, member) = (&mut work.ends, &mut work.member);
    let found = tables.flow(&work.key, |flow| {
        *ends = track::ends(flow);
        *member = Member {
            service: flow.service,
            reverse: flow.flags & FlowValue::REVERSE != 0,
            out: flow.flags & FlowValue::OUT != 0,
            ended: false,
            announced: false,
            is_error: true,
            quote,
        };
    });
    found.is_some()
}

/// Finds the flow of a whole packet with ports, of which nothing is to be noted.
#[inline(always)]
pub(super) fn find_steady<T: Tables>(work: &mut Work, tables: &mut T) -> Steady {
    work.key = work.headers.flow();
    let steady = track::find_steady(tables, &work.headers, &work.key, &mut work.ends);
    if let Steady::Found(found) = steady {
        work.member = Member::of(found);
    }
    steady
}

/// Whether the packet is one of those that tell their backend's node of their flow, which
/// has begun. Nothing is noted.
#[inline(always)]
pub(super) fn is_announced<T: Tables>(work: &Work, tables: &mut T) -> bool {
    let headers = &work.headers;
    let known = match headers.transport {
        Transport::Tcp(flags) if flags & (tcp_flags::FIN | tcp_flags::RST) != 0 => return false,
        Transport::Tcp(_) if !headers.opens => FlowValue::ESTABLISHED,
        _ => 0,
    };
    let announced = tables.flow(&work.key, |flow| flow.flags & (FlowValue::DIRECT | known) == FlowValue::DIRECT);
    announced == Some(true)
}

/// Finds the packet's flow. A later fragment has the ports that its first one had.
#[inline(always)]
pub(super) fn find_flow<T: Tables>(work: &mut Work, tables: &mut T) -> bool {
    let headers = &mut work.headers;
    if headers.fragment == Fragment::Later {
        let Some(first) = tables.fragment(&headers.datagram()) else { return false };
        headers.src_port = first.src_port;
        headers.dst_port = first.dst_port;
        headers.protocol = first.protocol as u8;
    } else if !headers.has_flow() {
        return false;
    }
    work.key = headers.flow();
    let mut found = Found::NONE;
    if !track::find(tables, headers, &work.key, &mut work.ends, &mut found) {
        return false;
    }
    work.member = Member::of(found);
    remember_fragment(headers, tables);
    true
}

#[inline(always)]
pub(super) fn remember_fragment<T: Tables>(headers: &Headers, tables: &mut T) {
    if headers.fragment == Fragment::First {
        remember_first(headers, tables);
    }
}

/// A function of its own, since the kernel's stack is small.
#[inline(never)]
fn remember_first<T: Tables>(headers: &Headers, tables: &mut T) {
    let first =
        FragmentValue { src_port: headers.src_port, dst_port: headers.dst_port, protocol: u32::from(headers.protocol) };
    tables.set_fragment(&headers.datagram(), &first);
}
