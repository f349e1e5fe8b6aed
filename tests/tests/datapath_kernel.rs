//! The table of packets through the kernel programs: as on the host, byte for byte.

use tests::{
    packets::{
        cases, host,
        kernel::{Kernel, Replayed},
    },
    privilege,
};

#[test]
fn the_kernel_does_what_the_host_does() {
    if !privilege::root_or_skip("the_kernel_does_what_the_host_does") {
        return;
    }
    let mut kernel = Kernel::load().unwrap();
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
