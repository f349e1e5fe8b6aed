//! What a decision may ask of a packet, and do to it.
//!
//! Invariant: every access is checked; a packet that ends early yields `None` or
//! an error, never a wrong byte. Offsets count from the first byte of the IP
//! header: what link the packet came by is not known here.

pub mod announcement;
pub mod bare;
pub mod checksum;
pub mod crc32c;
pub mod headers;
pub mod icmp_error;
pub mod reject;
pub mod rewrite;

/// The packet could not be changed as asked: the kernel refused, or it ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessError;

/// An IP packet, in the kernel or in memory.
pub trait Packet {
    /// How many bytes there are, from the IP header on.
    fn available(&self) -> u32;

    /// Whether there are so many.
    #[inline(always)]
    fn has(&self, bytes: u32) -> bool {
        bytes <= self.available()
    }

    /// `N` 32-bit words from `offset`, in the byte order of the packet.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;

    /// The first `N` words where a look at them costs next to nothing; `None` says nothing
    /// of the packet.
    fn glance<const N: usize>(&self) -> Option<[u32; N]>;

    /// Writes `N` words, in the byte order of the packet.
    fn write<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), AccessError>;

    /// Adjusts the transport checksum at `offset` by `change`, as
    /// [`checksum::Change`] defines it, whether the checksum is complete or left
    /// to the network card.
    fn adjust_checksum(&mut self, offset: u32, change: u32, of: ChecksumOf) -> Result<(), AccessError>;

    /// Cuts the packet to `len` bytes.
    fn truncate(&mut self, len: u32) -> Result<(), AccessError>;

    /// Makes room for `bytes` before the IP header; offsets count from there afterwards.
    fn prepend(&mut self, bytes: u32) -> Result<(), AccessError>;

    /// Makes room for so many bytes right behind an IP header without options, or, with a
    /// negative number, takes out so many that are there. The header isn't told. After an
    /// error the packet is as it was.
    fn resize_header(&mut self, by: i32) -> Result<(), AccessError>;
}

/// Which bytes changed, and which checksum covers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumOf {
    /// The bytes are of the pseudo-header (addresses), not of the segment itself.
    pub pseudo_header: bool,
    /// UDP: a checksum of 0 means none and stays so; one that becomes 0 is written as 0xffff.
    pub zero_is_none: bool,
    /// The packet is IPv6.
    pub v6: bool,
}
