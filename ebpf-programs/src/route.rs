//! A packet's way out of the node: by the node's own routes, or by the overlay.

use core::mem::{size_of, zeroed};

use aya_ebpf::{
    bindings::{
        BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, bpf_redir_neigh, bpf_tunnel_key,
    },
    helpers::generated::{bpf_check_mtu, bpf_redirect, bpf_redirect_neigh, bpf_skb_set_tunnel_key},
};
use datapath::{
    abi::{Addr, Family, OVERLAY_VNI},
    packet::headers::Headers,
    paths::Trouble,
};

use crate::{fib::Question, maps, skb::Skb};

/// `BPF_FIB_LOOKUP_SKIP_NEIGH` of Linux 6.5: who has the next hop's address is asked when
/// the packet is sent.
const SKIP_NEIGH: u32 = 1 << 2;

/// Hops of the packets that carry others over the overlay.
const OVERLAY_HOPS: u8 = 64;

/// Sends a packet by the node's routes; what is to be returned from the program.
#[inline(always)]
pub fn forward(skb: &mut Skb, headers: &Headers) -> Result<i32, Trouble> {
    let question = Question {
        ifindex: skb.ifindex(),
        family: headers.family,
        protocol: headers.protocol,
        len: skb.longest_packet(headers),
        src: &headers.src,
        dst: &headers.dst,
        src_port: headers.src_port,
        dst_port: headers.dst_port,
    };
    // SAFETY: the context is valid for the program's run.
    let (answer, route) = unsafe { question.ask(skb.context().cast(), SKIP_NEIGH) };
    if answer == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        // SAFETY: the helper filled the field in.
        return Err(Trouble::TooBig(unsafe { route.__bindgen_anon_1.mtu_result }));
    }
    if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return Err(Trouble::NoRoute);
    }
    if maps::NODE_CONFIG.get(0).is_some_and(|node| node.overlay_ifindex == route.ifindex) {
        return Ok(into_overlay(route.ifindex));
    }
    // SAFETY: a struct of integers, of which all zero is one.
    let mut next: bpf_redir_neigh = unsafe { zeroed() };
    next.nh_family = u32::from(route.family);
    // SAFETY: whatever the family, all of the field is initialised. The next hop may be of
    // another family than the packet.
    next.__bindgen_anon_1.ipv6_nh = unsafe { route.__bindgen_anon_4.ipv6_dst };
    // SAFETY: the helper reads the struct, whose size it is told, and notes where to.
    Ok(unsafe { bpf_redirect_neigh(route.ifindex, &mut next, size_of::<bpf_redir_neigh>() as i32, 0) } as i32)
}

/// Whether an interface's MTU takes the packet, or each of its segments if it is several.
#[inline(always)]
pub fn fits(skb: &mut Skb, ifindex: u32) -> bool {
    let mut mtu = 0u32;
    let segments = u64::from(BPF_MTU_CHK_SEGS);
    // SAFETY: the helper fills the number in. What is above zero is a packet too long, what is
    // below an interface that isn't there, of which others tell.
    unsafe { bpf_check_mtu(skb.context().cast(), ifindex, &mut mtu, 0, segments) <= 0 }
}

/// Sends a packet into the overlay's device, where [`tunnel`] is met if it wasn't before.
#[inline(always)]
pub fn into_overlay(ifindex: u32) -> i32 {
    // SAFETY: the helper only notes the interface for when the program has ended.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Says to which node the overlay's device is to bring a packet.
#[inline(always)]
pub fn tunnel(skb: &mut Skb, end: Addr) -> Result<(), ()> {
    // SAFETY: a struct of integers, of which all zero is one.
    let mut key: bpf_tunnel_key = unsafe { zeroed() };
    key.tunnel_id = OVERLAY_VNI;
    key.tunnel_ttl = OVERLAY_HOPS;
    let flags = match end.family() {
        Family::V4 => {
            // The helper wants it in the host's byte order.
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be(end.v4_word());
            // The packet inside has a checksum of its own.
            u64::from(BPF_F_ZERO_CSUM_TX)
        }
        Family::V6 => {
            key.__bindgen_anon_1.remote_ipv6 = end.0;
            u64::from(BPF_F_TUNINFO_IPV6)
        }
    };
    // SAFETY: the helper reads the struct, whose size it is told.
    let status =
        unsafe { bpf_skb_set_tunnel_key(skb.context().cast(), &mut key, size_of::<bpf_tunnel_key>() as u32, flags) };
    if status == 0 { Ok(()) } else { Err(()) }
}
