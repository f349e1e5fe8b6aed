//! `Packet` over a socket buffer, for tc programs.
//!
//! Bytes are read and written through helpers: they reach data beyond the linear
//! part, and they keep checksums right that are left to the network card.

use core::mem::{MaybeUninit, size_of};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        bpf_adj_room_mode::{BPF_ADJ_ROOM_MAC, BPF_ADJ_ROOM_NET},
    },
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use datapath::{
    abi::{Family, GATEWAY_MAC},
    packet::{
        AccessError, ChecksumOf, Packet,
        headers::{Headers, Transport},
    },
};

use crate::words;

/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;

const ETHERTYPE_IPV4: u32 = 0x0800u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86ddu16.to_be() as u32;

/// `BPF_F_IPV6` of Linux 6.16: the address change is of IPv6, whose addresses no
/// header checksum covers, so a checksum over the whole packet changes too.
const BPF_F_IPV6: u64 = 1 << 7;

/// Of a frame that is for this host, and of one that is for another, `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

/// In a packet's `tc_index`, by which it is told from one of which the overlay's device
/// has yet to be told where it goes.
const TUNNEL_SAID: u32 = 0xfa1d;

/// The same of a packet that has been judged and translated and is on its way into the pod of
/// the interface whose index's last bits these are. Nobody but programs like these can write to
/// `tc_index`, and act_ife.
const DELIVERED: u32 = 0x4000;

/// A frame with an IP packet in it.
pub struct Skb(*mut __sk_buff);

impl Skb {
    /// The frame, and its family if it carries IP.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> (Self, Option<Family>) {
        let skb = Self(skb);
        let family = skb.family();
        (skb, family)
    }

    /// The family of the IP packet in the frame, if there is one.
    #[inline(always)]
    pub fn family(&self) -> Option<Family> {
        // SAFETY: the context is valid for the program's run.
        match unsafe { (*self.0).protocol } {
            ETHERTYPE_IPV4 => Some(Family::V4),
            ETHERTYPE_IPV6 => Some(Family::V6),
            _ => None,
        }
    }

    /// The interface that the program is attached to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).ifindex }
    }

    /// The interface that the packet came in by, 0 for the node's own.
    #[inline(always)]
    pub fn came_by(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// The context, for helpers.
    #[inline(always)]
    pub fn context(&self) -> *mut __sk_buff {
        self.0
    }

    /// Whether the frame is addressed to another host, and only seen in passing.
    #[inline(always)]
    pub fn is_for_another(&self) -> bool {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).pkt_type == PACKET_OTHERHOST }
    }

    /// Takes the frame for this host's, whatever its address.
    #[inline(always)]
    pub fn take(&mut self) {
        // SAFETY: the helper only notes the type. It refuses none that a received frame has.
        unsafe { bpf_skb_change_type(self.0.cast(), PACKET_HOST) };
    }

    /// Notes that [`crate::route::tunnel`] has been said of the packet. The note is worth no
    /// more than itself: the overlay's device drops what nothing was said of.
    #[inline(always)]
    pub fn note_tunnel(&mut self, noted: bool) {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).tc_index = if noted { TUNNEL_SAID } else { 0 } };
    }

    /// Whether that is noted.
    #[inline(always)]
    pub fn has_tunnel(&self) -> bool {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).tc_index == TUNNEL_SAID }
    }

    /// Notes that nothing is left to be done before the packet enters the pod behind an interface.
    #[inline(always)]
    pub fn note_delivery(&mut self, ifindex: u32) {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).tc_index = DELIVERED | ifindex & (DELIVERED - 1) };
    }

    /// Whether that is noted of the interface that the program is attached to.
    #[inline(always)]
    pub fn is_delivered(&self) -> bool {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).tc_index == DELIVERED | (*self.0).ifindex & (DELIVERED - 1) }
    }

    /// Takes back what is noted, by whomever.
    #[inline(always)]
    pub fn forget_notes(&mut self) {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).tc_index = 0 };
    }

    /// How long a packet on the wire will be: the frame may hold several, which the card
    /// or the kernel will cut.
    #[inline(always)]
    pub fn longest_packet(&self, headers: &Headers) -> u32 {
        // SAFETY: the context is valid for the program's run.
        let segment = unsafe { (*self.0).gso_size };
        if segment == 0 {
            return headers.total_len;
        }
        let header = match headers.transport {
            Transport::Tcp(_) => {
                self.read(headers.l4 + 12).map_or(20, |[word]: [u32; 1]| (u32::from_be(word) >> 28) * 4)
            }
            _ => 8,
        };
        headers.l4 + header + segment
    }

    /// Addresses the frame to a pod, or to a device of ours, from the pods' gateway.
    #[inline(always)]
    pub fn address_to(&mut self, mac: [u8; 6]) -> Result<(), AccessError> {
        let [a, b, c, d, e, f] = mac;
        let [g, h, i, j, k, l] = GATEWAY_MAC;
        let words =
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]), u32::from_ne_bytes([i, j, k, l])];
        self.store(0, words)
    }

    /// Sends the frame back: its sender's address becomes its receiver's.
    #[inline(always)]
    pub fn address_back(&mut self) -> Result<(), AccessError> {
        let [x, y, z]: [u32; 3] = self.load(0).ok_or(AccessError)?;
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (x.to_ne_bytes(), y.to_ne_bytes(), z.to_ne_bytes());
        let words =
            [u32::from_ne_bytes([g, h, i, j]), u32::from_ne_bytes([k, l, a, b]), u32::from_ne_bytes([c, d, e, f])];
        self.store(0, words)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the helper fills all of the buffer, whose size it is told, or fails.
        let status = unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset, words.as_mut_ptr().cast(), size_of::<[u32; N]>() as u32)
        };
        // SAFETY: the helper succeeded, so the buffer is filled.
        (status == 0).then(|| unsafe { words.assume_init() })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), AccessError> {
        // SAFETY: the helper reads the buffer, whose size it is told.
        let status = unsafe {
            bpf_skb_store_bytes(self.0.cast(), offset, words.as_ptr().cast(), size_of::<[u32; N]>() as u32, 0)
        };
        checked(status)
    }
}

