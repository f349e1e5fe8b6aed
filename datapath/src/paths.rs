//! The way of a packet through each program: what becomes of it and why.
//!
//! ```text
//! pod ──► from_pod ──┬─ local pod ─► un-NAT ─► the pod's namespace
//!                    ├─ flow or frontend ─► NAT ─► local pod, node, or out
//!                    ├─ another node's pod ─► overlay or node
//!                    ├─ outside the cluster ─► masqueraded ─► out
//!                    └─ anything else ─► node
//! node ─► to_pod ──► un-NAT ─► pod        (what the node's stack delivers)
//! node ─► from_host, from_host_loopback ─► as from_pod (the node's own packets to Services)
//! node ─► to_network, to_overlay ─► un-NAT ─► wire     (what a backend of the node's answers)
//! wire, overlay ─► from_network ─► flow or frontend ─► NAT ─► local pod, node, or out
//! ```
//!
//! Before all of a packet's headers are read it gets a [`glance`], which settles most of
//! those for a pod of this node.
//!
//! Invariant: a packet between pods of one node that needs no translation costs
//! one look-up. What was rewritten is delivered or dropped, never passed half done.

mod carrier;
mod direct;
mod events;
mod filter;
pub mod glance;
mod outside;
mod translate;
mod unsendable;
pub mod wire;

pub use carrier::carries_overlay;
pub use events::{event, kind};
pub use unsendable::{Trouble, unsendable};

use crate::{
    abi::{Addr, Be16, DropReason, Family, FlowKey, NetworkValue, PodValue, PolicyDenial},
    destination::{self, Destination},
    masquerade::Sender,
    packet::{
        Packet, announcement,
        headers::{self, Fragment, Headers, Transport},
        rewrite::Ends,
    },
    tables::Tables,
    track::NewFlow,
};
use translate::{Changes, Member};

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
    /// What it was.
    came_with: Ends,
    /// Its place in its flow.
    member: Member,
    /// What is to be written into it.
    changes: Changes,
    /// What has come about by it, for who listens.
    occurred: u32,
    /// The rule by which policies allow it, if that has come about.
    allowed_by: u32,
    /// The flow that it begins.
    flow: NewFlow,
    /// What policies are asked.
    asked: filter::Asked,
    /// Which of them deny the packet, if the verdict says that they do.
    pub denial: PolicyDenial,
    /// What becomes of it. Written here, each by itself, rather than returned: a verdict
    /// that says little would leave registers unset that one which says more fills, and
    /// the verifier lets nobody copy these.
    pub verdict: Verdict,
}

impl Work {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        headers: Headers::EMPTY,
        inner: Headers::EMPTY,
        key: Headers::EMPTY.flow(),
        ends: Self::NO_ENDS,
        came_with: Self::NO_ENDS,
        member: Member::NONE,
        changes: Changes::NONE,
        occurred: 0,
        allowed_by: 0,
        flow: NewFlow::EMPTY,
        asked: filter::Asked::NOTHING,
        denial: PolicyDenial { rule: 0, set: 0, direction: 0 },
        verdict: Verdict::Pass,
    };

    const NO_ENDS: Ends =
        Ends { src: Addr::UNSPECIFIED, dst: Addr::UNSPECIFIED, src_port: Be16::ZERO, dst_port: Be16::ZERO };

    /// Reads the packet's headers; what an earlier packet left here is forgotten.
    ///
    /// # Errors
    /// The reason for which a packet like this is dropped.
    #[inline(never)]
    pub fn read<P: Packet>(&mut self, packet: &P, family: Family) -> Result<(), DropReason> {
        self.forget();
        if headers::parse_plain(packet, family, &mut self.headers) {
            return Ok(());
        }
        self.headers = Headers::EMPTY;
        headers::parse(packet, family, &mut self.headers)
    }

    #[inline(always)]
    fn forget(&mut self) {
        self.changes = Changes::NONE;
        self.occurred = 0;
    }

    /// Whether something has come about that [`event`] tells of, besides a drop.
    #[inline(always)]
    pub fn has_news(&self) -> bool {
        self.occurred & events::NEWS != 0
    }

    /// Whether the packet is to be dropped.
    #[inline(always)]
    pub fn is_dropped(&self) -> bool {
        matches!(self.verdict, Verdict::Drop(_))
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
    /// Into the node's stack through our device, which takes what the stack elsewhere
    /// wouldn't: packets with an address of the node's own as their source.
    Reroute,
    /// Out by the network, by the node's routes but past its stack. If there is no
    /// way, [`unsendable`] says what becomes of the packet.
    Forward,
    /// To the node with this address, by the overlay.
    Tunnel(Addr),
    /// Dropped.
    Drop(DropReason),
}

