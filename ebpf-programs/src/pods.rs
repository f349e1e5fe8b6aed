//! A change of a pod's entry that the agent asks for, made where the entry stands.
//!
//! Invariant: what other programs note in the entry meanwhile stays. This module must not
//! know what flags and policies mean, but that 0 is none.

use aya_ebpf::{macros::classifier, programs::TcContext};
use datapath::{
    abi::{Addr, PodChange},
    packet::Packet,
    track,
};

use crate::{maps, skb::Skb, tables::KernelTables};

/// No packet's way: the agent runs it on a frame that holds a [`PodChange`].
#[classifier]
pub fn change_pod(ctx: TcContext) -> i32 {
    let (frame, _) = Skb::new(ctx.skb.skb);
    let Some([a, b, c, d, ifindex, flags, _, mac_begin, mac_end, policy_set]) = frame.read::<10>(0) else {
        return PodChange::NO_POD as i32;
    };
    let Some(pod) = maps::PODS.get_ptr_mut(Addr([a, b, c, d])) else { return PodChange::NO_POD as i32 };
    // SAFETY: the map gave a valid pointer; nobody writes to these fields of an entry that is there.
    let (index, [p, q, r, s, t, u]) = unsafe { ((*pod).ifindex, (*pod).mac) };
    let mac = [u32::from_ne_bytes([p, q, r, s]), u32::from_ne_bytes([t, u, 0, 0])];
    if index != ifindex || mac != [mac_begin, mac_end] {
        return PodChange::NO_POD as i32;
    }
    // SAFETY: as above; each is an aligned word, which others read as a whole.
    unsafe {
        // Before the policies, which ask for it.
        if (*pod).policy_set == 0 && policy_set != 0 {
            (&raw mut (*pod).judged_since).write_volatile(track::seconds(&KernelTables));
        }
        (&raw mut (*pod).flags).write_volatile(flags);
        (&raw mut (*pod).policy_set).write_volatile(policy_set);
    }
    PodChange::WRITTEN as i32
}
