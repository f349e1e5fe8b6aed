//! tc programs: a packet's way through the node, one for each place where it is met.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use datapath::{
    abi::{DropReason, PodValue},
    paths::{self, Verdict, Work},
};

use crate::{
    maps,
    skb::Skb,
    tables::{KernelTables, count_drop},
};

/// On to the next program of the hook, and then to the stack.
const PASS: i32 = TC_ACT_UNSPEC;

/// Reads the headers, decides and performs. What isn't IP passes.
#[inline(always)]
fn run(
    ctx: &TcContext,
    decide: impl FnOnce(&mut Skb, &mut Work) -> Verdict,
    deliver: impl FnOnce(&mut Skb, &PodValue) -> i32,
    answer: impl FnOnce(&mut Skb) -> i32,
) -> i32 {
    let (mut skb, family) = Skb::new(ctx.skb.skb);
    let Some(family) = family else { return PASS };
    let Some(work) = maps::WORK.get_ptr_mut(0) else { return PASS };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own, which no
    // other program run uses before this one has ended. All zero, as the kernel
    // made it, is a valid `Work`.
    let work = unsafe { &mut *work };
    let verdict = match work.read(&skb, family) {
        Ok(()) => decide(&mut skb, work),
        Err(reason) => Verdict::Drop(reason),
    };
    match verdict {
        Verdict::Pass => PASS,
        Verdict::ToPod(pod) => deliver(&mut skb, &pod),
        Verdict::Answer => answer(&mut skb),
        // SAFETY: the helper only notes the interface for when the program has ended.
        Verdict::Reroute => unsafe { bpf_redirect(skb.ifindex(), u64::from(BPF_F_INGRESS)) as i32 },
        Verdict::Drop(reason) => dropped(reason),
    }
}

#[inline(always)]
fn dropped(reason: DropReason) -> i32 {
    count_drop(reason);
    TC_ACT_SHOT
}

/// Straight into a pod's namespace, for programs on an interface's ingress.
#[inline(always)]
fn into_pod(skb: &mut Skb, pod: &PodValue) -> i32 {
    if skb.address_to(pod.mac).is_err() {
        return dropped(DropReason::RewriteFailed);
    }
    // SAFETY: the helper only notes the interface for when the program has ended.
    unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 }
}

/// Back to the pod that sent it.
#[inline(always)]
fn back_to_pod(skb: &mut Skb) -> i32 {
    if skb.address_back().is_err() {
        return dropped(DropReason::RejectFailed);
    }
    // SAFETY: the helper only notes the interface for when the program has ended.
    unsafe { bpf_redirect_peer(skb.ifindex(), 0) as i32 }
}

/// Ingress of a pod's veth pair: what the pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, |skb, work| paths::from_pod(skb, work, &mut KernelTables), into_pod, back_to_pod)
}

/// The same while the pod is held.
#[classifier]
pub fn from_held_pod(ctx: TcContext) -> i32 {
    run(&ctx, |_, work| paths::from_held_pod(work, &KernelTables), into_pod, back_to_pod)
}

/// Egress of a pod's veth pair: what the node's stack sends to the pod.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let from_node = is_from_node(&ctx);
    run(
        &ctx,
        |skb, work| paths::to_pod(skb, work, &mut KernelTables, from_node),
        |_, _| PASS,
        |_| dropped(DropReason::RejectFailed),
    )
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
    run(
        &ctx,
        |skb, work| paths::from_host(skb, work, &mut KernelTables),
        |skb, pod| {
            if skb.address_to(pod.mac).is_err() {
                return dropped(DropReason::RewriteFailed);
            }
            // SAFETY: the helper only notes the interface for when the program has ended.
            unsafe { bpf_redirect(pod.ifindex, 0) as i32 }
        },
        // The device has no neighbours: frames on it are addressed to itself both ways.
        // SAFETY: the helper only notes the interface for when the program has ended.
        |skb| unsafe { bpf_redirect(skb.ifindex(), u64::from(BPF_F_INGRESS)) as i32 },
    )
}

/// Ingress of an uplink: what comes over the wire.
#[classifier]
pub fn from_network(ctx: TcContext) -> i32 {
    run(
        &ctx,
        |skb, work| paths::from_network(skb, work, &mut KernelTables),
        into_pod,
        |_| dropped(DropReason::RejectFailed),
    )
}
