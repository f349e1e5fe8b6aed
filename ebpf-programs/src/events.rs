//! The ring: what is told of packets and calls while somebody listens.
//!
//! Whoever listens reads the ring by the clock, so nobody is woken by it.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use datapath::{
    abi::{DropReason, Event, EventClass, EventHook, EventKind, EventLoss},
    event::{self, Admission},
    paths::{self, Work},
    socket::{Call, Socket, SocketVerdict},
    tables::Tables,
};

use crate::{maps, skb::Skb, tables::KernelTables};

/// Tells of a packet that goes on and with which something came about.
#[inline(always)]
pub fn tell(work: &Work, hook: EventHook) {
    tell_packet(work, hook, None);
}

/// Tells of a packet that is dropped.
#[inline(always)]
pub fn tell_drop(skb: &Skb, hook: EventHook, reason: DropReason) {
    if !are_heard() {
        return;
    }
    let Some(work) = maps::WORK.get_ptr_mut(0) else { return };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own, in which this run of
    // the program noted what it knows of the packet, and which nobody else reads any more.
    let work = unsafe { &mut *work };
    // Then it shows only while a verdict is performed, perhaps a glance's, which reads less.
    if !work.is_dropped()
        && matches!(reason, DropReason::RewriteFailed | DropReason::RejectFailed | DropReason::NoTunnel)
        && let Some(family) = skb.family()
    {
        // Of what can't be read is told what can.
        let _ = work.read(skb, family);
    }
    tell_packet(work, hook, Some(reason));
}

/// A function of its own, as the others here, since only few packets meet it.
#[inline(never)]
fn tell_packet(work: &Work, hook: EventHook, dropped: Option<DropReason>) {
    let kind = paths::kind(work, dropped);
    let now = KernelTables.now();
    if is_admitted(kind, now) {
        write(paths::event(work, kind, dropped, hook, now));
    }
}

/// Whether somebody listens.
#[inline(always)]
pub fn are_heard() -> bool {
    maps::EVENT_CONTROL.get(0).is_some_and(|control| control.until != 0)
}

/// Tells of a call that was diverted or refused.
#[inline(never)]
pub fn tell_call<S: Socket>(socket: &S, call: &Call, verdict: &SocketVerdict) {
    let Some(kind) = event::of_call(verdict) else { return };
    if is_admitted(kind, KernelTables.now()) {
        write(event::call(&KernelTables, socket, call, verdict, kind));
    }
}

/// Whether an event may be told. That it may not is counted.
#[inline(always)]
fn is_admitted(kind: EventKind, now: u64) -> bool {
    let Some(control) = maps::EVENT_CONTROL.get(0) else { return false };
    if !event::listens(control, now) {
        return false;
    }
    let class = EventClass::of(kind);
    let Some(budget) = maps::EVENT_BUDGETS.get_ptr_mut(class as u32) else { return false };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own.
    let admission = unsafe { (*budget).admit(control, class, now) };
    if admission == Admission::Suppressed {
        count(EventLoss::of(class));
    }
    admission == Admission::Told
}

#[inline(always)]
fn write(event: Event) {
    let Some(mut entry) = maps::EVENTS.reserve::<Event>(0) else { return count(EventLoss::Ring) };
    entry.write(event);
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

#[inline(always)]
fn count(loss: EventLoss) {
    if let Some(counter) = maps::EVENT_LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: the map gave a valid pointer to this CPU's own counter.
        unsafe { *counter += 1 };
    }
}
