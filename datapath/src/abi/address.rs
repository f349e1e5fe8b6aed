//! Addresses and ports as they stand in packets and tables.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::assert_size;

/// The word that marks an IPv4 address among IPv6 ones: `::ffff:0:0/96`, RFC 4291.
const V4_MARK: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An IPv4 or IPv6 address: sixteen bytes in network order, IPv4 as `::ffff:a.b.c.d`.
///
/// Four words rather than sixteen bytes, so that the kernel compares and copies
/// them a word at a time.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// The unspecified address, `::`; no packet that we track has it.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// An IPv4 address from the word in which a header holds it (network order).
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, V4_MARK, word])
    }

    /// An IPv6 address from the words in which a header holds it (network order).
    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Which family the address is of.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        if self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_MARK { Family::V4 } else { Family::V6 }
    }

    /// The word that an IPv4 header holds; meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// Whether this is `::` or `0.0.0.0`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[3] == 0 && self.0[0] == 0 && self.0[1] == 0 && (self.0[2] == 0 || self.0[2] == V4_MARK)
    }

    /// Whether this is a group's: 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291), or
    /// 255.255.255.255, which stands for everybody on a link.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        match self.family() {
            Family::V4 => self.0[3].to_ne_bytes()[0] >> 4 == 0xe || self.0[3] == u32::MAX,
            Family::V6 => self.0[0].to_ne_bytes()[0] == 0xff,
        }
    }

    /// Whether this is an IPv6 address that means something on one link only, fe80::/10.
    #[inline(always)]
    pub const fn is_link_local_v6(&self) -> bool {
        let [a, b, ..] = self.0[0].to_ne_bytes();
        a == 0xfe && b & 0xc0 == 0x80
    }

    /// Whether this is a host's way to name itself: 127.0.0.0/8 or ::1.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        match self.family() {
            Family::V4 => self.0[3].to_ne_bytes()[0] == 127,
            Family::V6 => {
                self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == u32::from_ne_bytes([0, 0, 0, 1])
            }
        }
    }

    /// The sixteen bytes in network order.
    pub const fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let mut i = 0;
        while i < 16 {
            bytes[i] = self.0[i / 4].to_ne_bytes()[i % 4];
            i += 1;
        }
        bytes
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        let bytes = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        IpAddr::V4(ip).into()
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        IpAddr::V6(ip).into()
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        let v6 = Ipv6Addr::from(addr.bytes());
        match addr.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(addr.0[3].to_ne_bytes())),
            Family::V6 => IpAddr::V6(v6),
        }
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

/// A 16-bit number in network byte order, such as a port.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Be16(u16);

impl Be16 {
    /// Zero: no port.
    pub const ZERO: Self = Self(0);

    /// From a number in the host's byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From the two bytes as they lie in a packet, read as one integer.
    #[inline(always)]
    pub const fn from_wire(raw: u16) -> Self {
        Self(raw)
    }

    /// The two bytes as they lie in a packet, read as one integer.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// The number in the host's byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl core::fmt::Debug for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.get(), f)
    }
}

impl core::fmt::Display for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.get(), f)
    }
}

assert_size!(Addr = 16, Be16 = 2);
