//! An event of the ring with names, as clients are told it.
//!
//! This module must not know who listens.

use std::net::IpAddr;

use datapath::abi::{Addr, Be16, DropReason, Event, EventHook, EventKind, PolicyDenial, direction, protocol};
use jiff::Timestamp;

use crate::{
    agent::names::Names,
    api::monitor::{End, EventReport, Verdict},
    kernel::clock,
};

/// The same moment by the clock of the programs and by that on the wall.
pub struct Clock {
    monotonic: u64,
    wall: Timestamp,
}

impl Clock {
    /// Now.
    pub fn now() -> Self {
        Self { monotonic: clock::nanos(), wall: Timestamp::now() }
    }

    /// When something happened, in microseconds.
    fn at(&self, time: u64) -> String {
        let ago = (self.monotonic.saturating_sub(time) / 1000).cast_signed();
        let at = Timestamp::from_microsecond(self.wall.as_microsecond().saturating_sub(ago));
        format!("{:.6}", at.unwrap_or(self.wall))
    }
}

/// What clients are told; `None`: it is of a kind that this agent doesn't know.
pub fn report(event: &Event, names: &Names, clock: &Clock) -> Option<EventReport> {
    let kind = EventKind::of(event.kind)?;
    let verdict = match kind {
        EventKind::Began | EventKind::Closed | EventKind::Allowed => Verdict::Forwarded,
        EventKind::Dropped => Verdict::Dropped,
        EventKind::Denied => Verdict::Denied,
        EventKind::Refused => Verdict::Refused,
    };
    let end = |addr: Addr, port: Be16| {
        let address = IpAddr::from(addr);
        let name = |names: &std::collections::HashMap<IpAddr, String>| names.get(&address).cloned().unwrap_or_default();
        End { address, port: port.get(), pod: name(&names.pods), node: name(&names.nodes) }
    };
    let (source, destination) = (end(event.src, event.src_port), end(event.dst, event.dst_port));
    let client = end(event.new_src, event.new_src_port);
    let backend = end(event.new_dst, event.new_dst_port);
    let is_drop = matches!(kind, EventKind::Dropped | EventKind::Denied);
    let reason = DropReason::ALL.get(event.reason as usize).filter(|_| is_drop);
    let place = (destination.address, destination.port, event.protocol);
    Some(EventReport {
        time: clock.at(event.time),
        verdict,
        kind: kind.name().into(),
        hook: EventHook::of(event.hook).map_or("unknown", EventHook::name).into(),
        protocol: protocol_name(event.protocol),
        service: names.services.get(&place).cloned().unwrap_or_default(),
        client: (client != source).then_some(client),
        backend: (backend != destination).then_some(backend),
        source,
        destination,
        reason: reason.map_or("", |reason| reason.name()).into(),
        policy: rule(event).and_then(|rule| names.rules.get(&rule).cloned()).unwrap_or_default(),
    })
}

/// By what policies' rule or default the event came about, if by any.
pub fn rule(event: &Event) -> Option<PolicyDenial> {
    if event.set == 0 {
        return None;
    }
    let egress = event.reason == DropReason::EgressDenied as u32;
    let way = if egress { direction::EGRESS } else { direction::INGRESS };
    Some(PolicyDenial::by(event.rule, event.set, way))
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::SCTP => "sctp".into(),
        protocol::ICMP => "icmp".into(),
        protocol::ICMPV6 => "icmpv6".into(),
        other => other.to_string(),
    }
}
