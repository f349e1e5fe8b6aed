//! Tracked flows: beginning one, recognising one, ending one.
//!
//! Invariant: a flow's two entries mirror each other. The tables may forget one
//! of them (the least recently used): the client's next packet begins anew
//! without the forward one, and brings the reverse one back within a second.

use crate::{
    abi::{Backend, Be16, DropReason, FlowKey, FlowValue, PodValue, protocol},
    packet::{
        headers::{Headers, Transport, tcp_flags},
        rewrite::Ends,
    },
    tables::{Inserted, Tables},
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A UDP flow that was silent both ways for this long is a new one, as with
/// `nf_conntrack_udp_timeout_stream`'s default.
const UDP_IDLE_SECONDS: u32 = 120;

/// How many ports are tried before the port space counts as full.
const PORT_TRIES: u32 = 8;

/// Monotonic seconds; flows need no finer time.
#[inline(always)]
fn seconds<T: Tables>(tables: &T) -> u32 {
    (tables.now() / NANOS_PER_SECOND) as u32
}

/// The ends that a packet of the flow gets.
#[inline(always)]
pub const fn ends(flow: &FlowValue) -> Ends {
    Ends { src: flow.src, dst: flow.dst, src_port: flow.src_port, dst_port: flow.dst_port }
}

/// The key of packets that answer those with `ends`.
#[inline(always)]
const fn answers_to(ends: &Ends, protocol: u32) -> FlowKey {
    FlowKey { src: ends.dst, dst: ends.src, src_port: ends.dst_port, dst_port: ends.src_port, protocol }
}

/// The two entries of a flow that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// For the client's packets.
    pub forward: FlowValue,
    /// For the backend's.
    pub reverse: FlowValue,
}

impl NewFlow {
    /// None yet.
    pub const EMPTY: Self = Self { forward: FlowValue::EMPTY, reverse: FlowValue::EMPTY };
}

/// What a flow's entry said when a packet of it passed.
struct Passed {
    flags: u32,
    service: u32,
    backend: u32,
    generation: u32,
    /// Seconds since the packet before.
    idle: u32,
}

/// What is known of a packet's flow. One word: the verifier bears no other result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found(u32);

impl Found {
    /// It is of none.
    pub const NO_FLOW: Self = Self(0);
    const FLOW: u32 = 1 << 0;
    const REVERSE: u32 = 1 << 1;
    const LAST: u32 = 1 << 2;

    /// The packet is of a flow.
    #[inline(always)]
    pub const fn is_flow(self) -> bool {
        self.0 & Self::FLOW != 0
    }

    /// The packet comes from its flow's backend.
    #[inline(always)]
    pub const fn is_reverse(self) -> bool {
        self.0 & Self::REVERSE != 0
    }

    /// The packet is its flow's last: [`end`] is to be called once it passes.
    #[inline(always)]
    pub const fn is_last(self) -> bool {
        self.0 & Self::LAST != 0
    }
}

