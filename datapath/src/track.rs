//! Tracked flows: recognising one, ending one.
//!
//! Invariant: a flow's two entries mirror each other. The tables may forget one
//! of them (the least recently used): the client's next packet begins anew
//! without the forward one, and brings the reverse one back within a second.

mod open;
mod over;
mod unopened;

pub use open::{NewFlow, adopt, open};
pub use over::is_counted;

use crate::{
    abi::{Addr, Backend, Be16, FlowKey, FlowValue, FrontendKey},
    destination::{self, Destination},
    packet::{
        headers::{Fragment, Headers, Transport, tcp_flags},
        rewrite::Ends,
    },
    tables::Tables,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A UDP flow that was silent both ways for this long is a new one, as with
/// `nf_conntrack_udp_timeout_stream`'s default.
const UDP_IDLE_SECONDS: u32 = 120;

/// Monotonic seconds; flows need no finer time.
#[inline(always)]
pub fn seconds<T: Tables>(tables: &T) -> u32 {
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

/// What a flow's entry said when a packet of it passed.
struct Passed {
    flags: u32,
    service: u32,
    backend: u32,
    generation: u32,
    /// Seconds since the packet before.
    idle: u32,
}

/// A packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The packet comes from the flow's backend.
    pub reverse: bool,
    /// The packet goes out by the network, see [`FlowValue::OUT`].
    pub out: bool,
    /// The packet is the flow's last: [`end`] is to be called once it passes.
    pub ended: bool,
    /// The backend's node is to be told of the flow, see [`FlowValue::DIRECT`].
    pub announced: bool,
    /// See [`FlowValue::service`].
    pub service: u32,
}

impl Found {
    /// No flow.
    pub const NONE: Self = Self { reverse: false, out: false, ended: false, announced: false, service: 0 };
}

/// What [`find_steady`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steady {
    /// The packet's flow.
    Found(Found),
    /// Perhaps there is one.
    Perhaps,
    /// There is none.
    Nothing,
}

/// [`find`], of packets like most: those in which there is nothing to note, and whose
/// flow goes on.
#[inline(always)]
pub fn find_steady<T: Tables>(tables: &mut T, headers: &Headers, key: &FlowKey, becomes: &mut Ends) -> Steady {
    const NOT_STEADY: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
    let asked = match headers.transport {
        Transport::Tcp(flags) if flags & NOT_STEADY == 0 => FlowValue::ESTABLISHED,
        Transport::Udp => 0,
        _ => return Steady::Perhaps,
    };
    let now = seconds(tables);
    let passed = tables.flow(key, |flow| {
        let steady = flow.last_seen == now && flow.flags & (asked | FlowValue::CLOSING) == asked;
        let steady = steady && flow.flags & (FlowValue::DIRECT | FlowValue::ESTABLISHED) != FlowValue::DIRECT;
        *becomes = ends(flow);
        let (service, backend, generation) = (flow.service, flow.backend, flow.generation);
        steady.then_some(Passed { flags: flow.flags, service, backend, generation, idle: 0 })
    });
    let passed = match passed {
        Some(Some(passed)) => passed,
        Some(None) => return Steady::Perhaps,
        None => return Steady::Nothing,
    };
    let reverse = passed.flags & FlowValue::REVERSE != 0;
    // As `goes_on` for what was idle for no second.
    let alive = reverse || asked != 0 || passed.service == 0 || backend_lives(tables, &passed);
    let out = passed.flags & FlowValue::OUT != 0;
    if !alive {
        return Steady::Perhaps;
    }
    Steady::Found(Found { reverse, out, ended: false, announced: false, service: passed.service })
}

