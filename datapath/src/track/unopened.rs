//! Flows that nobody has opened: how many there may be.
//!
//! A SYN costs who sends it nothing, whoever it says it comes from, and makes a flow. So
//! flows of TCP and SCTP are numbered as they begin, and the last ones are remembered. Each
//! that begins takes the place of an older one, which is forgotten if it was never opened.
//!
//! Invariant: however many begin, no more than [`Beginnings::REMEMBERED`] unopened ones are
//! in the tables; the rest of the room is for those that are in use, also if they are silent.

use super::{answers_to, ends, remove_both};
use crate::{
    abi::{Beginnings, FlowKey, FlowValue, protocol},
    tables::Tables,
};

/// Remembers a flow that begins; the flags that say under which number.
///
/// A function of its own, since the kernel's stack is small.
#[inline(never)]
pub(super) fn remember<T: Tables>(tables: &mut T, key: &FlowKey) -> u32 {
    const TCP: u32 = protocol::TCP as u32;
    const SCTP: u32 = protocol::SCTP as u32;
    if !matches!(key.protocol, TCP | SCTP) {
        return 0;
    }
    let place = tables.begin(|number, place| (number, core::mem::replace(place, *key)));
    let Some((number, before)) = place else { return 0 };
    forget_unopened(tables, &before, Beginnings::before(number));
    number << FlowValue::NUMBER_SHIFT
}

/// Forgets the flow with this number unless it was opened. (Another may have its key by now.)
#[inline(always)]
fn forget_unopened<T: Tables>(tables: &mut T, key: &FlowKey, number: u32) {
    let found = tables.flow(key, |flow| {
        (flow.number() == number).then(|| (flow.flags, flow.backend, answers_to(&ends(flow), key.protocol)))
    });
    let Some(Some((forward, backend, back))) = found else { return };
    let reverse = tables.flow(&back, |flow| if answers_to(&ends(flow), key.protocol) == *key { flow.flags } else { 0 });
    // What is at the place of a reverse entry that is gone is another flow's.
    let reverse = reverse.unwrap_or(0);
    if is_opened(forward, reverse) {
        return;
    }
    if reverse & FlowValue::REVERSE != 0 {
        remove_both(tables, key, &back);
    } else {
        tables.remove_flow(key);
    }
    if forward & FlowValue::COUNTED != 0 {
        tables.remove_connection(backend);
    }
    tables.count_unopened();
}

