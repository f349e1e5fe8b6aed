//! The table of packets through the kernel programs: as on the host, byte for byte.

use datapath::abi::{EventControl, EventKind};
use tests::{
    packets::{
        cases, host,
        kernel::{Kernel, Replayed},
    },
    privilege,
};

/// Every event is told.
const ALL: EventControl = EventControl { until: u64::MAX, per_tenth: [u32::MAX; 2] };

#[test]
fn the_kernel_does_what_the_host_does() {
    if !privilege::root_or_skip("the_kernel_does_what_the_host_does") {
        return;
    }
    let mut kernel = Kernel::load().unwrap();
    kernel.listen(&ALL).unwrap();
    let mut failed = Vec::new();
    let (mut equal, mut too_short) = (0, 0);
    for record in cases::all().iter().flat_map(|case| host::run(case).unwrap()) {
        match kernel.replay(&record) {
            Ok(Replayed::Equal) => equal += 1,
            Ok(Replayed::TooShort) => too_short += 1,
            Err(error) => failed.push(format!("{}: {error:#}", record.name)),
        }
    }
    println!("{equal} packets judged alike, {too_short} too short for the kernel's test run");
    assert!(failed.is_empty(), "{} packets were judged otherwise:\n{}", failed.len(), failed.join("\n"));
    assert!(equal > 2 * too_short, "hardly any packet was run");
}

#[test]
fn a_flood_is_told_of_as_much_as_was_asked_for_and_nothing_once_nobody_listens() {
    if !privilege::root_or_skip("a_flood_is_told_of_as_much_as_was_asked_for_and_nothing_once_nobody_listens") {
        return;
    }
    let mut kernel = Kernel::load().unwrap();
    let records: Vec<_> = cases::all().iter().flat_map(|case| host::run(case).unwrap()).collect();
    let is_drop = |record: &&host::Record| record.event.is_some_and(|event| event.kind == EventKind::Dropped as u8);
    let dropped = records.iter().find(is_drop).expect("some packet of the table is dropped");
    // Nobody listens, or not any more.
    for until in [0, 1] {
        kernel.listen(&EventControl { until, ..ALL }).unwrap();
        kernel.run_again(dropped, 100).unwrap();
        assert_eq!((kernel.events().len(), kernel.event_losses().unwrap()), (0, vec![0; 3]), "until {until}");
    }
    kernel.listen(&EventControl { per_tenth: [0, 5], ..ALL }).unwrap();
    kernel.run_again(dropped, 1000).unwrap();
    let told = kernel.events().len() as u64;
    assert!((5..=100).contains(&told), "{told} told");
    assert_eq!(kernel.event_losses().unwrap(), [0, 1000 - told, 0]);
    // The ring has an end, and what doesn't fit is counted.
    kernel.listen(&ALL).unwrap();
    kernel.run_again(dropped, 20_000).unwrap();
    let told = kernel.events().len() as u64;
    assert!((5_000..20_000).contains(&told), "{told} told");
    assert_eq!(kernel.event_losses().unwrap()[2], 20_000 - told);
}
