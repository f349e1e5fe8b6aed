//! What a packet's way has to tell.
//!
//! Invariant: an event names the packet as it came and as it goes on, or would have gone.
//! This module must not know whether somebody listens.

use super::Work;
use crate::{
    abi::{DropReason, Event, EventHook, EventKind, FlowKey},
    event,
    packet::{headers::Headers, rewrite::Ends},
};

/// A translated flow began.
pub(super) const BEGAN: u32 = 1 << 0;
/// One was closed by both ends.
pub(super) const CLOSED: u32 = 1 << 1;
/// The packet has become a refusal.
pub(super) const REFUSED: u32 = 1 << 2;
/// A rule allows a flow, of which that had not been noted.
pub(super) const ALLOWED: u32 = 1 << 3;
/// Policies were asked, of [`super::filter::Asked::key`]. This alone is no news.
pub(super) const ASKED: u32 = 1 << 4;

/// What is told, though the packet isn't dropped.
pub(super) const NEWS: u32 = BEGAN | CLOSED | REFUSED | ALLOWED;

/// What kind of event the packet makes, dropped for a reason or not.
#[inline(always)]
pub fn kind(work: &Work, dropped: Option<DropReason>) -> EventKind {
    match dropped {
        Some(reason) => event::of_drop(reason),
        None if work.occurred & REFUSED != 0 => EventKind::Refused,
        None if work.occurred & BEGAN != 0 => EventKind::Began,
        None if work.occurred & CLOSED != 0 => EventKind::Closed,
        None => EventKind::Allowed,
    }
}

/// The event that the packet makes, of a [`kind`] and at a time.
#[inline(always)]
pub fn event(work: &Work, kind: EventKind, dropped: Option<DropReason>, hook: EventHook, time: u64) -> Event {
    let (came, goes, service) = way(work, kind);
    let (rule, set) = policy(work, kind);
    Event {
        time,
        service,
        backend: if kind == EventKind::Began { work.flow.forward.backend } else { 0 },
        rule,
        reason: dropped.map_or(0, |reason| reason as u32),
        set,
        kind: kind as u8,
        hook: hook as u8,
        protocol: work.headers.protocol,
        ..event::between(&came, &goes)
    }
}

/// The rule that allowed or denied it, and of which set.
#[inline(always)]
fn policy(work: &Work, kind: EventKind) -> (u32, u32) {
    if kind == EventKind::Denied {
        (work.denial.rule, work.denial.set)
    } else if work.occurred & ALLOWED != 0 {
        (work.allowed_by, work.asked.set)
    } else {
        (0, 0)
    }
}

/// As what the packet came, as what it goes on, and the service port whose flow it belongs to.
#[inline(always)]
fn way(work: &Work, kind: EventKind) -> (Ends, Ends, u32) {
    let came = if work.changes.ends { work.came_with } else { of_headers(&work.headers) };
    let service = work.member.service;
    match kind {
        EventKind::Began => (of_key(&work.key), work.ends, service),
        // As the client sees its flow, whoever sent the last packet.
        EventKind::Closed if work.member.reverse => (reversed(&work.ends), reversed(&of_key(&work.key)), service),
        EventKind::Closed => (of_key(&work.key), work.ends, service),
        EventKind::Denied | EventKind::Allowed if work.occurred & ASKED != 0 => {
            let goes = of_key(&work.asked.key);
            let translated = goes.dst != came.dst || goes.dst_port != came.dst_port;
            (came, goes, if translated { service } else { 0 })
        }
        EventKind::Dropped if work.changes.ends => (came, work.ends, service),
        _ => (came, came, 0),
    }
}

#[inline(always)]
fn of_headers(headers: &Headers) -> Ends {
    Ends { src: headers.src, dst: headers.dst, src_port: headers.src_port, dst_port: headers.dst_port }
}

#[inline(always)]
fn of_key(key: &FlowKey) -> Ends {
    Ends { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port }
}

#[inline(always)]
fn reversed(ends: &Ends) -> Ends {
    Ends { src: ends.dst, dst: ends.src, src_port: ends.dst_port, dst_port: ends.src_port }
}
