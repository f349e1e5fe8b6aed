//! Beginning a flow: its two entries, and a port by which its answers are known.
//!
//! Invariant: no two flows' answers look alike. Of a flow that can't be noted whole
//! nothing stays behind.

use super::{answers_to, ends, over, seconds, unopened};
use crate::{
    abi::{Addr, Be16, DropReason, FlowKey, FlowValue, NodeState, protocol},
    tables::{Attempt, Inserted, Tables},
};

/// How many ports are tried before the port space counts as full. While one port in
/// fifty is free, twelve of thirteen new flows find one.
const PORT_TRIES: u32 = 128;

/// Where a node says nothing else.
const PORTS: (u16, u16) = (61_000, 65_535);

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

    /// A flow that others have begun, whose packets with this key become as its forward entry says; the
    /// reverse one has these bits besides those that mirror the forward one's.
    pub fn begun(key: &FlowKey, forward: FlowValue, reverse_bits: u32) -> Self {
        let mut flow = Self { forward, reverse: FlowValue::EMPTY };
        mirror(key, &mut flow);
        flow.reverse.flags |= reverse_bits;
        flow
    }

    /// The key of its reverse entry.
    pub fn back(&self, key: &FlowKey) -> FlowKey {
        answers_to(&ends(&self.forward), key.protocol)
    }
}

/// Begins the flow of a client's first packet. `flow.forward` says what the packet
/// shall become; its source port may have to change, and its `last_seen` is set. Of
/// `flow.reverse` only [`FlowValue::OUT`] is said.
///
/// The packets that come back must be told apart from those of every other
/// flow. Where the client's own port is taken (one client, one backend behind
/// two frontends) or its address is hidden, another source port is found: at random,
/// because of those that are tried in order the later ones are likelier to be taken.
/// A flow that was to be answered directly hides its client then, since nobody else knows
/// which port was its own.
///
/// # Errors
/// The reason to drop the packet for: no port left, no room, or no flow may begin just now.
#[inline(never)]
pub fn open<T: Tables>(tables: &mut T, key: &FlowKey, flow: &mut NewFlow) -> Result<(), DropReason> {
    if is_held(tables, key.protocol) {
        return Err(DropReason::ChangingOver);
    }
    let ports = tables.node().map_or(PORTS, |node| (node.snat_port_first, node.snat_port_last));
    let hides = tables.node().map_or(key.dst, |node| node.address(key.src.family()));
    let forward = &mut flow.forward;
    forward.last_seen = seconds(tables);
    if forward.src != key.src {
        forward.src_port = random_port(tables, ports);
    }
    mirror(key, flow);
    let mut search = PortSearch { key, flow, ports, hides, inserted: Inserted::Exists };
    tables.repeat(PORT_TRIES, &mut search);
    match search.inserted {
        Inserted::New => {
            let back = answers_to(&ends(&flow.forward), key.protocol);
            flow.forward.flags |= unopened::remember(tables, key);
            insert_forward(tables, key, &mut flow.forward, &back)
        }
        Inserted::Full => Err(DropReason::FlowTableFull),
        Inserted::Exists => Err(DropReason::SnatExhausted),
    }
}

/// Looks for a port by which a new flow's answers are known, and inserts its reverse entry.
struct PortSearch<'a> {
    key: &'a FlowKey,
    flow: &'a mut NewFlow,
    /// Of these it is one, if it isn't the client's own.
    ports: (u16, u16),
    /// The address of who hides its client.
    hides: Addr,
    /// What came of the last attempt.
    inserted: Inserted,
}

impl<T: Tables> Attempt<T> for PortSearch<'_> {
    #[inline(always)]
    fn try_once(&mut self, tables: &mut T, number: u32) -> bool {
        let Self { key, flow, ports, hides, inserted } = self;
        let back = answers_to(&ends(&flow.forward), key.protocol);
        *inserted = insert_reverse(tables, key, &back, &flow.reverse, over::hurry(number));
        if *inserted != Inserted::Exists {
            return true;
        }
        if flow.forward.flags & FlowValue::DIRECT != 0 {
            flow.forward.flags &= !FlowValue::DIRECT;
            flow.forward.src = *hides;
        }
        flow.forward.src_port = random_port(tables, *ports);
        false
    }
}

