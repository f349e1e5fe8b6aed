//! The question to the node's routes: where a packet with certain ends goes.

use core::{
    ffi::c_void,
    mem::{size_of, zeroed},
};

use aya_ebpf::{bindings::bpf_fib_lookup, helpers::generated::bpf_fib_lookup as fib_lookup};
use datapath::abi::{Addr, Be16, Family};

/// From `linux/socket.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A packet, as far as routes go by it.
pub struct Question<'a> {
    /// The interface that it came in by.
    pub ifindex: u32,
    /// The family of its addresses.
    pub family: Family,
    /// Its transport.
    pub protocol: u8,
    /// How long it will be on the wire, or the longest of its segments.
    pub len: u32,
    /// Its source.
    pub src: &'a Addr,
    /// Its destination.
    pub dst: &'a Addr,
    /// Its source port.
    pub src_port: Be16,
    /// Its destination port.
    pub dst_port: Be16,
}

impl Question<'_> {
    /// Asks; returns what the helper said and what it filled in. `context`: the program's,
    /// a socket buffer's or a frame's.
    ///
    /// # Safety
    /// The context is valid.
    #[inline(always)]
    pub unsafe fn ask(&self, context: *mut c_void, flags: u32) -> (i64, bpf_fib_lookup) {
        // SAFETY: a struct of integers, of which all zero is one.
        let mut route: bpf_fib_lookup = unsafe { zeroed() };
        route.ifindex = self.ifindex;
        route.l4_protocol = self.protocol;
        route.sport = self.src_port.wire();
        route.dport = self.dst_port.wire();
        // A length that doesn't fit is longer than every MTU.
        route.__bindgen_anon_1.tot_len = self.len.min(0xffff) as u16;
        match self.family {
            Family::V4 => {
                route.family = AF_INET;
                route.__bindgen_anon_3.ipv4_src = self.src.v4_word();
                route.__bindgen_anon_4.ipv4_dst = self.dst.v4_word();
            }
            Family::V6 => {
                route.family = AF_INET6;
                route.__bindgen_anon_3.ipv6_src = self.src.0;
                route.__bindgen_anon_4.ipv6_dst = self.dst.0;
            }
        }
        // SAFETY: the caller vouches for the context; the helper reads and fills the struct,
        // whose size it is told.
        let answer = unsafe { fib_lookup(context, &mut route, size_of::<bpf_fib_lookup>() as i32, flags) };
        (answer, route)
    }
}
