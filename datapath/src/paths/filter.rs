//! Where policy stands on a packet's way: when it is known where the packet goes, and
//! before anything is written into it.
//!
//! Policies are asked about the pods' own ends: the source as the packet came, the
//! destination as it leaves. So a Service's client is the true one, and its backend is
//! what is judged. A flow is noted by the packet that begins it; what answers one that is
//! allowed passes. What was allowed in another epoch is judged again, and what answers it when it
//! is no more begins nothing, or the other end could go on by answering that. A packet of a TCP
//! connection that nobody noted (it is older than the policy) is an answer if its ports
//! look so: it opens nothing, whoever gets it. A datagram is taken for one only while a flow
//! that is older than the policies may still be in use, see [`Asked::was_open_within`].
//!
//! An ICMP error about such a flow passes; all other ICMP is allowed by rules without ports
//! only, as it is by Calico and Cilium. What is for the link itself passes.
//!
//! Invariant: a pod that no policy selects is never asked for here. This module must not
//! know rules.

use super::{Verdict, Work, events, translate};
use crate::{
    abi::{
        Be16, DropReason, FlowKey, NetworkValue, PodPolicy, PodValue, PolicyDenial, PolicyFlow, PolicyVerdict,
        direction, protocol,
    },
    packet::{
        Packet,
        headers::{Fragment, Headers, Transport},
        icmp_error,
    },
    policy::{DEFAULT_DENY, Question, is_allowed, judge},
    tables::Tables,
    track,
};

const TCP: u32 = protocol::TCP as u32;
const UDP: u32 = protocol::UDP as u32;
const SCTP: u32 = protocol::SCTP as u32;

/// The first port that hosts choose themselves, by `net.ipv4.ip_local_port_range`'s default.
const FIRST_CHOSEN: u16 = 32_768;

/// An answer to a datagram comes within this, as netfilter has it for streams.
const UDP_SECONDS: u32 = 120;
/// What was under way when policies selected the pod has arrived by then.
const UNDER_WAY_SECONDS: u32 = 5;
/// `nf_conntrack_icmp_timeout`'s default.
const ECHO_SECONDS: u32 = 30;

/// Whether the packet travels from the pod that is asked, or to it.
const OUT: u32 = direction::EGRESS;
const IN: u32 = direction::INGRESS;

/// What a pod's policies are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The packet's flow, as its ends see it.
    pub(super) key: FlowKey,
    /// The pod's policies, see [`PodPolicy::set`].
    pub(super) set: u32,
    /// What they said in another epoch may no longer hold.
    epoch: u32,
    /// Monotonic seconds.
    now: u32,
    /// See [`PodValue::judged_since`].
    judged_since: u32,
}

impl Asked {
    /// Nothing yet.
    pub(super) const NOTHING: Self = Self { key: Headers::EMPTY.flow(), set: 0, epoch: 0, now: 0, judged_since: 0 };

    /// Whether policies have selected the pod for no more than so many seconds, after it had been
    /// open to all: the packet may be of a flow that is older than they are.
    #[inline(always)]
    fn was_open_within(&self, seconds: u32) -> bool {
        self.judged_since != 0 && self.now.saturating_sub(self.judged_since) <= seconds
    }
}

/// The pod whose policies are asked.
#[derive(Clone, Copy)]
struct Judged {
    set: u32,
    since: u32,
}

impl Judged {
    #[inline(always)]
    fn of(pod: &PodValue) -> Self {
        Self { set: pod.policy_set, since: pod.judged_since }
    }
}

/// Asks the policies of the pod that sent the packet.
#[inline(never)]
pub(super) fn outgoing<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T, ifindex: u32) {
    if matches!(work.verdict, Verdict::Drop(_) | Verdict::Answer) || is_for_link(&work.headers) {
        return;
    }
    let pod = match tables.pod(&work.headers.src) {
        Some(pod) if pod.ifindex == ifindex => Judged::of(pod),
        _ => return drop(work, DropReason::SourceForged),
    };
    let set = pod.set;
    if set == 0 {
        return;
    }
    let said = if identify(packet, work, tables, pod) { said_of(work, tables, OUT) } else { DEFAULT_DENY };
    if !is_allowed(said) && !is_for_node(work, tables) {
        deny(work, tables, PolicyDenial::by(said, set, OUT), DropReason::EgressDenied);
    }
}

/// Asks the policies of the pod to which the packet goes, if it goes to one past the stack.
#[inline(always)]
pub(super) fn incoming<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T) {
    if matches!(&work.verdict, Verdict::ToPod(pod) if pod.is_judged()) {
        into_pod(packet, work, tables);
    }
}

