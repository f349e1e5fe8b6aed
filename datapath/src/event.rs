//! What is told of packets and calls while somebody listens, and how much of it.
//!
//! Invariant: nobody is told more than was asked for, whatever comes; what isn't told is
//! counted. This module must not know the ring, or who listens.

use crate::{
    abi::{DropReason, Event, EventClass, EventControl, EventHook, EventKind},
    packet::rewrite::Ends,
    socket::{self, Call, Socket, SocketVerdict},
    tables::Tables,
};

/// In which an allowance is used up or lost.
const TENTH: u64 = 100_000_000;

/// What of an allowance a CPU has left for a class of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    since: u64,
    told: u64,
}

/// Whether an event may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nobody listens.
    Unheard,
    /// It is told.
    Told,
    /// There are too many.
    Suppressed,
}

impl Budget {
    /// Whether one more event may be told, which is counted if so.
    #[inline(always)]
    pub fn admit(&mut self, control: &EventControl, class: EventClass, now: u64) -> Admission {
        if !listens(control, now) {
            return Admission::Unheard;
        }
        if now.wrapping_sub(self.since) >= TENTH {
            *self = Self { since: now, told: 0 };
        }
        let allowance = match class {
            EventClass::Flow => control.per_tenth[0],
            EventClass::Trouble => control.per_tenth[1],
        };
        if self.told >= u64::from(allowance) {
            return Admission::Suppressed;
        }
        self.told += 1;
        Admission::Told
    }
}

/// Whether somebody listens.
#[inline(always)]
pub fn listens(control: &EventControl, now: u64) -> bool {
    // Of a table that nobody has written to, without a look at the clock.
    control.until != 0 && now < control.until
}

/// What a drop for this reason is told as.
#[inline(always)]
pub const fn of_drop(reason: DropReason) -> EventKind {
    match reason {
        DropReason::EgressDenied | DropReason::IngressDenied => EventKind::Denied,
        _ => EventKind::Dropped,
    }
}

/// What is told of a call; `None`: nothing.
#[inline(always)]
pub const fn of_call(verdict: &SocketVerdict) -> Option<EventKind> {
    match verdict {
        SocketVerdict::Divert(..) => Some(EventKind::Began),
        SocketVerdict::Refuse => Some(EventKind::Refused),
        SocketVerdict::Unchanged => None,
    }
}

/// The event of a socket's call that was judged so.
#[inline(always)]
pub fn call<T: Tables, S: Socket>(
    tables: &T,
    socket: &S,
    call: &Call,
    verdict: &SocketVerdict,
    kind: EventKind,
) -> Event {
    let src = socket::caller_address(tables, socket, call.addr.family());
    let (new_dst, new_dst_port, backend) = match verdict {
        SocketVerdict::Divert(addr, port) => (*addr, *port, socket::backend_of(socket, *addr, *port)),
        _ => (call.addr, call.port, 0),
    };
    Event {
        time: tables.now(),
        src,
        dst: call.addr,
        new_src: src,
        new_dst,
        dst_port: call.port,
        new_dst_port,
        service: tables.backend(backend).map_or(0, |backend| backend.service),
        backend,
        kind: kind as u8,
        hook: EventHook::Connect as u8,
        protocol: call.protocol,
        ..Event::default()
    }
}

/// The ends of an event before and after.
#[inline(always)]
pub(crate) fn between(came: &Ends, goes: &Ends) -> Event {
    Event {
        src: came.src,
        dst: came.dst,
        new_src: goes.src,
        new_dst: goes.dst,
        src_port: came.src_port,
        dst_port: came.dst_port,
        new_src_port: goes.src_port,
        new_dst_port: goes.dst_port,
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const CONTROL: EventControl = EventControl { until: 10 * TENTH, per_tenth: [2, 3] };

    /// How many of a thousand events in each tenth of a second are told, a millisecond's tenth apart.
    fn told(control: &EventControl, class: EventClass, tenths: u64) -> Vec<usize> {
        let mut budget = Budget::default();
        let mut of_tenth = |tenth: u64| {
            let times = (0..1000).map(|i| tenth * TENTH + i * (TENTH / 1000));
            times.filter(|now| budget.admit(control, class, *now) == Admission::Told).count()
        };
        (1..=tenths).map(&mut of_tenth).collect()
    }

    #[test]
    fn a_flood_is_told_of_as_much_as_was_asked_for() {
        assert_eq!(told(&CONTROL, EventClass::Flow, 4), [2; 4]);
        assert_eq!(told(&CONTROL, EventClass::Trouble, 4), [3; 4]);
        assert_eq!(told(&EventControl { per_tenth: [0; 2], ..CONTROL }, EventClass::Flow, 2), [0; 2]);
    }

    #[test]
    fn nobody_is_told_anything_once_the_listening_has_ended() {
        assert_eq!(told(&CONTROL, EventClass::Flow, 12), [2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0]);
        let mut budget = Budget::default();
        assert_eq!(budget.admit(&EventControl::default(), EventClass::Flow, 0), Admission::Unheard);
        assert_eq!(budget.admit(&CONTROL, EventClass::Flow, 10 * TENTH - 1), Admission::Told);
        assert_eq!(budget.admit(&CONTROL, EventClass::Flow, 10 * TENTH), Admission::Unheard);
    }

    #[test]
    fn what_policies_drop_is_denied() {
        for reason in DropReason::ALL {
            let denied = matches!(reason.name(), "egress-policy-denied" | "ingress-policy-denied");
            assert_eq!(of_drop(*reason) == EventKind::Denied, denied, "{}", reason.name());
        }
    }
}
