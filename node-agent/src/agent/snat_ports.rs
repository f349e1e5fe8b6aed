//! Which ports masquerading may use: those that no socket of the node's own gets
//! by chance and no NodePort has, nor the overlay.
//!
//! This module must not know how ports are taken or given back.

use std::ops::RangeInclusive;

use datapath::abi::OVERLAY_PORT;

/// What comes to it is the overlay's.
const OVERLAY: RangeInclusive<u16> = OVERLAY_PORT..=OVERLAY_PORT;
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Services of the node listen below; `sysctl net.ipv4.ip_unprivileged_port_start`.
const FIRST: u16 = 1024;
/// Fewer than this run out in no time.
const ENOUGH: u16 = 1024;

/// The ports above those for outgoing connections (`net.ipv4.ip_local_port_range`),
/// or if these are too few, the longest run of others. None: nothing worth having is left.
pub fn choose(local: RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let mut taken = [OVERLAY, NODE_PORTS, local];
    taken.sort_by_key(|range| *range.start());
    let mut free = Vec::new();
    let mut next = Some(FIRST);
    for range in taken {
        match next {
            Some(first) if first < *range.start() => free.push(first..=*range.start() - 1),
            _ => {}
        }
        // After the last port there is none.
        next = next.and_then(|first| Some(first.max(range.end().checked_add(1)?)));
    }
    free.extend(next.map(|first| first..=u16::MAX));
    free.retain(|range| range.end() - range.start() >= ENOUGH - 1);
    let last = free.iter().find(|range| *range.end() == u16::MAX).cloned();
    last.or_else(|| free.into_iter().max_by_key(|range| range.end() - range.start()))
}

/// Reads what the sysctl says: two numbers and white space.
pub fn parse_local_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (local, expected) in [
            ("32768\t60999", Some(61_000..=65_535)),
            ("1024\t65535", None),
            ("1025 65535", None),
            ("15000 65535", Some(1_024..=8_471)),
            ("32768 65535", Some(8_473..=29_999)),
            ("10000 64000", Some(64_001..=65_535)),
            ("10000 65000", Some(1_024..=8_471)),
            ("1024 2000", Some(32_768..=65_535)),
            ("31000 40000", Some(40_001..=65_535)),
        ] {
            assert_eq!(choose(parse_local_range(local).unwrap()), expected, "{local}");
        }
        assert_eq!(parse_local_range("a b"), None);
        assert_eq!(parse_local_range("1"), None);
    }
}