/// Asks the policies of the pod to which the packet goes.
#[inline(never)]
pub(super) fn into_pod<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T) {
    let dst = if work.changes.ends { &work.ends.dst } else { &work.headers.dst };
    let Some(pod) = tables.pod(dst).map(Judged::of) else { return };
    let set = pod.set;
    if set == 0 {
        return;
    }
    let said = if identify(packet, work, tables, pod) { said_of(work, tables, IN) } else { DEFAULT_DENY };
    if !is_allowed(said) {
        deny(work, tables, PolicyDenial::by(said, set, IN), DropReason::IngressDenied);
    }
}

#[inline(never)]
fn deny<T: Tables>(work: &mut Work, tables: &mut T, denial: PolicyDenial, reason: DropReason) {
    work.denial = denial;
    tables.count_denial(&work.denial);
    drop(work, reason);
}

fn drop(work: &mut Work, reason: DropReason) {
    work.verdict = Verdict::Drop(reason);
    work.changes = translate::Changes::NONE;
}

/// Whether the packet is for the pod's link itself: neighbours, routers, groups.
#[inline(always)]
fn is_for_link(headers: &Headers) -> bool {
    headers.dst.is_group() || headers.dst.is_link_local_v6()
}

/// A pod always reaches its own node.
#[inline(never)]
fn is_for_node<T: Tables>(work: &Work, tables: &T) -> bool {
    tables.network_kind(&work.asked.key.dst) == NetworkValue::NODE
}

/// Notes which flow the packet belongs to, as its ends see it, and what is asked of it; false: nobody can tell.
#[inline(always)]
fn identify<P: Packet, T: Tables>(packet: &P, work: &mut Work, tables: &mut T, pod: Judged) -> bool {
    let headers = &mut work.headers;
    match headers.fragment {
        Fragment::Whole => {}
        Fragment::First => translate::remember_fragment(headers, tables),
        Fragment::Later => {
            let Some(first) = tables.fragment(&headers.datagram()) else { return false };
            headers.src_port = first.src_port;
            headers.dst_port = first.dst_port;
            headers.protocol = first.protocol as u8;
        }
    }
    let mut key = headers.flow();
    let is_error = headers.transport == Transport::IcmpError;
    if work.changes.ends {
        key.dst = work.ends.dst;
        key.dst_port = work.ends.dst_port;
    }
    if is_error && (work.changes.ends || is_about_known(packet, headers, &mut work.inner, tables)) {
        key.protocol = RELATED;
    }
    // The epoch before the tables: what is found in these holds in it, or is asked again.
    work.occurred |= events::ASKED;
    let Judged { set, since } = pod;
    work.asked = Asked { key, set, epoch: tables.policy_epoch(), now: track::seconds(tables), judged_since: since };
    true
}

/// Whether an ICMP error is about a flow that is noted.
#[inline(never)]
fn is_about_known<P: Packet, T: Tables>(packet: &P, headers: &Headers, inner: &mut Headers, tables: &mut T) -> bool {
    *inner = Headers::EMPTY;
    if icmp_error::quoted(packet, headers, inner).is_none() {
        return false;
    }
    let about = inner.flow();
    tables.policy_flow(&about, |_| ()).is_some() || tables.policy_flow(&about.reversed(), |_| ()).is_some()
}

/// No protocol: the packet is about a flow that is there.
const RELATED: u32 = u32::MAX;

/// No rule is asked: the packet belongs to what is allowed.
const NOT_ASKED: u32 = PolicyVerdict::DEFAULT_ALLOW;

/// What the policies of the pod that is asked say of the packet, which travels this way.
#[inline(never)]
fn said_of<T: Tables>(work: &mut Work, tables: &mut T, way: u32) -> u32 {
    let key = &work.asked.key;
    if key.protocol == RELATED || key.src == key.dst {
        return NOT_ASKED;
    }
    if is_known(&work.asked, tables, key, way) == Known::Allowed {
        return NOT_ASKED;
    }
    // Of the flow that it answers the pod has the other end.
    let answers = if work.headers.opens { Answers::NOTHING } else { answers(&work.asked, tables, way ^ 1) };
    if answers == Answers::ALLOWED {
        return NOT_ASKED;
    }
    let said = said_of_flow(&work.asked, tables, key, way);
    let begins = is_allowed(said) && answers == Answers::NOTHING;
    if begins && note(&work.asked, tables, key, way) && said != NOT_ASKED {
        work.occurred |= events::ALLOWED;
        work.allowed_by = said;
    }
    said
}

/// What is noted of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing.
    Never,
    /// It has been silent for too long to be answered.
    Silent,
    /// The pod's policies have never allowed it: the other end's have.
    Attempted,
    /// What the pod's policies said of it may no longer hold.
    Outdated,
    /// They allow it.
    Allowed,
}

