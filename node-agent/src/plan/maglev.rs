//! Maglev: a table in which every backend stands about equally often, and which
//! changes little when a backend comes or goes.
//!
//! Each backend lists the table's places in an order of its own, which follows from
//! its address and port alone; in turn each takes the first place on its list that
//! is still free (Eisenbud et al., "Maglev", NSDI 2016, section 3.4). So every node
//! that knows the same backends computes the same table, and a client that lands on
//! another node is sent to the same backend.

use datapath::abi::{Addr, Be16};

/// Sizes of tables. Few, since all clients are shuffled where one gives way to
/// another; primes, so that every step width passes through all places.
const SIZES: [usize; 4] = [1021, 4093, 16_381, 65_521];

/// So many places a backend keep the shares of any two within a few per cent.
const PLACES_PER_BACKEND: usize = 100;

/// How many places the table of so many backends has: at least a hundred for each,
/// unless it would be too large.
pub(super) fn size(backends: usize) -> usize {
    let enough = backends.saturating_mul(PLACES_PER_BACKEND);
    SIZES.into_iter().find(|size| *size >= enough).unwrap_or(SIZES[SIZES.len() - 1])
}

/// For each place the index of a backend, which must be distinct and in the same
/// order everywhere. More backends than places: the last have none.
pub(super) fn table(backends: &[(Addr, Be16)]) -> Vec<usize> {
    if backends.is_empty() {
        return vec![];
    }
    let size = size(backends.len());
    let mut lists: Vec<List> = backends.iter().map(|(addr, port)| List::new(addr, *port, size)).collect();
    let mut places: Vec<Option<usize>> = vec![None; size];
    for turn in 0..size {
        let backend = turn % backends.len();
        let place = lists[backend].find(|place| places[*place].is_none());
        // A list names every place, and one is free in each turn.
        let Some(place) = place else { break };
        places[place] = Some(backend);
    }
    places.into_iter().flatten().collect()
}

/// A backend's places in its own order.
struct List {
    next: usize,
    step: usize,
    left: usize,
    size: usize,
}

impl List {
    fn new(addr: &Addr, port: Be16, size: usize) -> Self {
        let mut hash = mix(u64::from(port.get()));
        for half in addr.bytes().chunks_exact(8) {
            hash = mix(hash ^ half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
        let (low, high) = (hash as usize & 0xffff_ffff, (mix(hash) >> 32) as usize);
        Self { next: low % size, step: high % (size - 1) + 1, left: size, size }
    }
}

impl Iterator for List {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let place = self.next;
        self.next = (self.next + self.step) % self.size;
        Some(place)
    }
}

/// SplitMix64's finaliser: every bit of the input changes half of the output's.
fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn backends(count: usize) -> Vec<(Addr, Be16)> {
        let addr = |i: usize| Addr::from(Ipv4Addr::from(0x0a00_0000 + i as u32));
        (0..count).map(|i| (addr(i), Be16::new(8080))).collect()
    }

    #[test]
    fn every_place_is_taken_and_shares_are_nearly_equal() {
        for count in [1, 2, 3, 10, 11, 100, 655, 656, 3000] {
            let table = table(&backends(count));
            assert_eq!(table.len(), size(count));
            let mut shares = vec![0; count];
            table.iter().for_each(|backend| shares[*backend] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count} backends have from {least} to {most} places");
        }
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn sizes_are_primes_of_a_hundred_places_a_backend_until_the_largest() {
        for size in SIZES {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
        for (backends, expected) in [(0, 1021), (10, 1021), (11, 4093), (163, 16_381), (655, 65_521), (9999, 65_521)] {
            assert_eq!(size(backends), expected, "{backends}");
        }
    }

    /// What one backend's coming or going moves besides its own share, which any table
    /// must move: that is 1/n of the places, and with a plain modulo it would be nearly
    /// all of them. A backend that gets a place earlier than before pushes others from
    /// it, but only along their own lists.
    #[test]
    fn a_backend_that_goes_moves_little_else() {
        for count in [4usize, 10, 40, 150] {
            let all = backends(count);
            let before = table(&all);
            let mut moved = 0;
            let mut tables = 0;
            for gone in (0..count).step_by(count.div_ceil(12)) {
                let left: Vec<_> = (0..count).filter(|i| *i != gone).collect();
                let after = table(&left.iter().map(|i| all[*i]).collect::<Vec<_>>());
                assert_eq!(after.len(), before.len(), "the size must not change for this");
                let pairs = before.iter().zip(after.iter().map(|i| left[*i]));
                moved += pairs.filter(|(before, after)| **before != gone && **before != *after).count();
                tables += 1;
            }
            let share = moved as f64 / (tables * before.len()) as f64;
            println!("{count} backends, {} places: {:.2} % of the others' moved", before.len(), share * 100.0);
            assert!(share < 0.04, "{count} backends: {:.1} % of the others' places moved", share * 100.0);
        }
    }

    /// Nodes of different builds must agree, so a change of these numbers is a break.
    #[test]
    fn the_table_is_the_same_everywhere() {
        let v6 = (Addr::from("fd00::1".parse::<std::net::Ipv6Addr>().unwrap()), Be16::new(80));
        let table = table(&[backends(1)[0], backends(2)[1], v6]);
        let sum = table.iter().fold(0u64, |sum, backend| mix(sum ^ *backend as u64));
        assert_eq!((&table[..8], sum), (&[0, 0, 2, 0, 0, 1, 2, 2][..], 7_758_357_670_529_833_929));
    }
}