/// A packet that a pod sent.
///
/// The order of look-ups is that of what is cheap and likely. A pod of this node is
/// one look-up. The sender's own entry, which is in every cache, says whether it ever
/// was an end of a translated flow of such packets: if not, looking for one would fetch
/// lines of a large table in vain. Then the network: packets to another node's pod, the
/// most of what is left, are for no frontend.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    direct_from_pod(packet, work, tables);
    filter::incoming(packet, work, tables);
    translate::write(packet, work, tables);
}

/// The same of a pod that some policy selects; `ifindex`: the node's end of its pair.
#[inline(always)]
pub fn from_judged_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, ifindex: u32) {
    direct_from_pod(packet, work, tables);
    filter::outgoing(packet, work, tables, ifindex);
    filter::incoming(packet, work, tables);
    translate::write(packet, work, tables);
}

/// As [`from_pod`], where somebody's queueing discipline is to have the packet next: the
/// stack carries it on, and takes the hop itself.
#[inline(always)]
pub fn from_shaped_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    direct_from_pod(packet, work, tables);
    filter::incoming(packet, work, tables);
    work.changes.hops = false;
    translate::write(packet, work, tables);
}

/// As [`from_judged_pod`], likewise.
#[inline(always)]
pub fn from_judged_shaped_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, ifindex: u32) {
    direct_from_pod(packet, work, tables);
    filter::outgoing(packet, work, tables, ifindex);
    filter::incoming(packet, work, tables);
    work.changes.hops = false;
    translate::write(packet, work, tables);
}

#[inline(always)]
fn direct_from_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    if let Some(pod) = tables.pod(&work.headers.dst) {
        let pod = *pod;
        return deliver(packet, work, tables, &pod);
    }
    if names_loopback(&work.headers) {
        work.verdict = Verdict::Pass;
        return;
    }
    let suspects = suspects(&work.headers);
    let ends = suspects | PodValue::servers(suspects);
    let sender = tables.pod(&work.headers.src).map(|pod| pod.nat_protocols);
    if sender.is_none_or(|nat| nat & ends != 0) && translate::follow(packet, work, tables, Sender::Pod) {
        return;
    }
    let network = tables.network(&work.headers.dst).copied().unwrap_or_default();
    if network.kind == NetworkValue::PODS {
        // Between pods that another plugin wired its own ways lead: across its bridge, say, where a
        // neighbour's advertisement that has lost a hop is none.
        if sender.is_none() {
            work.verdict = Verdict::Pass;
            return;
        }
        return to_other_node(work, &network);
    }
    if translate::begin(packet, work, tables, Sender::Pod) {
        return;
    }
    match network.kind {
        NetworkValue::SERVICE => work.verdict = Verdict::Drop(DropReason::UnknownClusterIp),
        // The network between the nodes need not carry pods' addresses.
        NetworkValue::PEER => to_other_node(work, &network),
        0 => outside::leave(work, tables),
        _ => work.verdict = Verdict::Pass,
    }
}

/// A packet that a held pod sent: only the node itself may get it (and groups on
/// the link, by which neighbours are found).
#[inline(always)]
pub fn from_held_pod<T: Tables>(work: &mut Work, tables: &T) {
    let dst = &work.headers.dst;
    if tables.network_kind(dst) == NetworkValue::NODE || dst.is_group() {
        work.verdict = Verdict::Pass;
    } else {
        work.verdict = Verdict::Drop(DropReason::PodHeld);
    }
}

/// A packet that the node's stack sends into a pod; `from_node`: the node itself made it.
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, from_node: bool) {
    work.verdict = Verdict::Pass;
    let Some(pod) = tables.pod(&work.headers.dst) else { return };
    if pod.flags & PodValue::HELD != 0 && !from_node {
        work.verdict = Verdict::Drop(DropReason::PodHeld);
        return;
    }
    let (answers, judged) = (pod.nat_protocols & suspects(&work.headers) != 0, pod.is_judged() && !from_node);
    if answers {
        translate::answer(packet, work, tables);
    }
    if judged {
        filter::into_pod(packet, work, tables);
    }
    if answers {
        translate::write(packet, work, tables);
    }
}

/// A packet that goes to a pod which another CNI plugin wired, on the last interface of
/// the node's that it passes: nothing is known of the pod, so any packet may be an answer.
#[inline(always)]
pub fn to_foreign_pod<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    work.verdict = Verdict::Pass;
    translate::answer(packet, work, tables);
    translate::write(packet, work, tables);
}

/// A packet that the node itself sends to a Service's address, led through our device.
///
/// What is for no Service must not go back to the stack, which would lead it
/// here again.
#[inline(always)]
pub fn from_host<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    if work.headers.dst.is_group() {
        work.verdict = Verdict::Pass;
    } else if translate::translate(packet, work, tables, Sender::Node) {
        translate::write(packet, work, tables);
    } else {
        work.verdict = Verdict::Drop(DropReason::UnknownClusterIp);
    }
}

