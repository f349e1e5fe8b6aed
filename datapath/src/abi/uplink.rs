//! Interfaces to the world, as XDP sees them.

use super::assert_size;

/// What XDP may do with an uplink; the entry is found by [`UplinkValue::slot`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct UplinkValue {
    /// The interface's index; 0: the slot is free.
    pub ifindex: u32,
    /// Bits below.
    pub flags: u32,
    /// The interface's MAC address: frames to others, as a bridge floods them, are not
    /// for us.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

impl UplinkValue {
    /// Frames that came in by it can be sent back by `XDP_TX`.
    pub const SENDS_BACK: u32 = 1 << 0;
    /// Frames that came in by any interface, this one too, can be redirected to it.
    pub const SENDS: u32 = 1 << 1;

    /// How many slots there are.
    pub const SLOTS: u32 = 64;

    /// An interface's slot. Of two uplinks with the same one only one can have XDP.
    #[inline(always)]
    pub const fn slot(ifindex: u32) -> u32 {
        ifindex % Self::SLOTS
    }
}

assert_size!(UplinkValue = 16);
