//! A packet's way out of the node: by the node's own routes, or by the overlay.

use core::mem::{size_of, zeroed};

use aya_ebpf::{
    bindings::{
        BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, bpf_fib_lookup, bpf_redir_neigh, bpf_tunnel_key,
    },
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_skb_set_tunnel_key,
    },
};
use datapath::{
    abi::{Addr, Family, OVERLAY_VNI},
    packet::headers::Headers,
    paths::Trouble,
};

use crate::{maps, skb::Skb};

/// `linux/socket.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `BPF_FIB_LOOKUP_SKIP_NEIGH` of Linux 6.5: who has the next hop's address is asked when
/// the packet is sent.
const SKIP_NEIGH: u32 = 1 << 2;

/// Hops of the packets that carry others over the overlay.
const OVERLAY_HOPS: u8 = 64;

/// Sends a packet by the node's routes; what is to be returned from the program.
#[inline(always)]
pub fn forward(skb: &mut Skb, headers: &Headers) -> Result<i32, Trouble> {
    // SAFETY: a struct of integers, of which all zero is one.
    let mut route: bpf_fib_lookup = unsafe { zeroed() };
    route.ifindex = skb.ifindex();
    route.l4_protocol = headers.protocol;
    route.sport = headers.src_port.wire();
    route.dport = headers.dst_port.wire();
    // A length that doesn't fit is longer than every MTU.
    route.__bindgen_anon_1.tot_len = skb.longest_packet(headers).min(0xffff) as u16;
    match headers.family {
        Family::V4 => {
            route.family = AF_INET;
            route.__bindgen_anon_3.ipv4_src = headers.src.v4_word();
            route.__bindgen_anon_4.ipv4_dst = headers.dst.v4_word();
        }
        Family::V6 => {
            route.family = AF_INET6;
            route.__bindgen_anon_3.ipv6_src = headers.src.0;
            route.__bindgen_anon_4.ipv6_dst = headers.dst.0;
        }
    }
    // SAFETY: the helper reads and fills the struct, whose size it is told.
    let answer =
        unsafe { fib_lookup(skb.context().cast(), &mut route, size_of::<bpf_fib_lookup>() as i32, SKIP_NEIGH) };
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

/// Sends a packet into the overlay's device, where [`tunnel`] is met.
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