/// Whether both ends have agreed to a connection, by the flags of its two entries. What a
/// forged acknowledgement gets from the backend is a RST, and nothing before that.
#[inline(always)]
const fn is_opened(forward: u32, reverse: u32) -> bool {
    const REFUSED: u32 = FlowValue::CLOSING;
    (forward | reverse) & FlowValue::ESTABLISHED != 0
        && reverse & (FlowValue::CLOSING | FlowValue::ESTABLISHED) != REFUSED
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;
    use crate::{
        abi::{Addr, Be16},
        memory::MemoryTables,
        track::{NewFlow, end, open},
    };

    const REMEMBERED: u64 = Beginnings::REMEMBERED as u64;
    const BACKEND: Addr = Addr::v4(2);

    fn key(client: u32, protocol: u8) -> FlowKey {
        FlowKey {
            src: Addr::v4(client),
            dst: Addr::v4(1),
            src_port: Be16::new(4000),
            dst_port: Be16::new(80),
            protocol: protocol.into(),
        }
    }

    /// A client that nobody hides begins a flow.
    fn begin(tables: &mut MemoryTables, key: &FlowKey, flags: u32) -> FlowKey {
        let forward = FlowValue {
            src: key.src,
            dst: BACKEND,
            src_port: key.src_port,
            dst_port: Be16::new(8080),
            backend: 7,
            flags,
            ..FlowValue::EMPTY
        };
        let mut flow = NewFlow { forward, ..NewFlow::EMPTY };
        open(tables, key, &mut flow).expect("there is room");
        answers_to(&ends(&flow.forward), key.protocol)
    }

    /// So many others begin flows that are never opened.
    fn flood(tables: &mut MemoryTables, count: u64) {
        for _ in 0..count {
            let client = 1 << 30 | tables.beginnings.begun as u32;
            begin(tables, &key(client, protocol::TCP), 0);
        }
    }

    #[test]
    fn what_is_opened_outlives_any_flood_and_the_flood_is_bounded() {
        const ESTABLISHED: u32 = FlowValue::ESTABLISHED;
        const CLOSING: u32 = FlowValue::CLOSING;
        for (protocol, forward, reverse, lives) in [
            (protocol::TCP, 0, 0, false),
            (protocol::TCP, ESTABLISHED, 0, true),
            (protocol::TCP, ESTABLISHED, ESTABLISHED, true),
            // Of a flow that another node has begun only the answers are seen.
            (protocol::TCP, 0, ESTABLISHED, true),
            (protocol::TCP, 0, CLOSING, false),
            (protocol::TCP, CLOSING, 0, false),
            (protocol::TCP, ESTABLISHED, CLOSING, false),
            (protocol::TCP, ESTABLISHED, ESTABLISHED | CLOSING, true),
            (protocol::TCP, ESTABLISHED | CLOSING, ESTABLISHED, true),
            (protocol::SCTP, 0, 0, false),
            (protocol::SCTP, ESTABLISHED, 0, true),
            (protocol::UDP, 0, 0, true),
        ] {
            let what = format!("{protocol}, {forward}, {reverse}");
            let mut tables = MemoryTables::default();
            let key = key(1, protocol);
            let back = begin(&mut tables, &key, 0);
            tables.flow(&key, |flow| flow.flags |= forward).expect("it has begun");
            tables.flow(&back, |flow| flow.flags |= reverse).expect("it has begun");
            flood(&mut tables, REMEMBERED - 1);
            assert!(tables.flows.contains_key(&key), "{what}: others have begun after it, but not enough");
            flood(&mut tables, REMEMBERED);
            let left = [&key, &back].map(|key| tables.flows.contains_key(key));
            assert_eq!(left, [lives; 2], "{what}");
            let others = tables.flows.len() - if lives { 2 } else { 0 };
            assert!(others as u64 <= 2 * REMEMBERED, "{what}: {others} entries");
        }
    }

    #[test]
    fn what_makes_room_is_counted_and_counts_no_more() {
        let mut tables = MemoryTables::default();
        begin(&mut tables, &key(1, protocol::TCP), FlowValue::COUNTED);
        assert_eq!(tables.connections(7), 1);
        flood(&mut tables, REMEMBERED);
        assert_eq!((tables.connections(7), tables.beginnings.unopened), (0, 1));
        assert_eq!(tables.beginnings.begun, REMEMBERED + 1);
    }

    #[test]
    fn a_client_that_comes_again_from_its_old_port_is_not_taken_for_its_old_flow() {
        let mut tables = MemoryTables::default();
        let again = key(1, protocol::TCP);
        let back = begin(&mut tables, &again, 0);
        let becomes = ends(&tables.flows[&again]);
        end(&mut tables, &again, &becomes);
        assert!(!tables.flows.contains_key(&back));
        flood(&mut tables, REMEMBERED - 2);
        begin(&mut tables, &again, 0);
        flood(&mut tables, 1);
        assert!(tables.flows.contains_key(&again), "it has only begun");
    }

    #[test]
    fn what_has_a_forgotten_reverse_entry_s_place_stays() {
        let mut tables = MemoryTables::default();
        let key = key(1, protocol::TCP);
        let back = begin(&mut tables, &key, 0);
        let stranger = FlowValue { dst_port: Be16::new(1), ..tables.flows[&back] };
        tables.flows.insert(back, stranger);
        flood(&mut tables, REMEMBERED);
        assert!(!tables.flows.contains_key(&key));
        assert_eq!(tables.flows[&back], stranger);
    }
}
