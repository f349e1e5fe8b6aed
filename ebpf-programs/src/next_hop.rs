//! A frame's way out of the node: who gets it next.
//!
//! The node's routes and neighbours know. Asking them costs more than all else that is
//! done with a packet, so an answer holds for a moment, for packets of the same flow.
//! Invariant: what is answered here, the kernel has answered within [`HOLDS`].

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup};
use datapath::{
    abi::Addr,
    packet::{
        headers::{Headers, join_ports},
        rewrite::Ends,
    },
    tables::Tables,
};

use crate::{fib::Question, frame::Frame, maps, tables::KernelTables};

/// How long an answer holds, in nanoseconds.
const HOLDS: u64 = 100_000_000;

/// Who gets a flow's packets next.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NextHop {
    src: Addr,
    dst: Addr,
    ports: u32,
    protocol: u32,
    came_by: u32,
    /// The longest packet that the way is known to take.
    longest: u32,
    /// Monotonic nanoseconds until which this holds.
    until: u64,
    /// The interface by which they go.
    pub ifindex: u32,
    /// The next hop's MAC address.
    pub to: [u8; 6],
    /// The interface's own.
    pub from: [u8; 6],
}

impl NextHop {
    /// How many flows' answers are kept on each CPU.
    pub const SLOTS: u32 = 1024;

    /// Who gets the frame next once its packet has these ends; `None`: the kernel knows
    /// no way, or no neighbour.
    #[inline(always)]
    pub fn find(frame: &Frame, headers: &Headers, ends: &Ends) -> Option<&'static Self> {
        let ports = join_ports(ends.src_port, ends.dst_port);
        let mixed = ends.dst.0[3] ^ ends.src.0[3].rotate_left(16) ^ ports;
        let slot = maps::NEXT_HOPS.get_ptr_mut(maps::slot(mixed, Self::SLOTS))?;
        // SAFETY: the map gave a valid pointer to memory of this CPU's own, which no other
        // program run uses before this one has ended. All zero is a valid value.
        let known = unsafe { &mut *slot };
        let now = KernelTables.now();
        let same = known.until > now
            && known.longest >= headers.total_len
            && known.ports == ports
            && known.protocol == u32::from(headers.protocol)
            && known.came_by == frame.ifindex()
            && known.dst == ends.dst
            && known.src == ends.src;
        if !same {
            known.until = 0;
            let route = ask(frame, headers, ends)?;
            *known = Self {
                src: ends.src,
                dst: ends.dst,
                ports,
                protocol: u32::from(headers.protocol),
                came_by: frame.ifindex(),
                longest: headers.total_len,
                until: now + HOLDS,
                ifindex: route.ifindex,
                to: route.dmac,
                from: route.smac,
            };
        }
        Some(known)
    }
}

/// Asks the node's routes and neighbours.
#[inline(always)]
fn ask(frame: &Frame, headers: &Headers, ends: &Ends) -> Option<bpf_fib_lookup> {
    let question = Question {
        ifindex: frame.ifindex(),
        family: headers.family,
        protocol: headers.protocol,
        len: headers.total_len,
        src: &ends.src,
        dst: &ends.dst,
        src_port: ends.src_port,
        dst_port: ends.dst_port,
    };
    // SAFETY: the context is valid for the program's run.
    let (answer, route) = unsafe { question.ask(frame.context().cast(), 0) };
    (answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS)).then_some(route)
}
