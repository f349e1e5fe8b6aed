//! Full tables: what finds no room is named, all else goes on, and room that comes
//! is used.

use node_agent::plan::{Capacities, ServicePlan};

use crate::{
    cluster::{compiled, endpoint, service, slice},
    tables::MemoryTables,
};

const ROOM: Capacities = Capacities { frontends: 20, backends: 20, blocks: 20, source_ranges: 20 };

/// Services of one address, one port and so many endpoints each.
fn check(capacities: Capacities, endpoints: [u8; 3], served: [Option<usize>; 3], problem: &str) {
    let mut tables = MemoryTables::new(capacities);
    let mut plan = ServicePlan::new(capacities);
    let set = |plan: &mut ServicePlan, i: usize, number: u8| {
        let object = service(&format!("s{i}"), &[&format!("172.30.0.{i}")], &[80]);
        let hosts = (1..=number).map(|host| endpoint(&format!("10.0.{i}.{host}"))).collect();
        let slices = [slice("slice", "web", &[("80", 80)], hosts)];
        plan.set_service(&object.key, Some(compiled(&object, &slices)));
    };
    let count = |tables: &MemoryTables, i: usize| {
        let key = tables.frontends.iter().find(|(key, _)| key.addr.bytes()[15] == i as u8 && key.port.get() == 80);
        key.map(|(_, value)| tables.endpoints(value.internal).count())
    };
    for (i, number) in endpoints.into_iter().enumerate() {
        set(&mut plan, i, number);
        assert!(!plan.apply(&mut tables).retry);
    }
    assert_eq!([0, 1, 2].map(|i| count(&tables, i)), served);
    let problems = plan.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].subject, "Service default/s2");
    assert!(problems[0].message.contains(problem), "{problems:?}");

    // The tables are full, and a change still gets through.
    set(&mut plan, 1, endpoints[1] - 1);
    while plan.apply(&mut tables).retry {}
    assert_eq!(count(&tables, 1), Some(endpoints[1] as usize - 1));

    plan.set_service(&service("s0", &[], &[]).key, None);
    while plan.apply(&mut tables).retry {}
    assert_eq!(count(&tables, 2), Some(endpoints[2] as usize));
    assert_eq!(plan.problems(), vec![]);
}

#[test]
fn frontends() {
    // Each Service takes two: its port and its whole address.
    check(Capacities { frontends: 4, ..ROOM }, [1, 1, 1], [Some(1), Some(1), None], "table of frontends is full");
}

#[test]
fn backends() {
    check(Capacities { backends: 9, ..ROOM }, [3, 3, 3], [Some(3), Some(3), Some(2)], "1 endpoints of port 80");
}

#[test]
fn blocks() {
    check(Capacities { blocks: 11, ..ROOM }, [3, 3, 6], [Some(3), Some(3), Some(3)], "3 endpoints of port 80");
}