/// What is noted of a flow that travels this way: one look-up for most packets.
#[inline(never)]
fn is_known<T: Tables>(asked: &Asked, tables: &mut T, flow: &FlowKey, way: u32) -> Known {
    let Asked { now, epoch, .. } = *asked;
    let patience = patience(flow.protocol);
    let known = tables.policy_flow(flow, |flow| {
        let judged = judged_in(flow, way);
        if now.saturating_sub(flow.last_seen) > patience {
            Known::Silent
        } else if judged == 0 {
            Known::Attempted
        } else if judged != epoch {
            Known::Outdated
        } else {
            see(flow, now);
            Known::Allowed
        }
    });
    known.unwrap_or(Known::Never)
}

/// What a packet answers. Numbers, which a register holds whole.
struct Answers;

impl Answers {
    /// No flow that is known.
    const NOTHING: u32 = 0;
    /// One that is allowed.
    const ALLOWED: u32 = 1;
    /// One that isn't allowed any more.
    const DENIED: u32 = 2;
}

/// What the packet answers: a flow that travels the other way, which is this one.
#[inline(never)]
fn answers<T: Tables>(asked: &Asked, tables: &mut T, way: u32) -> u32 {
    let back = asked.key.reversed();
    let known = is_known(asked, tables, &back, way);
    match known {
        Known::Allowed => return Answers::ALLOWED,
        Known::Silent => return Answers::NOTHING,
        Known::Never if !looks_like_answer(asked) || tables.policy_flow(&asked.key, |_| ()).is_some() => {
            return Answers::NOTHING;
        }
        Known::Never | Known::Attempted | Known::Outdated => {}
    }
    if !is_allowed(said_of_flow(asked, tables, &back, way)) {
        // An attempt is no reason to deny the other end its own.
        return if known == Known::Attempted { Answers::NOTHING } else { Answers::DENIED };
    }
    // What opens something by itself is asked for itself.
    if known == Known::Never && asked.key.protocol == UDP && !asked.was_open_within(UNDER_WAY_SECONDS) {
        return Answers::NOTHING;
    }
    note(asked, tables, &back, way);
    Answers::ALLOWED
}

/// Notes when a flow's last packet passed.
#[inline(always)]
fn see(flow: &mut PolicyFlow, now: u32) {
    // A line that isn't written stays in every CPU's cache.
    if flow.last_seen != now {
        flow.last_seen = now;
    }
}

/// In which epoch the policies of the pod that a flow leaves, or reaches, allowed it.
#[inline(always)]
fn judged_in(flow: &PolicyFlow, way: u32) -> u32 {
    if way == OUT { flow.egress } else { flow.ingress }
}

#[inline(always)]
fn patience(protocol: u32) -> u32 {
    match protocol {
        // What opens no connection is refused by who has none, and what opens one is never an answer.
        TCP | SCTP => u32::MAX,
        UDP => UDP_SECONDS,
        _ => ECHO_SECONDS,
    }
}

/// What policies say of a flow that travels this way.
#[inline(never)]
fn said_of_flow<T: Tables>(asked: &Asked, tables: &T, flow: &FlowKey, way: u32) -> u32 {
    if !(PodPolicy { set: asked.set }).isolates(way) {
        return NOT_ASKED;
    }
    let peer = if way == OUT { flow.dst } else { flow.src };
    let protocol = flow.protocol as u8;
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    let port = if has_ports { flow.dst_port } else { Be16::ZERO };
    judge(tables, &Question { set: asked.set, direction: way, peer, protocol, port })
}

/// Notes that the pod's policies allow a flow; whether they had never been noted to.
#[inline(always)]
fn note<T: Tables>(asked: &Asked, tables: &mut T, key: &FlowKey, way: u32) -> bool {
    let Asked { now, epoch, .. } = *asked;
    let known = tables.policy_flow(key, |flow| {
        see(flow, now);
        let judged = if way == OUT { &mut flow.egress } else { &mut flow.ingress };
        let never = *judged == 0;
        if *judged != epoch {
            *judged = epoch;
        }
        never
    });
    if known.is_none() {
        let of = |this| if way == this { epoch } else { 0 };
        tables.set_policy_flow(key, &PolicyFlow { last_seen: now, egress: of(OUT), ingress: of(IN) });
    }
    known.unwrap_or(true)
}

/// Whether a packet of a flow that nobody noted comes from the end that was dialled. One of TCP opens
/// nothing if that is wrong; a datagram is worth the doubt only if there may be older flows.
#[inline(always)]
fn looks_like_answer(asked: &Asked) -> bool {
    let key = &asked.key;
    let may_be = key.protocol == TCP || key.protocol == UDP && asked.was_open_within(UDP_SECONDS);
    may_be && key.src_port.get() < FIRST_CHOSEN && key.dst_port.get() >= FIRST_CHOSEN
}
