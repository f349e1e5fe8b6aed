//! Backends are chosen evenly, by a chi-square test over random numbers that are the same each time.

use datapath::{
    abi::{Addr, Backend, Be16, BlockRef, FrontendValue, protocol},
    memory::MemoryTables,
    select::{Dial, Scope, select},
};

/// Choices for each backend, on average.
const EACH: u32 = 1000;

/// The value that chi-square exceeds once in a thousand, by Wilson and Hilferty's approximation.
fn critical(degrees: f64) -> f64 {
    const NORMAL_999: f64 = 3.0902;
    let a = 2.0 / (9.0 * degrees);
    degrees * (1.0 - a + NORMAL_999 * a.sqrt()).powi(3)
}

fn check(backends: u32, client: Option<fn(u32) -> Addr>, affinity_seconds: u32) {
    let block = BlockRef { base: 7, len: backends };
    let frontend = FrontendValue { service: 1, internal: block, affinity_seconds, ..FrontendValue::default() };
    let flags = Backend::ALIVE | Backend::IN_CLUSTER;
    let mut tables = MemoryTables {
        blocks: [vec![u32::MAX; 7], (1..=backends).collect(), vec![u32::MAX; 7]].concat(),
        backends: vec![Backend { flags, service: 1, ..Backend::default() }; backends as usize + 1],
        random: 1,
        ..MemoryTables::default()
    };
    let mut chosen = vec![0u32; backends as usize + 1];
    for number in 0..backends * EACH {
        let dial = client.map(|client| Dial {
            client: client(number),
            client_port: Be16::new(4000),
            port: Be16::new(80),
            protocol: protocol::TCP,
        });
        let backend = select(&mut tables, &frontend, Scope::Internal, dial.as_ref());
        chosen[backend.expect("the block has backends").id as usize] += 1;
    }
    let expected = f64::from(EACH);
    let chi_square: f64 = chosen[1..].iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
    let limit = critical(f64::from(backends - 1));
    assert!(chi_square < limit, "{backends} backends: chi-square is {chi_square}, its limit {limit}: {chosen:?}");
}

const SIZES: [u32; 7] = [2, 3, 5, 7, 16, 100, 250];

#[test]
fn backends_are_chosen_evenly() {
    for backends in SIZES {
        check(backends, None, 0);
        check(backends, Some(Addr::v4), 0);
    }
}

#[test]
fn clients_are_bound_evenly() {
    for backends in SIZES {
        check(backends, Some(Addr::v4), 60);
    }
}