#[inline(always)]
fn checked(status: i64) -> Result<(), AccessError> {
    if status == 0 { Ok(()) } else { Err(AccessError) }
}

impl Packet for Skb {
    #[inline(always)]
    fn available(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).len }.saturating_sub(ETHERNET)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.load(ETHERNET + offset)
    }

    /// What lies in the linear part is read in place; headers nearly always do.
    #[inline(always)]
    fn glance<const N: usize>(&self) -> Option<[u32; N]> {
        // SAFETY: the context is valid for the program's run.
        let begin = unsafe { (&raw const (*self.0).data).read_volatile() } as usize;
        // SAFETY: as above.
        let end = unsafe { (&raw const (*self.0).data_end).read_volatile() } as usize;
        let at = begin + ETHERNET as usize;
        if at + size_of::<[u32; N]>() > end {
            return None;
        }
        let mut read = [0; N];
        for (i, word) in read.iter_mut().enumerate() {
            // SAFETY: N words from there are before the end.
            *word = unsafe { words::load((at as *const u8).add(4 * i)) };
        }
        Some(read)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), AccessError> {
        self.store(ETHERNET + offset, words)
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, offset: u32, change: u32, of: ChecksumOf) -> Result<(), AccessError> {
        let mut flags = 0;
        if of.pseudo_header {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if of.zero_is_none {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        let at = ETHERNET + offset;
        if of.v6 && of.pseudo_header {
            // SAFETY: the helper checks the offset.
            if unsafe { bpf_l4_csum_replace(self.0.cast(), at, 0, u64::from(change), flags | BPF_F_IPV6) } == 0 {
                return Ok(());
            }
            // A kernel before 6.16 refuses the flag.
        }
        // SAFETY: the helper checks the offset.
        checked(unsafe { bpf_l4_csum_replace(self.0.cast(), at, 0, u64::from(change), flags) })
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Result<(), AccessError> {
        // SAFETY: the helper checks the length.
        checked(unsafe { bpf_skb_change_tail(self.0.cast(), ETHERNET + len, 0) })
    }

    #[inline(always)]
    fn prepend(&mut self, bytes: u32) -> Result<(), AccessError> {
        // SAFETY: the helper checks the room.
        checked(unsafe { bpf_skb_adjust_room(self.0.cast(), bytes as i32, BPF_ADJ_ROOM_MAC, 0) })
    }

    #[inline(always)]
    fn resize_header(&mut self, by: i32) -> Result<(), AccessError> {
        // SAFETY: the helper checks the room.
        checked(unsafe { bpf_skb_adjust_room(self.0.cast(), by, BPF_ADJ_ROOM_NET, 0) })
    }
}