/// Looks a packet's flow up, notes that it passed, and fills in what it becomes.
/// Asked again about the same packet, it answers the same.
///
/// A forward flow that must not go on is forgotten and not found: its backend is
/// gone (kube-proxy deletes such flows of UDP; established TCP goes on to its
/// end), it was idle for too long, or a SYN begins anew on old ports.
#[inline(never)]
pub fn find<T: Tables>(tables: &mut T, headers: &Headers, key: &FlowKey, becomes: &mut Ends) -> Found {
    let now = seconds(tables);
    let bits = match headers.transport {
        Transport::Tcp(flags) if flags & (tcp_flags::FIN | tcp_flags::RST) != 0 => FlowValue::CLOSING,
        Transport::Tcp(flags) if flags & tcp_flags::SYN == 0 => FlowValue::ESTABLISHED,
        _ => 0,
    };
    let passed = tables.flow(key, |flow| {
        let idle = now.saturating_sub(flow.last_seen);
        // A line that isn't written stays in every CPU's cache.
        if idle != 0 {
            flow.last_seen = now;
        }
        let flags = flow.flags;
        if flags & bits != bits {
            flow.flags = flags | bits;
        }
        *becomes = ends(flow);
        Passed { flags, service: flow.service, backend: flow.backend, generation: flow.generation, idle }
    });
    let Some(passed) = passed else { return Found::NO_FLOW };
    let back = answers_to(becomes, key.protocol);
    let forward = passed.flags & FlowValue::REVERSE == 0;
    if forward && !goes_on(tables, headers, &passed, &back) {
        remove_both(tables, key, &back);
        return Found::NO_FLOW;
    }
    // Both ends have closed, and this acknowledges it.
    let ended = bits == FlowValue::ESTABLISHED
        && passed.flags & FlowValue::CLOSING != 0
        && tables.flow(&back, |flow| flow.flags & FlowValue::CLOSING != 0).unwrap_or(true);
    if forward && passed.idle != 0 && !ended {
        mend(tables, key, &passed, &back);
    }
    let mut found = Found::FLOW;
    if !forward {
        found |= Found::REVERSE;
    }
    if ended {
        found |= Found::LAST;
    }
    Found(found)
}

/// Forgets a flow whose last packet has passed: its entries would only push those
/// of quieter flows out of the table.
#[inline(never)]
pub fn end<T: Tables>(tables: &mut T, key: &FlowKey, becomes: &Ends) {
    remove_both(tables, key, &answers_to(becomes, key.protocol));
}

#[inline(always)]
fn remove_both<T: Tables>(tables: &mut T, key: &FlowKey, back: &FlowKey) {
    tables.remove_flow(key);
    tables.remove_flow(back);
}

/// Sees to it, once a second, that a flow in use has its reverse entry: the table
/// may have forgotten the one without the other, and looking at it keeps it.
#[inline(never)]
fn mend<T: Tables>(tables: &mut T, key: &FlowKey, passed: &Passed, back: &FlowKey) {
    if tables.flow(back, |_| ()).is_some() {
        return;
    }
    let reverse = FlowValue {
        src: key.dst,
        dst: key.src,
        src_port: key.dst_port,
        dst_port: key.src_port,
        service: passed.service,
        backend: passed.backend,
        generation: passed.generation,
        flags: FlowValue::REVERSE | passed.flags & FlowValue::EXTERNAL,
        last_seen: seconds(tables),
    };
    // If there is no room, the next second's packet tries again.
    let _ = tables.insert_flow(back, &reverse);
}

#[inline(always)]
fn goes_on<T: Tables>(tables: &mut T, headers: &Headers, passed: &Passed, back: &FlowKey) -> bool {
    match headers.transport {
        Transport::Tcp(flags) => {
            if flags & (tcp_flags::SYN | tcp_flags::ACK) != tcp_flags::SYN {
                return true;
            }
            let backs = tables.flow(back, |flow| flow.flags);
            let closing = (passed.flags | backs.unwrap_or(FlowValue::CLOSING)) & FlowValue::CLOSING != 0;
            !closing && (passed.flags & FlowValue::ESTABLISHED != 0 || is_alive(tables, passed))
        }
        Transport::Udp => {
            let awake = passed.idle <= UDP_IDLE_SECONDS || is_answered(tables, back);
            awake && is_alive(tables, passed)
        }
        _ => is_alive(tables, passed),
    }
}

/// Whether an answer has come lately.
#[inline(always)]
fn is_answered<T: Tables>(tables: &mut T, back: &FlowKey) -> bool {
    let now = seconds(tables);
    tables.flow(back, |flow| now.saturating_sub(flow.last_seen)).is_some_and(|idle| idle <= UDP_IDLE_SECONDS)
}

/// Whether the flow's backend still serves its Service.
#[inline(always)]
fn is_alive<T: Tables>(tables: &T, passed: &Passed) -> bool {
    tables
        .backend(passed.backend)
        .is_some_and(|backend| backend.generation == passed.generation && backend.flags & Backend::ALIVE != 0)
}

