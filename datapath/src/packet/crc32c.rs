//! SCTP's checksum, CRC32c (RFC 9260 appendix A), updated without reading the packet.
//!
//! A CRC is linear: the CRC of a changed packet is the old one xor the CRC of
//! the difference. The difference of rewritten ports is four bytes followed by
//! zeros, and n zero bytes multiply a CRC by x^(8n) modulo the polynomial,
//! which takes log n steps.

/// CRC32c's polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The longest SCTP packet, in bits of its length.
const LENGTH_BITS: usize = 16;

/// `x^(8 * 2^k)` modulo the polynomial, for each k.
const ZEROS: [u32; LENGTH_BITS] = {
    let mut table = [0; LENGTH_BITS];
    // x^8: in reversed bits, x^0 is the top bit.
    table[0] = 0x8000_0000 >> 8;
    let mut k = 1;
    while k < LENGTH_BITS {
        table[k] = multiply(table[k - 1], table[k - 1]);
        k += 1;
    }
    table
};

/// The product of two polynomials modulo CRC32c's, bits reversed.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut i = 0;
    while i < 32 {
        if a & (0x8000_0000 >> i) != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ (POLYNOMIAL & (0u32.wrapping_sub(b & 1)));
        i += 1;
    }
    product
}

/// The change of an SCTP packet's checksum when its first word (the ports)
/// changes by `difference` (old xor new, as they lie in the packet) and `rest`
/// bytes follow that word. Xor it to the checksum as it lies in the packet.
#[inline(always)]
pub fn ports_change(difference: u32, rest: u32) -> u32 {
    // The CRC register after four message bytes m, started at zero, is m * x^32.
    let mut crc = u32::from_le(difference);
    let bytes = rest + 4;
    let mut k = 0;
    while k < LENGTH_BITS {
        if bytes & (1 << k) != 0 {
            crc = multiply(crc, ZEROS[k]);
        }
        k += 1;
    }
    crc.to_le()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Bit by bit, straight from the definition.
    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn the_oracle_knows_the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn updating_equals_computing_anew(mut packet in proptest::collection::vec(any::<u8>(), 12..2000), ports in any::<[u8; 4]>()) {
            packet[8..12].fill(0);
            let before = crc32c(&packet);
            let old: [u8; 4] = packet[..4].try_into().unwrap();
            packet[..4].copy_from_slice(&ports);
            let difference = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(ports);
            let change = ports_change(difference, packet.len() as u32 - 4);
            let after: Vec<u8> = (before.to_le() ^ change).to_ne_bytes().to_vec();
            prop_assert_eq!(after, crc32c(&packet).to_le_bytes().to_vec());
        }
    }
}
