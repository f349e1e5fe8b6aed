//! The XDP program: packets of Services from outside, before the kernel makes a
//! socket buffer of them.
//!
//! What it does not take on goes on to tc untouched, where `from_network` runs the
//! same decisions. So everything here may give up, and nothing is dropped.

use core::mem::{size_of, zeroed};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
        xdp_action::{XDP_PASS, XDP_TX},
        xdp_md,
    },
    helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect},
    macros::xdp,
    programs::XdpContext,
};
use datapath::{
    abi::{Family, UplinkValue},
    packet::{headers::Headers, rewrite::Ends},
    paths::wire::{self, Taken},
};

use crate::{frame::Frame, maps, tables::KernelTables};

/// From `linux/socket.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Ingress of an uplink, in the driver.
#[xdp(frags)]
pub fn from_wire(ctx: XdpContext) -> u32 {
    let (mut frame, family) = Frame::new(ctx.ctx);
    let Some(family) = family else { return XDP_PASS };
    if !wire::concerns(&frame, family, &KernelTables) {
        return XDP_PASS;
    }
    let mut way = Way::of(&frame);
    if way.came_by_uplink().is_some_and(|uplink| !frame.is_for(uplink.mac)) {
        return XDP_PASS;
    }
    let Some(work) = maps::WORK.get_ptr_mut(0) else { return XDP_PASS };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own, which no
    // other program run uses before this one has ended. All zero, as the kernel
    // made it, is a valid `Work`.
    let work = unsafe { &mut *work };
    let taken =
        wire::from_wire(&mut frame, family, work, &mut KernelTables, |headers, ends| way.find(ctx.ctx, headers, ends));
    match taken {
        Taken::Untouched | Taken::In => XDP_PASS,
        Taken::Out => way.send(&mut frame),
    }
}

/// A frame's way out of the node.
struct Way {
    came_by: u32,
    route: bpf_fib_lookup,
}

impl Way {
    /// Of a frame, not found yet.
    #[inline(always)]
    fn of(frame: &Frame) -> Self {
        // SAFETY: a struct of integers, of which all zero is one.
        Self { came_by: frame.ifindex(), route: unsafe { zeroed() } }
    }

    /// The uplink that it came by; a test run's frame comes by none.
    #[inline(always)]
    fn came_by_uplink(&self) -> Option<&'static UplinkValue> {
        uplink(self.came_by)
    }

    /// Whether the node's routes and neighbours know a way, by an interface that
    /// sends what XDP gives it.
    #[inline(always)]
    fn find(&mut self, ctx: *mut xdp_md, headers: &Headers, ends: &Ends) -> bool {
        let route = &mut self.route;
        route.ifindex = self.came_by;
        route.l4_protocol = headers.protocol;
        route.sport = ends.src_port.wire();
        route.dport = ends.dst_port.wire();
        // A length that doesn't fit is longer than every MTU.
        route.__bindgen_anon_1.tot_len = headers.total_len.min(0xffff) as u16;
        match headers.family {
            Family::V4 => {
                route.family = AF_INET;
                route.__bindgen_anon_3.ipv4_src = ends.src.v4_word();
                route.__bindgen_anon_4.ipv4_dst = ends.dst.v4_word();
            }
            Family::V6 => {
                route.family = AF_INET6;
                route.__bindgen_anon_3.ipv6_src = ends.src.0;
                route.__bindgen_anon_4.ipv6_dst = ends.dst.0;
            }
        }
        // SAFETY: the helper reads and fills the struct, whose size it is told.
        let answer = unsafe { fib_lookup(ctx.cast(), route, size_of::<bpf_fib_lookup>() as i32, 0) };
        if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
            return false;
        }
        let way = if route.ifindex == self.came_by { UplinkValue::SENDS_BACK } else { UplinkValue::SENDS };
        uplink(route.ifindex).is_some_and(|uplink| uplink.flags & way != 0)
    }

    /// Sends the frame by the way that was found.
    #[inline(always)]
    fn send(&self, frame: &mut Frame) -> u32 {
        if frame.address(self.route.dmac, self.route.smac).is_err() {
            // It has been read up to here, so it is that long.
            return XDP_PASS;
        }
        if self.route.ifindex == self.came_by {
            return XDP_TX;
        }
        // SAFETY: the helper only notes the interface for when the program has ended.
        unsafe { bpf_redirect(self.route.ifindex, 0) as u32 }
    }
}

#[inline(always)]
fn uplink(ifindex: u32) -> Option<&'static UplinkValue> {
    // SAFETY: such a map's elements stay until this program run ends.
    unsafe { maps::UPLINKS.get(&ifindex) }
}
