//! Tracked flows: beginning one, recognising one, ending one.
//!
//! Invariant: a flow's two entries mirror each other. Whoever finds only one
//! (the tables forget the least recently used) treats the flow as new when the
//! client's next packet comes.

use crate::{
    abi::{Addr, Be16, DropReason, FlowKey, FlowValue, NodeConfig, PodValue, protocol},
    packet::{
        headers::{Headers, Transport, tcp_flags},
        rewrite::Ends,
    },
    select::{Chosen, Scope},
    tables::{Inserted, Tables},
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A UDP flow that was silent for this long is a new one, as with
/// `nf_conntrack_udp_timeout_stream`'s default.
const UDP_IDLE_SECONDS: u32 = 120;

/// How many ports are tried before the port space counts as full.
const PORT_TRIES: u32 = 16;

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

/// Looks a packet's flow up and notes that it passed.
///
/// A forward flow that must not go on is forgotten and not found: its backend is
/// gone (kube-proxy deletes such flows of UDP; established TCP goes on to its
/// end), it was idle for too long, or a SYN begins anew on old ports.
#[inline(always)]
pub fn find<T: Tables>(tables: &mut T, headers: &Headers, key: &FlowKey) -> Option<FlowValue> {
    let now = seconds(tables);
    let bits = match headers.transport {
        Transport::Tcp(flags) if flags & (tcp_flags::FIN | tcp_flags::RST) != 0 => FlowValue::CLOSING,
        Transport::Tcp(flags) if flags & tcp_flags::SYN == 0 => FlowValue::ESTABLISHED,
        _ => 0,
    };
    let mut idle = 0;
    let flow = tables.flow(key, |flow| {
        idle = now.saturating_sub(flow.last_seen);
        if idle != 0 {
            flow.last_seen = now;
        }
        if flow.flags & bits != bits {
            flow.flags |= bits;
        }
    })?;
    if flow.flags & FlowValue::REVERSE != 0 || goes_on(tables, headers, &flow, idle) {
        return Some(flow);
    }
    forget(tables, key, &flow);
    None
}

#[inline(always)]
fn goes_on<T: Tables>(tables: &mut T, headers: &Headers, flow: &FlowValue, idle: u32) -> bool {
    match headers.transport {
        Transport::Tcp(flags) => {
            if flags & (tcp_flags::SYN | tcp_flags::ACK) != tcp_flags::SYN {
                return true;
            }
            let backend_closed = tables
                .flow(&reverse_key(headers.protocol, flow), |_| {})
                .is_none_or(|r| r.flags & FlowValue::CLOSING != 0);
            let closing = backend_closed || flow.flags & FlowValue::CLOSING != 0;
            !closing && (flow.flags & FlowValue::ESTABLISHED != 0 || is_alive(tables, flow))
        }
        Transport::Udp => idle <= UDP_IDLE_SECONDS && is_alive(tables, flow),
        _ => is_alive(tables, flow),
    }
}

/// Whether the flow's backend still serves its Service.
#[inline(always)]
fn is_alive<T: Tables>(tables: &T, flow: &FlowValue) -> bool {
    tables
        .backend(flow.backend)
        .is_some_and(|backend| backend.generation == flow.generation && backend.flags & crate::abi::Backend::ALIVE != 0)
}

/// The key of the packets that come back, given the forward entry.
#[inline(always)]
const fn reverse_key(protocol: u8, forward: &FlowValue) -> FlowKey {
    FlowKey {
        src: forward.dst,
        dst: forward.src,
        src_port: forward.dst_port,
        dst_port: forward.src_port,
        protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
fn forget<T: Tables>(tables: &mut T, key: &FlowKey, flow: &FlowValue) {
    tables.remove_flow(key);
    tables.remove_flow(&reverse_key(key.protocol, flow));
}

/// Whose flow begins, and how.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The service port's id.
    pub service: u32,
    /// The client's scope.
    pub scope: Scope,
    /// The chosen backend.
    pub backend: Chosen,
    /// The source address that hides the client's, if it must be hidden.
    pub masquerade: Option<Addr>,
}

/// Begins a flow from the client's first packet `key`, and returns its forward entry.
///
/// The packets that come back must be told apart from those of every other
/// flow. Where the client's own port is taken (one client, one backend behind
/// two frontends) or its address is hidden, another source port is found.
///
/// # Errors
/// The reason to drop the packet for: no port left, or no room.
#[inline(always)]
pub fn open<T: Tables>(tables: &mut T, key: &FlowKey, opening: &Opening) -> Result<FlowValue, DropReason> {
    let scope_flag = match opening.scope {
        Scope::Internal => 0,
        Scope::External => FlowValue::EXTERNAL,
    };
    let mut forward = FlowValue {
        src: opening.masquerade.unwrap_or(key.src),
        dst: opening.backend.addr,
        src_port: key.src_port,
        dst_port: opening.backend.port,
        service: opening.service,
        backend: opening.backend.id,
        generation: opening.backend.generation,
        flags: scope_flag,
        last_seen: seconds(tables),
    };
    let ports = tables.node().map_or((61_000, 65_535), |n: &NodeConfig| (n.snat_port_first, n.snat_port_last));
    // One value serves both entries in turn: the kernel's stack is small.
    let mut reverse = FlowValue {
        src: key.dst,
        dst: key.src,
        src_port: key.dst_port,
        dst_port: key.src_port,
        flags: scope_flag | FlowValue::REVERSE,
        ..forward
    };
    if opening.masquerade.is_some() {
        forward.src_port = random_port(tables, ports);
    }
    for _ in 0..PORT_TRIES {
        let back = reverse_key(key.protocol, &forward);
        match tables.insert_flow(&back, &reverse) {
            Inserted::New => return insert_forward(tables, key, &forward, &back),
            Inserted::Full => return Err(DropReason::FlowTableFull),
            Inserted::Exists if is_leftover(tables, &back, key) => {
                tables.remove_flow(&back);
                if tables.insert_flow(&back, &reverse) == Inserted::New {
                    return insert_forward(tables, key, &forward, &back);
                }
            }
            Inserted::Exists => {}
        }
        forward.src_port = random_port(tables, ports);
        reverse.last_seen = forward.last_seen;
    }
    Err(DropReason::SnatExhausted)
}

/// Adds the forward entry. Another CPU may have been first: then its choice stands.
#[inline(always)]
fn insert_forward<T: Tables>(
    tables: &mut T,
    key: &FlowKey,
    forward: &FlowValue,
    back: &FlowKey,
) -> Result<FlowValue, DropReason> {
    match tables.insert_flow(key, forward) {
        Inserted::New => {
            tables.mark_nat(&key.src, PodValue::nat_bit(key.protocol));
            Ok(*forward)
        }
        Inserted::Exists => {
            let standing = tables.flow(key, |_| {}).ok_or(DropReason::FlowTableFull)?;
            if reverse_key(key.protocol, &standing) != *back {
                tables.remove_flow(back);
            }
            Ok(standing)
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
    let Some(found) = tables.flow(back, |_| {}) else { return true };
    let forward = FlowKey {
        src: found.dst,
        dst: found.src,
        src_port: found.dst_port,
        dst_port: found.src_port,
        protocol: key.protocol,
        pad: [0; 3],
    };
    forward == *key || tables.flow(&forward, |_| {}).is_none_or(|f| reverse_key(key.protocol, &f) != *back)
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
