//! The table of packets, met by XDP first: what it takes on becomes what tc makes of
//! it, and what it leaves is as it came, by the host build and by the program.

use datapath::{memory::MemoryTables, paths::wire::Taken};
use tests::{
    packets::{
        case::{Frame, Program},
        cases, host,
        kernel::Kernel,
        wire::{self, Record},
    },
    privilege,
};

/// Every packet of the table that comes over the wire, with the tables as it finds them.
fn from_wire() -> Vec<(host::Record, Record)> {
    let records = cases::all().into_iter().flat_map(|case| host::run(&case).unwrap());
    let from_wire = records.filter(|record| record.program == Program::FromNetwork);
    from_wire
        .map(|record| {
            let met = wire::judge(&mut record.before.clone(), &record.frame, true);
            (record, met)
        })
        .collect()
}

#[test]
fn xdp_makes_of_a_packet_what_tc_makes_of_it() {
    let mut taken = 0;
    for (record, met) in from_wire() {
        let name = &record.name;
        if met.taken == Taken::Untouched {
            assert_eq!(met.packet, record.frame.packet, "{name}: left, but not as it came");
            // What XDP noted of it must not make tc decide otherwise.
            let mut after = met.after.clone();
            let (verdict, packet) = host::judge(Program::FromNetwork, &mut after, &record.frame);
            assert_eq!((verdict, &packet), (record.verdict, &record.packet), "{name}");
            assert_same(name, &after, &record.after);
            continue;
        }
        taken += 1;
        assert_eq!(met.packet, record.packet, "{name}");
        assert_same(name, &met.after, &record.after);
    }
    assert!(taken > 0, "XDP left every packet of the table");
}

#[test]
fn without_a_way_out_nothing_is_forwarded() {
    for (record, _) in from_wire() {
        let met = wire::judge(&mut record.before.clone(), &record.frame, false);
        assert_ne!(met.taken, Taken::Out, "{}", record.name);
        if met.taken == Taken::Untouched {
            let mut after = met.after.clone();
            let (verdict, packet) = host::judge(Program::FromNetwork, &mut after, &record.frame);
            assert_eq!((verdict, &packet), (record.verdict, &record.packet), "{}", record.name);
            assert_same(&record.name, &after, &record.after);
        }
    }
}

#[test]
fn the_program_does_what_the_host_does() {
    if !privilege::root_or_skip("the_program_does_what_the_host_does") {
        return;
    }
    let mut kernel = Kernel::load().unwrap();
    let node = wire::Node::new().unwrap();
    let mut failed = Vec::new();
    let mut equal = 0;
    for (record, met) in from_wire() {
        match node.replay(&mut kernel, &met) {
            Ok(()) => equal += 1,
            Err(error) => failed.push(format!("{}: {error:#}", record.name)),
        }
    }
    println!("{equal} packets judged alike");
    assert!(failed.is_empty(), "{} packets were judged otherwise:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_tagged_frame_passes_whatever_it_carries() {
    if !privilege::root_or_skip("a_tagged_frame_passes_whatever_it_carries") {
        return;
    }
    let mut kernel = Kernel::load().unwrap();
    let node = wire::Node::new().unwrap();
    for (record, met) in from_wire().into_iter().filter(|(_, met)| met.taken != Taken::Untouched) {
        let Frame { ethertype, packet } = &met.frame;
        let tag: &[u8] = &[0, 5];
        let frame = Frame { ethertype: 0x8100, packet: [tag, &ethertype.to_be_bytes(), packet].concat() };
        let tagged = wire::judge(&mut met.before.clone(), &frame, true);
        assert_eq!((tagged.taken, &tagged.packet), (Taken::Untouched, &frame.packet), "{}", record.name);
        node.replay(&mut kernel, &tagged).unwrap_or_else(|error| panic!("{}: {error:#}", record.name));
    }
}

/// Equal but for random numbers, of which another choice may have taken more.
fn assert_same(name: &str, found: &MemoryTables, expected: &MemoryTables) {
    let without_random = |tables: &MemoryTables| MemoryTables { random: 0, ..tables.clone() };
    assert_eq!(without_random(found), without_random(expected), "{name}");
}
