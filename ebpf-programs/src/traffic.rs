//! tc programs: a packet's way through the node, one for each place where it is met.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use datapath::{
    abi::{DropReason, EventHook, GATEWAY_MAC, PodValue},
    paths::{self, Verdict, Work, glance},
};

use crate::{
    events, maps, route,
    skb::Skb,
    tables::{KernelTables, count_drop},
};

/// On to the next program of the hook, and then to the stack.
const PASS: i32 = TC_ACT_UNSPEC;

/// Where a program is, by which it performs a verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    /// Ingress of a pod's veth pair.
    FromPod,
    /// The same of a pod that some policy selects.
    FromJudgedPod,
    /// The same where somebody's queueing discipline wants the packets next.
    FromShapedPod,
    /// The same while the pod is held.
    FromHeldPod,
    /// Egress of a pod's veth pair.
    ToPod,
    /// Egress of a foreign pod's interface.
    ToForeignPod,
    /// Egress of our device.
    FromHost,
    /// Egress of the loopback device.
    Loopback,
    /// Ingress of an uplink or of the overlay's device.
    FromNetwork,
    /// Egress of an uplink.
    ToNetwork,
    /// Egress of the overlay's device.
    ToOverlay,
}

impl Hook {
    /// As events name it.
    const fn of_event(self) -> EventHook {
        match self {
            Self::FromPod | Self::FromJudgedPod | Self::FromShapedPod | Self::FromHeldPod => EventHook::FromPod,
            Self::ToPod | Self::ToForeignPod => EventHook::ToPod,
            Self::FromHost => EventHook::FromHost,
            Self::Loopback => EventHook::Loopback,
            Self::FromNetwork => EventHook::FromNetwork,
            Self::ToNetwork => EventHook::ToNetwork,
            Self::ToOverlay => EventHook::ToOverlay,
        }
    }
}

/// Reads the headers, decides and performs; a glance may do. What isn't IP passes.
#[inline(always)]
fn run(ctx: &TcContext, hook: Hook, decide: impl FnOnce(&mut Skb, &mut Work)) -> i32 {
    let (mut skb, family) = Skb::new(ctx.skb.skb);
    let Some(family) = family else { return PASS };
    let Some(work) = maps::WORK.get_ptr_mut(0) else { return PASS };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own, which no
    // other program run uses before this one has ended. All zero, as the kernel
    // made it, is a valid `Work`.
    let work = unsafe { &mut *work };
    let settled = match hook {
        Hook::FromPod => glance::from_pod(&mut skb, family, work, &mut KernelTables),
        Hook::FromNetwork => glance::into_pod(&mut skb, family, work, &mut KernelTables),
        Hook::ToPod => glance::to_pod(&skb, family, work, &KernelTables),
        _ => false,
    };
    if !settled {
        match work.read(&skb, family) {
            Ok(()) => decide(&mut skb, work),
            Err(reason) => return dropped(&skb, hook.of_event(), reason),
        }
        if work.has_news() && !work.is_dropped() {
            events::tell(work, hook.of_event());
        }
    }
    let forwards = matches!(hook, Hook::FromPod | Hook::FromJudgedPod | Hook::FromNetwork);
    if forwards && verdict_of(work) == Verdict::Forward {
        let returned = forward(&mut skb, work);
        if returned != UNSENDABLE {
            return returned;
        }
    }
    let verdict = verdict_of(work);
    perform(&mut skb, hook, verdict).unwrap_or_else(|reason| dropped(&skb, hook.of_event(), reason))
}

/// What [`forward`] returns in place of an action: there is another verdict now.
const UNSENDABLE: i32 = i32::MAX;

/// Sends a packet out by the network. A function of its own, which the verifier walks
/// once and not for every way that leads here.
#[inline(never)]
fn forward(skb: &mut Skb, work: &mut Work) -> i32 {
    match route::forward(skb, &work.headers) {
        Ok(returned) => returned,
        Err(trouble) => {
            paths::unsendable(skb, work, trouble);
            UNSENDABLE
        }
    }
}

/// Reads a verdict from where it was written, instead of from registers that may not
/// all have been set.
#[inline(always)]
fn verdict_of(work: &Work) -> Verdict {
    // SAFETY: the reference is to a valid verdict.
    unsafe { (&raw const work.verdict).read_volatile() }
}