/// Begins the flow of a client's first packet. `flow.forward` says what the packet
/// shall become; its source port may have to change, and its `last_seen` is set.
///
/// The packets that come back must be told apart from those of every other
/// flow. Where the client's own port is taken (one client, one backend behind
/// two frontends) or its address is hidden, another source port is found.
///
/// # Errors
/// The reason to drop the packet for: no port left, or no room.
#[inline(never)]
pub fn open<T: Tables>(tables: &mut T, key: &FlowKey, flow: &mut NewFlow) -> Result<(), DropReason> {
    let ports = tables.node().map_or((61_000, 65_535), |node| (node.snat_port_first, node.snat_port_last));
    flow.forward.last_seen = seconds(tables);
    if flow.forward.src != key.src {
        flow.forward.src_port = random_port(tables, ports);
    }
    flow.reverse = flow.forward;
    flow.reverse.src = key.dst;
    flow.reverse.dst = key.src;
    flow.reverse.src_port = key.dst_port;
    flow.reverse.dst_port = key.src_port;
    flow.reverse.flags |= FlowValue::REVERSE;
    for _ in 0..PORT_TRIES {
        let back = answers_to(&ends(&flow.forward), key.protocol);
        if insert_reverse(tables, key, &back, &flow.reverse)? {
            return insert_forward(tables, key, &mut flow.forward, &back);
        }
        flow.forward.src_port = random_port(tables, ports);
    }
    Err(DropReason::SnatExhausted)
}

/// Adds the reverse entry; false: another flow has it.
#[inline(always)]
fn insert_reverse<T: Tables>(
    tables: &mut T,
    key: &FlowKey,
    back: &FlowKey,
    reverse: &FlowValue,
) -> Result<bool, DropReason> {
    let mut inserted = tables.insert_flow(back, reverse);
    if inserted == Inserted::Exists && is_leftover(tables, back, key) {
        tables.remove_flow(back);
        inserted = tables.insert_flow(back, reverse);
    }
    match inserted {
        Inserted::New => Ok(true),
        Inserted::Exists => Ok(false),
        Inserted::Full => Err(DropReason::FlowTableFull),
    }
}

/// Adds the forward entry. Another CPU may have been first: then its choice stands.
#[inline(always)]
fn insert_forward<T: Tables>(
    tables: &mut T,
    key: &FlowKey,
    forward: &mut FlowValue,
    back: &FlowKey,
) -> Result<(), DropReason> {
    match tables.insert_flow(key, forward) {
        Inserted::New => {
            tables.mark_nat(&key.src, PodValue::nat_bit(key.protocol as u8));
            Ok(())
        }
        Inserted::Exists => {
            tables.flow(key, |standing| *forward = *standing).ok_or(DropReason::FlowTableFull)?;
            if answers_to(&ends(forward), key.protocol) != *back {
                tables.remove_flow(back);
            }
            Ok(())
        }
        Inserted::Full => {
            tables.remove_flow(back);
            Err(DropReason::FlowTableFull)
        }
    }
}

/// Whether a reverse entry in the way of a new flow `key` serves nobody any
/// more: it is the same client's and frontend's, or its forward entry is gone.
#[inline(always)]
fn is_leftover<T: Tables>(tables: &mut T, back: &FlowKey, key: &FlowKey) -> bool {
    let Some(forward) = tables.flow(back, |flow| answers_to(&ends(flow), key.protocol)) else { return true };
    forward == *key || tables.flow(&forward, |flow| answers_to(&ends(flow), key.protocol) != *back).unwrap_or(true)
}

#[inline(always)]
fn random_port<T: Tables>(tables: &mut T, (first, last): (u16, u16)) -> Be16 {
    let span = u32::from(last).saturating_sub(u32::from(first)) + 1;
    let offset = (u64::from(tables.random()) * u64::from(span)) >> 32;
    Be16::new((u32::from(first) + offset as u32) as u16)
}

/// Whether a protocol's packets can belong to translated flows.
#[inline(always)]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}
