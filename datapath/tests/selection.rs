//! Maglev and least connections: who gets whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath::{
    abi::{Backend, Be16, BlockRef, FrontendValue, protocol},
    memory::MemoryTables,
    select::{Dial, Scope, select},
    tables::Tables,
};

/// A frontend with these backends' ids in its block, and who they are by a number of their own.
fn tables(block: &[u32], backends: u32, random: u64) -> (MemoryTables, FrontendValue) {
    let backend = |id: u32| Backend {
        addr: Ipv4Addr::from(0x0a00_0000 + id).into(),
        port: Be16::new(8080),
        flags: Backend::ALIVE | Backend::IN_CLUSTER,
        service: 1,
        ..Backend::default()
    };
    let tables = MemoryTables {
        blocks: block.to_vec(),
        backends: (0..=backends).map(backend).collect(),
        random,
        ..MemoryTables::default()
    };
    let block = BlockRef { base: 0, len: block.len() as u32 };
    (tables, FrontendValue { service: 1, internal: block, external: block, ..FrontendValue::default() })
}

fn dial(client: IpAddr, client_port: u16) -> Dial {
    Dial { client: client.into(), client_port: Be16::new(client_port), port: Be16::new(80), protocol: protocol::TCP }
}

fn client(number: u32) -> IpAddr {
    Ipv4Addr::from(0xcb00_7100 + number).into()
}

fn chosen(tables: &mut MemoryTables, frontend: &FrontendValue, scope: Scope, dial: &Dial) -> u32 {
    select(tables, frontend, scope, Some(dial)).expect("there are backends").id
}

/// Another node numbers the same backends otherwise, and has seen other connections.
#[test]
fn with_maglev_every_node_chooses_alike() {
    let places: Vec<u32> = (0..1021).map(|place| place % 7 + 1).collect();
    let renumbered: Vec<u32> = places.iter().map(|id| 20 - id).collect();
    let ((mut here, mut frontend), (mut there, other)) = (tables(&places, 20, 1), tables(&renumbered, 20, 2));
    frontend.flags = FrontendValue::MAGLEV;
    let elsewhere = FrontendValue { flags: FrontendValue::MAGLEV, service: 9, ..other };
    for number in 0..1000 {
        let dial = dial(client(number % 10), 40_000 + number as u16);
        let id = chosen(&mut here, &frontend, Scope::External, &dial);
        assert_eq!(chosen(&mut there, &elsewhere, Scope::External, &dial), 20 - id, "{dial:?}");
        assert_eq!(chosen(&mut here, &frontend, Scope::External, &dial), id, "{dial:?} again");
    }
}

#[test]
fn with_maglev_each_backend_gets_its_share() {
    let places: Vec<u32> = (0..1021).map(|place| place % 8 + 1).collect();
    let clients: [fn(u32) -> IpAddr; 2] =
        [client, |number| Ipv6Addr::from((0x2001_0db8u128 << 96) + u128::from(number)).into()];
    for client in clients {
        let (mut tables, mut frontend) = tables(&places, 8, 1);
        frontend.flags = FrontendValue::MAGLEV;
        let mut counts = [0u32; 8];
        for number in 0..80_000 {
            let dial = dial(client(number / 100), 30_000 + (number % 100) as u16);
            counts[chosen(&mut tables, &frontend, Scope::External, &dial) as usize - 1] += 1;
        }
        // Six standard deviations of a binomial with 80,000 trials and a chance of an eighth.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 600), "{counts:?}");
    }
}

#[test]
fn with_maglev_and_affinity_a_clients_connections_go_together() {
    let places: Vec<u32> = (0..1021).map(|place| place % 8 + 1).collect();
    let mut seen = std::collections::HashSet::new();
    for number in 0..64 {
        // A table for each connection: nothing is remembered.
        let backend = |port| {
            let (mut tables, mut frontend) = tables(&places, 8, port);
            (frontend.flags, frontend.affinity_seconds) = (FrontendValue::MAGLEV, 10);
            chosen(&mut tables, &frontend, Scope::External, &dial(client(number), port as u16))
        };
        let first = backend(1);
        assert!((2..50).all(|port| backend(port) == first), "client {number}");
        seen.insert(first);
    }
    assert_eq!(seen.len(), 8, "clients differ");
}

#[test]
fn clients_in_the_cluster_are_not_hashed() {
    let (mut tables, mut frontend) = tables(&[1, 2, 3, 4], 4, 5);
    frontend.flags = FrontendValue::MAGLEV;
    let one = dial(client(1), 4000);
    let seen: std::collections::HashSet<u32> =
        (0..100).map(|_| chosen(&mut tables, &frontend, Scope::Internal, &one)).collect();
    assert_eq!(seen.len(), 4);
}

/// Of two the one with fewer; the same may be drawn twice.
#[test]
fn the_less_busy_of_two_serves() {
    let (mut tables, mut frontend) = tables(&[1, 2], 2, 6);
    frontend.flags = FrontendValue::LEAST_CONNECTIONS;
    tables.connections.insert(1, 100);
    let mut counts = [0u32; 2];
    for number in 0..10_000 {
        counts[chosen(&mut tables, &frontend, Scope::Internal, &dial(client(number), 4000)) as usize - 1] += 1;
    }
    // A quarter of the draws names the busy one twice.
    assert!(counts[0].abs_diff(2500) < 300, "{counts:?}");
}

#[test]
fn connections_that_stay_are_spread_evenly() {
    let block: Vec<u32> = (1..=16).collect();
    let spread = |flags| {
        let (mut tables, mut frontend) = tables(&block, 16, 7);
        frontend.flags = flags;
        for number in 0..1600 {
            let id = chosen(&mut tables, &frontend, Scope::Internal, &dial(client(number), 4000));
            tables.add_connection(id);
        }
        let counts = block.iter().map(|id| tables.connections(*id));
        counts.clone().max().unwrap() - counts.min().unwrap()
    };
    let (by_chance, least) = (spread(0), spread(FrontendValue::LEAST_CONNECTIONS));
    // The gap between two random choices is of the order of log log n, whatever the number of connections.
    assert!(least <= 6, "the busiest has {least} more than the idlest");
    assert!(by_chance > 3 * least, "by chance {by_chance}, by least connections {least}");
}

#[test]
fn an_address_without_client_is_chosen_at_random() {
    let (mut tables, mut frontend) = tables(&[1, 2], 2, 8);
    frontend.flags = FrontendValue::MAGLEV;
    let seen: std::collections::HashSet<u32> =
        (0..50).map(|_| select(&mut tables, &frontend, Scope::External, None).expect("a backend").id).collect();
    assert_eq!(seen.len(), 2);
    assert!(tables.affinity.is_empty());
}