/// A packet that the node sends to itself, on the loopback device: perhaps to a NodePort
/// at one of its own addresses, or what a backend of the node's own answers to that.
///
/// Most are neither, and found out without looking for flows.
#[inline(always)]
pub fn from_host_loopback<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    work.verdict = Verdict::Pass;
    let answers = tables.node_nat() & PodValue::servers(suspects(&work.headers)) != 0;
    let later = work.headers.fragment == Fragment::Later;
    let dials = later || names_frontend(&work.headers, tables);
    if !answers && !dials {
        return;
    }
    if translate::follow(packet, work, tables, Sender::Node)
        || dials && !later && translate::begin(packet, work, tables, Sender::Node)
    {
        translate::write(packet, work, tables);
    }
}

#[inline(never)]
fn names_frontend<T: Tables>(headers: &Headers, tables: &T) -> bool {
    let protocol = if headers.has_ports() { headers.protocol } else { 0 };
    let destination = destination::find(tables, headers.dst, headers.dst_port, protocol);
    matches!(destination, Destination::Frontend(_))
}

/// A packet that came to the node over the wire, or by the overlay.
#[inline(always)]
pub fn from_network<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    direct_from_network(packet, work, tables);
    filter::incoming(packet, work, tables);
    translate::write(packet, work, tables);
}

#[inline(always)]
fn direct_from_network<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    if announcement::may_be_in(&work.headers) && !direct::hear(packet, work, tables) {
        return;
    }
    if let Some(pod) = tables.pod(&work.headers.dst) {
        let pod = *pod;
        return deliver(packet, work, tables, &pod);
    }
    if work.headers.dst.is_group() || names_loopback(&work.headers) {
        work.verdict = Verdict::Pass;
    } else if !translate::translate(packet, work, tables, Sender::Network) {
        match tables.network_kind(&work.headers.dst) {
            NetworkValue::SERVICE => work.verdict = Verdict::Drop(DropReason::UnknownClusterIp),
            _ => work.verdict = Verdict::Pass,
        }
    }
}

/// Whether what the node itself sends may answer a flow at all. Until the node has been a
/// backend, none of it needs to be read.
#[inline(always)]
pub fn node_may_answer<T: Tables>(tables: &T) -> bool {
    tables.node_nat() & PodValue::servers(PodValue::CLIENT_BITS) != 0
}

/// A packet of the node's own that leaves by the wire: it may be a backend's answer.
#[inline(always)]
pub fn to_network<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T) {
    work.verdict = Verdict::Pass;
    if tables.node_nat() & PodValue::servers(suspects(&work.headers)) != 0 {
        translate::answer(packet, work, tables);
        translate::write(packet, work, tables);
    }
}

/// A packet that leaves by the overlay; `from_node`: the node itself made it.
#[inline(always)]
pub fn to_overlay<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, from_node: bool) {
    work.verdict = Verdict::Pass;
    if from_node {
        to_network(packet, work, tables);
    }
    if work.verdict != Verdict::Pass || work.headers.dst.is_group() {
        return;
    }
    match tables.network(&work.headers.dst) {
        Some(network) if !network.tunnel.is_unspecified() => work.verdict = Verdict::Tunnel(network.tunnel),
        _ => work.verdict = Verdict::Drop(DropReason::NoTunnel),
    }
}

/// Delivers to a local pod, undoing the translation of the flow that the packet answers.
#[inline(always)]
fn deliver<P: Packet, T: Tables>(packet: &mut P, work: &mut Work, tables: &mut T, pod: &PodValue) {
    if pod.flags & PodValue::HELD != 0 {
        work.verdict = Verdict::Drop(DropReason::PodHeld);
        return;
    }
    work.verdict = Verdict::ToPod(*pod);
    if pod.nat_protocols & suspects(&work.headers) != 0 {
        translate::answer(packet, work, tables);
    }
}

/// To another node or a pod of it, past the stack, whether the overlay or the node's routes
/// lead there. A packet whose hops run out is the stack's, which tells its sender.
#[inline(always)]
fn to_other_node(work: &mut Work, network: &NetworkValue) {
    work.verdict = Verdict::Pass;
    if work.headers.hops <= 1 {
        return;
    }
    if !network.tunnel.is_unspecified() {
        work.verdict = Verdict::Tunnel(network.tunnel);
    } else if network.kind == NetworkValue::PODS {
        work.verdict = Verdict::Forward;
    } else {
        return;
    }
    work.changes.hops = true;
}

/// Whether an end is an address by which a host names itself. Coming from elsewhere, such
/// a packet is forged, and the stack drops it; NodePorts at these addresses are for the
/// node itself.
#[inline(always)]
fn names_loopback(headers: &Headers) -> bool {
    headers.src.is_loopback() || headers.dst.is_loopback()
}

/// The clients' bits of those protocols to whose flows the packet may belong.
#[inline(always)]
fn suspects(headers: &Headers) -> u32 {
    // An error is about any protocol, and a later fragment may not show its own.
    if headers.transport == Transport::IcmpError || headers.fragment == Fragment::Later {
        PodValue::CLIENT_BITS
    } else {
        PodValue::client_bit(headers.protocol)
    }
}