/// Notes a flow that another node has begun, whose client's packets come with the
/// backend's address already: as [`open`], but no port can be changed any more. What was
/// noted of a flow with this key before is forgotten.
///
/// # Errors
/// The reason to drop the packet for: another flow's answers would look alike, no room, or no
/// flow may begin just now.
#[inline(never)]
pub fn adopt<T: Tables>(tables: &mut T, key: &FlowKey, flow: &mut NewFlow) -> Result<(), DropReason> {
    if is_held(tables, key.protocol) {
        return Err(DropReason::ChangingOver);
    }
    let now = seconds(tables);
    flow.forward.last_seen = now;
    mirror(key, flow);
    let back = answers_to(&ends(&flow.forward), key.protocol);
    // In place, so that no answer finds nothing.
    let stands = tables.flow(&back, |standing| {
        let same = ends(standing) == ends(&flow.reverse);
        if same {
            standing.flags &= !FlowValue::CLOSING;
            standing.last_seen = now;
        }
        same
    });
    if stands != Some(true) {
        match insert_reverse(tables, key, &back, &flow.reverse, 0) {
            Inserted::New => {}
            Inserted::Full => return Err(DropReason::FlowTableFull),
            Inserted::Exists => return Err(DropReason::SnatExhausted),
        }
    }
    flow.forward.flags |= unopened::remember(tables, key);
    if let Some(standing) = tables.flow(key, |standing| core::mem::replace(standing, flow.forward)) {
        let old = answers_to(&ends(&standing), key.protocol);
        if old != back {
            tables.remove_flow(&old);
        }
        return Ok(());
    }
    insert_forward(tables, key, &mut flow.forward, &back)
}

/// Whether no flow may begin: what would be noted here might not be found by the programs that
/// see the next packet. Of protocols that send again what is lost.
#[inline(always)]
fn is_held<T: Tables>(tables: &T, protocol: u32) -> bool {
    let until = tables.node().map_or(0, |node| node.held_until);
    let sends_again = protocol == u32::from(protocol::TCP) || protocol == u32::from(protocol::SCTP);
    until != 0 && sends_again && tables.now() < until
}

/// Makes the reverse entry, of which only [`FlowValue::OUT`] is said, the forward one's mirror.
#[inline(always)]
fn mirror(key: &FlowKey, flow: &mut NewFlow) {
    let forward = &flow.forward;
    let out = flow.reverse.flags & FlowValue::OUT;
    let FlowValue { src, dst, src_port, dst_port, .. } = key.mirrored();
    flow.reverse = FlowValue {
        src,
        dst,
        src_port,
        dst_port,
        flags: forward.flags & FlowValue::EXTERNAL | FlowValue::REVERSE | out,
        ..*forward
    };
}

/// Adds the reverse entry.
#[inline(always)]
fn insert_reverse<T: Tables>(
    tables: &mut T,
    key: &FlowKey,
    back: &FlowKey,
    reverse: &FlowValue,
    hurry: u32,
) -> Inserted {
    let inserted = tables.insert_flow(back, reverse);
    if inserted == Inserted::Exists && over::is_free(tables, back, key, hurry) {
        tables.remove_flow(back);
        return tables.insert_flow(back, reverse);
    }
    inserted
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
            if forward.flags & FlowValue::COUNTED != 0 {
                tables.mark_node_nat(NodeState::COUNTED);
                tables.add_connection(forward.backend);
            }
            // Of a flow that another node has begun, and counted, the backend isn't known.
            if forward.backend != 0 {
                tables.count_service(forward.service);
            }
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

#[inline(always)]
fn random_port<T: Tables>(tables: &mut T, (first, last): (u16, u16)) -> Be16 {
    let span = u32::from(last).saturating_sub(u32::from(first)) + 1;
    let offset = (u64::from(tables.random()) * u64::from(span)) >> 32;
    Be16::new((u32::from(first) + offset as u32) as u16)
}
