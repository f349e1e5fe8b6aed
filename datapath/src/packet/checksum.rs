//! The Internet checksum, RFC 1071, and its incremental update, RFC 1624.
//!
//! Sums are over 16-bit words as they lie in memory; one's complement addition
//! doesn't care about byte order as long as all of it is the same.

use super::headers::Headers;
use crate::abi::Family;

/// Folds a sum to 16 bits, with the carries added back.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Adds a 32-bit word to a sum of 16-bit words, with the carry added back.
#[inline(always)]
pub const fn add(sum: u32, word: u32) -> u32 {
    let (sum, carry) = sum.overflowing_add(word);
    sum.wrapping_add(carry as u32)
}

/// The change from some words to others, gathered word by word.
///
/// `checksum + change` (in one's complement) is what RFC 1624 calls the
/// difference `~m + m'`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change(u32);

impl Change {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// Notes that a 32-bit word changed.
    #[inline(always)]
    pub const fn word(self, from: u32, to: u32) -> Self {
        Self(add(add(self.0, !from), to))
    }

    /// Notes that an address changed.
    #[inline(always)]
    pub fn words<const N: usize>(mut self, from: [u32; N], to: [u32; N]) -> Self {
        for i in 0..N {
            self = self.word(from[i], to[i]);
        }
        self
    }

    /// The difference as one sum.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        self.0
    }
}

/// A finished checksum after `change`, RFC 1624 equation 3.
#[inline(always)]
pub const fn update(checksum: u16, change: u32) -> u16 {
    !fold(add(change, !checksum as u32))
}

/// The sum over the pseudo-header of a segment of so many bytes, sent between the
/// packet's ends in either direction: the order of addresses doesn't matter to it.
#[inline(always)]
pub fn pseudo_header(headers: &Headers, segment: u32, protocol: u8) -> u32 {
    let mut sum = add(segment.to_be(), u32::from(protocol).to_be());
    match headers.family {
        Family::V4 => {
            sum = add(add(sum, headers.src.v4_word()), headers.dst.v4_word());
        }
        Family::V6 => {
            for i in 0..4 {
                sum = add(add(sum, headers.src.0[i]), headers.dst.0[i]);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(words: &[u32]) -> u16 {
        !fold(words.iter().fold(0, |sum, w| add(sum, (w & 0xffff) + (w >> 16))))
    }

    proptest! {
        #[test]
        fn updating_equals_computing_anew(mut words in proptest::collection::vec(any::<u32>(), 2..20), at in any::<prop::sample::Index>(), to in any::<u32>()) {
            words[0] |= 1; // all-zero data has two checksums, 0 and 0xffff
            let before = whole(&words);
            let at = 1 + at.index(words.len() - 1);
            let change = Change::NONE.word(words[at], to);
            words[at] = to;
            prop_assert_eq!(update(before, change.sum()), whole(&words));
        }
    }
}