/// Looks a packet's flow up, notes that it passed, and fills in what it becomes and its
/// place there; false: there is none. Asked again about the same packet, it answers the same.
///
/// A forward flow that must not go on is forgotten and not found: its backend is
/// gone (kube-proxy deletes such flows of UDP; those of TCP and SCTP go on to their
/// end), it was idle for too long, or an opening packet begins anew on old ports.
///
/// (What is found isn't returned: the kernel knows no type of Rust's whose variants are told
/// apart by another field than the first, and takes no type information with one.)
#[inline(never)]
pub fn find<T: Tables>(
    tables: &mut T,
    headers: &Headers,
    key: &FlowKey,
    becomes: &mut Ends,
    place: &mut Found,
) -> bool {
    let now = seconds(tables);
    let bits = match headers.transport {
        Transport::Tcp(flags) if flags & (tcp_flags::FIN | tcp_flags::RST) != 0 => FlowValue::CLOSING,
        Transport::Tcp(flags) if flags & tcp_flags::SYN == 0 => FlowValue::ESTABLISHED,
        Transport::Sctp if !headers.opens => FlowValue::ESTABLISHED,
        _ => 0,
    };
    let passed = tables.flow(key, |flow| {
        let idle = now.saturating_sub(flow.last_seen);
        // A line that isn't written stays in every CPU's cache.
        if idle != 0 {
            flow.last_seen = now;
        }
        let flags = flow.flags;
        let old = idle != 0 && flags & FlowValue::DIRECT != 0 && headers.transport == Transport::Udp;
        let noted = if old { FlowValue::ESTABLISHED } else { bits };
        if flags & noted != noted {
            flow.flags = flags | noted;
        }
        *becomes = ends(flow);
        if bits == FlowValue::CLOSING {
            flow.flags &= !FlowValue::COUNTED;
        }
        Passed { flags, service: flow.service, backend: flow.backend, generation: flow.generation, idle }
    });
    let Some(passed) = passed else { return false };
    let back = answers_to(becomes, key.protocol);
    let forward = passed.flags & FlowValue::REVERSE == 0;
    let stays = !forward || goes_on(tables, headers, &passed, &back);
    let mut counted = passed.flags & FlowValue::COUNTED != 0;
    if bits == FlowValue::CLOSING && !forward {
        // What an end has closed is no connection any more, whichever it was.
        let count = |flow: &mut FlowValue| {
            let counted = flow.flags & FlowValue::COUNTED != 0;
            flow.flags &= !FlowValue::COUNTED;
            counted
        };
        counted = tables.flow(&back, count).unwrap_or(false);
    }
    if counted && (!stays || bits == FlowValue::CLOSING) {
        tables.remove_connection(passed.backend);
    }
    if !stays {
        remove_both(tables, key, &back);
        return false;
    }
    // Both ends have closed, and this acknowledges it.
    let ended = bits == FlowValue::ESTABLISHED
        && passed.flags & FlowValue::CLOSING != 0
        && tables.flow(&back, |flow| flow.flags & FlowValue::CLOSING != 0).unwrap_or(true);
    if forward && passed.idle != 0 && !ended {
        mend(tables, key, &passed, &back);
    }
    // Of TCP the opening packet is sent again until it is answered, and what comes next says that the
    // client has opened the flow. Of UDP any may be lost.
    let announced = passed.flags & FlowValue::DIRECT != 0
        && match headers.transport {
            Transport::Udp => passed.idle != 0 || passed.flags & FlowValue::ESTABLISHED == 0,
            _ => headers.opens || bits == FlowValue::ESTABLISHED && passed.flags & FlowValue::ESTABLISHED == 0,
        };
    let out = passed.flags & FlowValue::OUT != 0;
    *place = Found { reverse: !forward, out, ended, announced, service: passed.service };
    true
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
    let out = if destination::leads_out(tables, &key.src) { FlowValue::OUT } else { 0 };
    let reverse = FlowValue {
        service: passed.service,
        backend: passed.backend,
        generation: passed.generation,
        flags: FlowValue::REVERSE | out | passed.flags & FlowValue::EXTERNAL,
        last_seen: seconds(tables),
        ..key.mirrored()
    };
    // If there is no room, the next second's packet tries again.
    let _ = tables.insert_flow(back, &reverse);
}

#[inline(always)]
fn goes_on<T: Tables>(tables: &mut T, headers: &Headers, passed: &Passed, back: &FlowKey) -> bool {
    let may_go_on = match headers.transport {
        Transport::Tcp(_) | Transport::Sctp => {
            if !headers.opens {
                return true;
            }
            // A SYN that is sent again stays with its backend while that lives.
            let backs = tables.flow(back, |flow| flow.flags);
            (passed.flags | backs.unwrap_or(FlowValue::CLOSING)) & FlowValue::CLOSING == 0
        }
        Transport::Udp => passed.idle <= UDP_IDLE_SECONDS || is_answered(tables, back),
        // It belongs to a datagram whose first part has gone this way.
        _ if headers.fragment == Fragment::Later => return true,
        _ => true,
    };
    may_go_on && is_alive(tables, headers, passed)
}

/// Whether an answer has come lately.
#[inline(always)]
fn is_answered<T: Tables>(tables: &mut T, back: &FlowKey) -> bool {
    let now = seconds(tables);
    tables.flow(back, |flow| now.saturating_sub(flow.last_seen)).is_some_and(|idle| idle <= UDP_IDLE_SECONDS)
}

/// Whether the flow's backend still serves its Service, and that Service is still the one at
/// the address that the client dialled (kube-proxy deletes flows of UDP that another Service
/// has now). What isn't a Service's flow goes on until its destination becomes a Service's.
/// Whose the destination is is looked at once a second.
#[inline(always)]
fn is_alive<T: Tables>(tables: &T, headers: &Headers, passed: &Passed) -> bool {
    if passed.service == 0 {
        return passed.idle == 0 || tables.frontend(&FrontendKey::whole_address(headers.dst)).is_none();
    }
    if !backend_lives(tables, passed) {
        return false;
    }
    if passed.idle == 0 && !headers.opens || !headers.has_ports() {
        return true;
    }
    !is_anothers(tables, (headers.dst, headers.dst_port), headers.protocol, passed.service)
}

/// Whether the address and port that a Service's client dialled are another Service's now.
#[inline(always)]
fn is_anothers<T: Tables>(tables: &T, (addr, port): (Addr, Be16), protocol: u8, service: u32) -> bool {
    match destination::find(tables, addr, port, protocol) {
        Destination::Frontend(frontend) => frontend.service != service,
        Destination::Unused | Destination::Foreign => false,
    }
}

#[inline(always)]
fn backend_lives<T: Tables>(tables: &T, passed: &Passed) -> bool {
    tables
        .backend(passed.backend)
        .is_some_and(|backend| backend.generation == passed.generation && backend.flags & Backend::ALIVE != 0)
}