#[inline(always)]
fn perform(skb: &mut Skb, hook: Hook, verdict: Verdict) -> Result<i32, DropReason> {
    match (verdict, hook) {
        (Verdict::Pass, Hook::FromPod | Hook::FromJudgedPod) => {
            skb.forget_notes();
            Ok(PASS)
        }
        (Verdict::Pass | Verdict::Forward | Verdict::Tunnel(_), Hook::FromShapedPod) => {
            skb.forget_notes();
            Ok(PASS)
        }
        (Verdict::Pass, _) => Ok(PASS),
        // The stack's routes lead to the same place.
        (Verdict::ToPod(pod), Hook::FromShapedPod) => {
            skb.note_delivery(pod.ifindex);
            Ok(PASS)
        }
        (Verdict::ToPod(pod), Hook::FromPod | Hook::FromJudgedPod | Hook::FromNetwork) => into_pod(skb, &pod),
        (Verdict::ToPod(pod), _) => out_to_pod(skb, &pod),
        (Verdict::Answer, Hook::FromPod | Hook::FromJudgedPod | Hook::FromShapedPod) => back_to_pod(skb),
        (Verdict::Answer, Hook::FromNetwork) => back_to_network(skb),
        // Our device has no neighbours: frames on it are addressed to itself both ways.
        (Verdict::Answer | Verdict::Reroute, Hook::FromHost) => Ok(into_device(skb.ifindex())),
        (Verdict::Answer, Hook::FromHeldPod | Hook::ToPod | Hook::ToForeignPod | Hook::ToNetwork | Hook::ToOverlay) => {
            Err(DropReason::RejectFailed)
        }
        (Verdict::Answer | Verdict::Reroute, _) => reroute(skb),
        (Verdict::Tunnel(end), Hook::ToOverlay) => match (route::tunnel(skb, end), skb.address_to(GATEWAY_MAC)) {
            (Ok(()), Ok(())) => Ok(PASS),
            _ => Err(DropReason::NoTunnel),
        },
        (Verdict::Tunnel(end), _) => match maps::NODE_CONFIG.get(0) {
            // The stack's routes lead to the same place, and it tells the sender of the MTU.
            Some(node) if !route::fits(skb, node.overlay_ifindex) => Ok(PASS),
            Some(node) if route::tunnel(skb, end).is_ok() => {
                skb.note_tunnel(true);
                Ok(route::into_overlay(node.overlay_ifindex))
            }
            _ => Err(DropReason::NoTunnel),
        },
        // Said in those hooks only that have dealt with it.
        (Verdict::Forward, _) => Err(DropReason::NoRoute),
        (Verdict::Drop(reason), _) => Err(reason),
    }
}

/// Counts a drop, and tells of it. A function of its own, since the stack is small.
#[inline(never)]
fn dropped(skb: &Skb, hook: EventHook, reason: DropReason) -> i32 {
    count_drop(reason);
    events::tell_drop(skb, hook, reason);
    TC_ACT_SHOT
}

/// Straight into a pod's namespace, for programs on an interface's ingress; by way of
/// whatever shapes its traffic, if something does.
#[inline(always)]
fn into_pod(skb: &mut Skb, pod: &PodValue) -> Result<i32, DropReason> {
    if skb.address_to(pod.mac).is_err() {
        return Err(DropReason::RewriteFailed);
    }
    if pod.flags & PodValue::SHAPED != 0 {
        skb.note_delivery(pod.ifindex);
        // SAFETY: the helper only notes the interface for when the program has ended.
        return Ok(unsafe { bpf_redirect(pod.ifindex, 0) as i32 });
    }
    // SAFETY: the helper only notes the interface for when the program has ended.
    Ok(unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 })
}

/// Out of the node's end of a pod's veth pair, for programs on an interface's egress.
#[inline(always)]
fn out_to_pod(skb: &mut Skb, pod: &PodValue) -> Result<i32, DropReason> {
    if skb.address_to(pod.mac).is_err() {
        return Err(DropReason::RewriteFailed);
    }
    skb.note_delivery(pod.ifindex);
    // SAFETY: the helper only notes the interface for when the program has ended.
    Ok(unsafe { bpf_redirect(pod.ifindex, 0) as i32 })
}

/// Back to the pod that sent it.
#[inline(always)]
fn back_to_pod(skb: &mut Skb) -> Result<i32, DropReason> {
    if skb.address_back().is_err() {
        return Err(DropReason::RejectFailed);
    }
    // SAFETY: the helper only notes the interface for when the program has ended.
    Ok(unsafe { bpf_redirect_peer(skb.ifindex(), 0) as i32 })
}

/// Back to the neighbour that sent it.
#[inline(always)]
fn back_to_network(skb: &mut Skb) -> Result<i32, DropReason> {
    if skb.address_back().is_err() {
        return Err(DropReason::RejectFailed);
    }
    // SAFETY: the helper only notes the interface for when the program has ended.
    Ok(unsafe { bpf_redirect(skb.ifindex(), 0) as i32 })
}

