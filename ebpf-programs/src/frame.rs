//! `Packet` over a frame that has no socket buffer yet, for XDP programs.
//!
//! Bytes are read and written where they lie: the verifier follows each access
//! to its bounds. Beyond the first part of a frame in several parts nothing is
//! reached, so no header may lie there. Checksums are taken for finished; whoever
//! asks for changes has made sure that they are.

use core::mem::size_of;

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_get_buff_len};
use datapath::{
    abi::Family,
    packet::{AccessError, ChecksumOf, Packet, checksum},
};

use crate::words;

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();

/// No header begins later in a frame; the verifier wants a bound.
const MAX_OFFSET: u32 = 0x0fff;

/// A frame with an IP packet in it.
pub struct Frame(*mut xdp_md);

impl Frame {
    /// The frame, and its family if it carries IP. With a VLAN's tag it carries that.
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> (Self, Option<Family>) {
        let frame = Self(ctx);
        // SAFETY: the pointer is to two bytes of the frame, and a frame's first byte is at an even address.
        let ethertype = frame.at(12, 2).map(|at| unsafe { at.cast::<u16>().read_volatile() });
        let family = match ethertype {
            Some(ETHERTYPE_IPV4) => Some(Family::V4),
            Some(ETHERTYPE_IPV6) => Some(Family::V6),
            _ => None,
        };
        (frame, family)
    }

    /// The interface that the frame came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// The context, for helpers.
    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.0
    }

    /// Whether the frame is addressed to this MAC address.
    #[inline(always)]
    pub fn is_for(&self, mac: [u8; 6]) -> bool {
        let [a, b, c, d, e, f] = mac;
        let Some(at) = self.at(0, 6) else { return false };
        let at = at.cast::<u16>();
        [[a, b], [c, d], [e, f]].into_iter().enumerate().all(|(i, half)| {
            // SAFETY: the pointer is to six bytes of the frame, which begins at an even address.
            let found = unsafe { at.add(i).read_volatile() };
            found == u16::from_ne_bytes(half)
        })
    }

    /// Addresses the frame to a neighbour.
    #[inline(always)]
    pub fn address(&mut self, to: [u8; 6], from: [u8; 6]) -> Result<(), AccessError> {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (to, from);
        let halves = [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]].map(u16::from_ne_bytes);
        let at = self.at(0, 12).ok_or(AccessError)?.cast::<u16>();
        for (i, half) in halves.into_iter().enumerate() {
            // SAFETY: the pointer is to twelve bytes of the frame, which begins at an even address.
            unsafe { at.add(i).write_volatile(half) };
        }
        Ok(())
    }

    /// A pointer to `bytes` bytes from `offset` of the frame.
    #[inline(always)]
    fn at(&self, offset: u32, bytes: usize) -> Option<*mut u8> {
        if offset > MAX_OFFSET {
            return None;
        }
        // Read anew each time and where it is used: the verifier knows a pointer into
        // the frame only as long as it isn't passed on as the number that it is here.
        // SAFETY: the context is valid for the program's run.
        let begin = unsafe { (&raw const (*self.0).data).read_volatile() } as usize;
        // SAFETY: as above.
        let end = unsafe { (&raw const (*self.0).data_end).read_volatile() } as usize;
        let at = begin + offset as usize;
        (at + bytes <= end).then_some(at as *mut u8)
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn available(&self) -> u32 {
        // SAFETY: the helper only reads the context, which is valid for the program's run.
        let len = unsafe { bpf_xdp_get_buff_len(self.0) };
        (len as u32).saturating_sub(ETHERNET)
    }

    /// Of a frame in one part that needs no question.
    #[inline(always)]
    fn has(&self, bytes: u32) -> bool {
        // SAFETY: the context is valid for the program's run.
        let begin = unsafe { (&raw const (*self.0).data).read_volatile() };
        // SAFETY: as above.
        let end = unsafe { (&raw const (*self.0).data_end).read_volatile() };
        let first_part = u64::from(end).wrapping_sub(u64::from(begin));
        u64::from(bytes) + u64::from(ETHERNET) <= first_part || bytes <= self.available()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let at = self.at(ETHERNET + offset, size_of::<[u32; N]>())?;
        let mut read = [0; N];
        for (i, word) in read.iter_mut().enumerate() {
            // SAFETY: the pointer is to N words of the frame.
            *word = unsafe { words::load(at.add(4 * i)) };
        }
        Some(read)
    }

    #[inline(always)]
    fn glance<const N: usize>(&self) -> Option<[u32; N]> {
        self.read(0)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), AccessError> {
        let at = self.at(ETHERNET + offset, size_of::<[u32; N]>()).ok_or(AccessError)?;
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: the pointer is to N words of the frame.
            unsafe { words::store(at.add(4 * i), word) };
        }
        Ok(())
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, offset: u32, change: u32, of: ChecksumOf) -> Result<(), AccessError> {
        let at = self.at(ETHERNET + offset, 2).ok_or(AccessError)?.cast::<u16>();
        // SAFETY: the pointer is to two bytes of the frame, at an even offset from its even address.
        let found = unsafe { at.read_volatile() };
        if found == 0 && of.zero_is_none {
            return Ok(());
        }
        let sum = match checksum::update(found, change) {
            0 if of.zero_is_none => 0xffff,
            sum => sum,
        };
        // SAFETY: as above.
        unsafe { at.write_volatile(sum) };
        Ok(())
    }

    /// Never: what needs it is left to tc.
    #[inline(always)]
    fn truncate(&mut self, _: u32) -> Result<(), AccessError> {
        Err(AccessError)
    }

    /// Never: what needs it is left to tc.
    #[inline(always)]
    fn prepend(&mut self, _: u32) -> Result<(), AccessError> {
        Err(AccessError)
    }

    /// Never: what needs it is left to tc.
    #[inline(always)]
    fn resize_header(&mut self, _: i32) -> Result<(), AccessError> {
        Err(AccessError)
    }
}
