//! The XDP program: packets of Services from outside, before the kernel makes a
//! socket buffer of them.
//!
//! What it does not take on goes on to tc untouched, where `from_network` runs the
//! same decisions. So everything here may give up, and nothing is dropped.

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_TX},
    helpers::generated::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use datapath::{
    abi::{EventHook, UplinkValue},
    paths::wire::{self, Taken},
};

use crate::{concern, events, frame::Frame, maps, next_hop::NextHop, tables::KernelTables};

/// Ingress of an uplink, in the driver. Frames may come in several parts.
#[xdp(frags)]
pub fn from_wire(ctx: XdpContext) -> u32 {
    run(&ctx)
}

/// The same where the driver can't run it. For a program that takes frames in several
/// parts the kernel copies the packet and forgets how long its Ethernet header is, so
/// that no tc program can read it any more (Linux 6.18).
#[xdp]
pub fn from_wire_generic(ctx: XdpContext) -> u32 {
    run(&ctx)
}

#[inline(always)]
fn run(ctx: &XdpContext) -> u32 {
    let (mut frame, family) = Frame::new(ctx.ctx);
    let Some(family) = family else { return XDP_PASS };
    if !wire::destination(&frame, family).is_some_and(|dst| concern::is_ours(&dst)) || is_for_another(&frame) {
        return XDP_PASS;
    }
    let Some(work) = maps::WORK.get_ptr_mut(0) else { return XDP_PASS };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own, which no
    // other program run uses before this one has ended. All zero, as the kernel
    // made it, is a valid `Work`.
    let work = unsafe { &mut *work };
    let came_by = frame.ifindex();
    let asker = Frame::new(ctx.ctx).0;
    let (mut next, mut back) = (None, false);
    let taken = wire::from_wire(&mut frame, family, work, &mut KernelTables, |headers, ends| {
        next = NextHop::find(&asker, headers, ends).filter(|next| {
            let means = means(came_by, next.ifindex);
            back = means & UplinkValue::SENDS_BACK != 0;
            means != 0
        });
        next.is_some()
    });
    if taken != Taken::Untouched && work.has_news() {
        events::tell(work, EventHook::FromWire);
    }
    match (taken, next) {
        (Taken::Out, Some(next)) => send(&mut frame, next, back),
        _ => XDP_PASS,
    }
}

/// Whether the frame is addressed to another host than this one, as a bridge floods
/// frames. That of a test run comes by no uplink.
#[inline(always)]
fn is_for_another(frame: &Frame) -> bool {
    uplink(frame.ifindex()).is_some_and(|uplink| !frame.is_for(uplink.mac))
}

/// By which means a frame that came by the one interface can be sent by the other: flags
/// of the latter.
#[inline(always)]
fn means(came_by: u32, goes_by: u32) -> u32 {
    let possible = if came_by == goes_by { !0 } else { !UplinkValue::SENDS_BACK };
    uplink(goes_by).map_or(0, |uplink| uplink.flags & possible)
}

#[inline(always)]
fn uplink(ifindex: u32) -> Option<&'static UplinkValue> {
    maps::UPLINKS.get(UplinkValue::slot(ifindex)).filter(|uplink| uplink.ifindex == ifindex)
}

/// Sends the frame to its next hop; `back`: by the means for the interface that it came by.
#[inline(always)]
fn send(frame: &mut Frame, next: &NextHop, back: bool) -> u32 {
    if frame.address(next.to, next.from).is_err() {
        // It has been read up to here, so it is that long.
        return XDP_PASS;
    }
    if back {
        return XDP_TX;
    }
    // SAFETY: the helper only notes the interface for when the program has ended.
    unsafe { bpf_redirect(next.ifindex, 0) as u32 }
}