/// Into the node's stack, by our device.
#[inline(always)]
fn reroute(skb: &mut Skb) -> Result<i32, DropReason> {
    let Some(node) = maps::NODE_CONFIG.get(0) else { return Err(DropReason::NoRoute) };
    if skb.address_to(GATEWAY_MAC).is_err() {
        return Err(DropReason::RewriteFailed);
    }
    Ok(into_device(node.host_ifindex))
}

#[inline(always)]
fn into_device(ifindex: u32) -> i32 {
    // SAFETY: the helper only notes the interface for when the program has ended.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Ingress of a pod's veth pair: what the pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromPod, |skb, work| paths::from_pod(skb, work, &mut KernelTables))
}

/// The same where somebody's queueing discipline at the interface is to have the
/// packets next: whatever is rewritten goes on by the node's stack.
#[classifier]
pub fn from_shaped_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromShapedPod, |skb, work| paths::from_shaped_pod(skb, work, &mut KernelTables))
}

/// The same of a pod that some policy selects.
#[classifier]
pub fn from_judged_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromJudgedPod, |skb, work| {
        let ifindex = skb.ifindex();
        paths::from_judged_pod(skb, work, &mut KernelTables, ifindex);
    })
}

/// The same where both is so.
#[classifier]
pub fn from_judged_shaped_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromShapedPod, |skb, work| {
        let ifindex = skb.ifindex();
        paths::from_judged_shaped_pod(skb, work, &mut KernelTables, ifindex);
    })
}

/// The same while the pod is held.
#[classifier]
pub fn from_held_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromHeldPod, |_, work| paths::from_held_pod(work, &KernelTables))
}

/// Egress of a pod's veth pair: what the node's stack sends to the pod. What another program
/// has sent there has been judged.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let (mut skb, _) = Skb::new(ctx.skb.skb);
    if skb.is_delivered() {
        skb.forget_notes();
        return PASS;
    }
    let from_node = is_from_node(&ctx);
    run(&ctx, Hook::ToPod, |skb, work| paths::to_pod(skb, work, &mut KernelTables, from_node))
}

/// Egress of the interface of a pod that another CNI plugin wired.
#[classifier]
pub fn to_foreign_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::ToForeignPod, |skb, work| paths::to_foreign_pod(skb, work, &mut KernelTables))
}

/// Whether the node itself made the packet: it came in by no interface, or by
/// our device, through which the node's own packets for Services are led.
#[inline(always)]
fn is_from_node(ctx: &TcContext) -> bool {
    let (skb, _) = Skb::new(ctx.skb.skb);
    let came_by = skb.came_by();
    came_by == 0 || maps::NODE_CONFIG.get(0).is_some_and(|node| node.host_ifindex == came_by)
}

/// Egress of our device: the node's own packets to Services.
#[classifier]
pub fn from_host(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromHost, |skb, work| paths::from_host(skb, work, &mut KernelTables))
}

/// Egress of the loopback device: what the node sends to itself.
#[classifier]
pub fn from_host_loopback(ctx: TcContext) -> i32 {
    run(&ctx, Hook::Loopback, |skb, work| paths::from_host_loopback(skb, work, &mut KernelTables))
}

/// Ingress of an uplink: what comes over the wire.
#[classifier]
pub fn from_network(ctx: TcContext) -> i32 {
    let (skb, family) = Skb::new(ctx.skb.skb);
    if skb.is_for_another() {
        return PASS;
    }
    if family.is_some_and(|family| paths::carries_overlay(&skb, family, &KernelTables)) {
        return PASS;
    }
    run(&ctx, Hook::FromNetwork, |skb, work| paths::from_network(skb, work, &mut KernelTables))
}

/// Ingress of the overlay's device: what other nodes send over it.
#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    // The frame's addresses mean nothing there: who is meant has been told by the tunnel.
    let (mut skb, _) = Skb::new(ctx.skb.skb);
    skb.take();
    run(&ctx, Hook::FromNetwork, |skb, work| paths::from_network(skb, work, &mut KernelTables))
}

/// Egress of an uplink. What the node forwards has been judged where it came in.
#[classifier]
pub fn to_network(ctx: TcContext) -> i32 {
    if !is_from_node(&ctx) || !paths::node_may_answer(&KernelTables) {
        return PASS;
    }
    run(&ctx, Hook::ToNetwork, |skb, work| paths::to_network(skb, work, &mut KernelTables))
}

/// Egress of the overlay's device.
#[classifier]
pub fn to_overlay(ctx: TcContext) -> i32 {
    let (mut skb, _) = Skb::new(ctx.skb.skb);
    if skb.has_tunnel() {
        // It was judged where it came from; the note must not travel on with it.
        skb.note_tunnel(false);
        return PASS;
    }
    let from_node = is_from_node(&ctx);
    run(&ctx, Hook::ToOverlay, |skb, work| paths::to_overlay(skb, work, &mut KernelTables, from_node))
}
