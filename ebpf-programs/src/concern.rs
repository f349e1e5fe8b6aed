//! Whether packets to an address may be any of ours, remembered: to look it up costs half of
//! what a packet costs that is none.
//!
//! Invariant: what is answered here, the table has said within [`HOLDS`]. Nobody may rely on
//! an answer for more than to leave a packet to tc or to look closer.

use datapath::{abi::Addr, paths::wire};

use crate::{clock, maps, tables::KernelTables};

/// How long an answer holds, in ticks of the kernel.
const HOLDS: u64 = 16;

/// What the table said of an address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Concern {
    addr: Addr,
    /// The tick until which this holds.
    until: u64,
    concerns: u64,
}

impl Concern {
    /// How many addresses' answers are kept on each CPU.
    pub const SLOTS: u32 = 64;
}

/// Whether a packet to this address may be any of ours.
#[inline(always)]
pub fn is_ours(dst: &Addr) -> bool {
    let Some(slot) = maps::CONCERNS.get_ptr_mut(maps::slot(dst.0[3] ^ dst.0[2], Concern::SLOTS)) else {
        return wire::concerns(dst, &KernelTables);
    };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own, which no other
    // program run uses before this one has ended. All zero is a valid value.
    let known = unsafe { &mut *slot };
    let tick = clock::tick();
    if known.until <= tick || known.addr != *dst {
        *known = Concern { addr: *dst, until: tick + HOLDS, concerns: u64::from(wire::concerns(dst, &KernelTables)) };
    }
    known.concerns != 0
}
