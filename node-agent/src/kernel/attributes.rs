//! Netlink attributes as bytes, for families that no crate of ours speaks.
//!
//! Invariant: whatever bytes there are, they are read as far as they make sense. This
//! module must not know what the attributes mean.

/// Bits of an attribute's kind that say how its value is written, `linux/netlink.h`.
const FLAGS: u16 = 0xc000;

/// An attribute, padded.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes in `bytes`, by kind.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(rest.get(..2)?)?));
        let kind = u16::from_ne_bytes(number(rest.get(2..4)?)?) & !FLAGS;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first of this kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The bytes of a number, if there are so many.
pub fn number<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let inner = [attribute(1, b"mgmt\0"), attribute(2, &7u32.to_ne_bytes())].concat();
        let bytes = [attribute(7 | 0x8000, &attribute(1, &inner)), attribute(3, &5u64.to_ne_bytes())].concat();
        assert_eq!(find(&bytes, 3), Some(&5u64.to_ne_bytes()[..]));
        let group = attributes(find(&bytes, 7).unwrap()).next().unwrap().1;
        assert_eq!((find(group, 1), find(group, 2)), (Some(&b"mgmt\0"[..]), Some(&7u32.to_ne_bytes()[..])));
        assert_eq!(find(&bytes, 9), None);
        for end in 0..bytes.len() {
            // Cut short anywhere, it is read as far as it goes.
            attributes(&bytes[..end]).for_each(drop);
        }
    }
}
