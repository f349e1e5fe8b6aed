//! Adoption of tables that another agent left, sound or not.

use datapath::abi::{Addr, Backend, Be16, BlockRef, FrontendKey, FrontendValue, SourceRangeKey, protocol};
use node_agent::{
    model::objects::{LoadBalancerIngress, ObjectKey, Service, ServiceType},
    plan::{Capacities, ServicePlan, ServiceTables as _},
};

use crate::{
    cluster::{addr, compiled, endpoint, service, slice},
    tables::MemoryTables,
};

const ROOM: Capacities = Capacities { frontends: 20, backends: 20, blocks: 20, source_ranges: 20 };

/// Two Services of three endpoints each, the second of them a load balancer with two source ranges.
fn set_services(plan: &mut ServicePlan) {
    for i in [1, 2] {
        let mut object = service(&format!("s{i}"), &[&format!("172.30.0.{i}")], &[80]);
        if i == 2 {
            object = Service {
                service_type: ServiceType::LoadBalancer,
                load_balancer: vec![LoadBalancerIngress { ip: addr("203.0.113.1"), proxy: false }],
                source_ranges: ["198.51.100.0/24", "192.0.2.0/24"].map(|range| range.parse().expect("a CIDR")).into(),
                ..object
            };
        }
        let hosts = (1..=3).map(|host| endpoint(&format!("10.0.{i}.{host}"))).collect();
        plan.set_service(&object.key, Some(compiled(&object, &[slice("slice", "web", &[("80", 80)], hosts)])));
    }
}

fn key(i: u8) -> FrontendKey {
    FrontendKey::new(addr(&format!("172.30.0.{i}")).into(), Be16::new(80), protocol::TCP)
}

/// Whatever is done to the tables, a new agent makes them right again, with so many writes.
fn check(corrupt: impl FnOnce(&mut MemoryTables), writes: usize) {
    let mut tables = MemoryTables::new(ROOM);
    let mut plan = ServicePlan::new(ROOM);
    set_services(&mut plan);
    plan.apply(&mut tables);
    let (view, live, usage) = (tables.view(), tables.live_backends(), plan.usage());
    let ranges = tables.source_ranges.len();

    tables.corrupt = true;
    corrupt(&mut tables);
    let mut plan = ServicePlan::new(ROOM);
    plan.adopt(tables.snapshot());
    set_services(&mut plan);
    let outcome = plan.apply(&mut tables);
    assert!(!outcome.retry, "{outcome:?}");
    plan.reclaim(&mut tables).expect("no fault");
    assert_eq!((tables.view(), tables.live_backends(), plan.usage()), (view, live, usage));
    assert_eq!(tables.source_ranges.len(), ranges);
    assert_eq!(outcome.written, writes);
}

fn value(tables: &mut MemoryTables, i: u8) -> &mut FrontendValue {
    tables.frontends.get_mut(&key(i)).expect("the frontend")
}

#[test]
fn sound_tables() {
    check(|_| (), 0);
}

#[test]
fn frontends_of_nobody() {
    let stale = FrontendKey::whole_address(Addr::from(addr("172.30.0.9")));
    let other_port = FrontendKey { port: Be16::new(81), ..key(1) };
    check(
        |tables| {
            let shared = *value(tables, 1);
            tables.frontends.extend([(stale, FrontendValue::default()), (other_port, shared)]);
        },
        2,
    );
}

#[test]
fn a_lost_frontend() {
    // The backends are there under an id that no frontend leads to: they're made anew.
    check(|tables| assert!(tables.frontends.remove(&key(1)).is_some()), 3 + 1 + 1 + 3);
}

#[test]
fn a_block_of_another_service() {
    check(
        |tables| {
            let other = value(tables, 2).internal;
            value(tables, 1).internal = other;
        },
        // One of the two has its own block still, the other gets a new one, and has two
        // frontends that are to name it.
        4,
    );
}

#[test]
fn a_block_beyond_the_table() {
    check(|tables| value(tables, 1).internal = BlockRef { base: 19, len: 2 }, 1);
    check(|tables| value(tables, 2).external = BlockRef { base: u32::MAX, len: 2 }, 1);
}

#[test]
fn ids_of_nothing_in_a_block() {
    check(
        |tables| {
            let base = value(tables, 1).internal.base as usize;
            tables.blocks[base] = 19;
        },
        2,
    );
}

#[test]
fn backends_of_nobody_and_twice() {
    check(
        |tables| {
            let base = value(tables, 1).internal.base as usize;
            let twice = tables.backends[tables.blocks[base] as usize];
            tables.backends[18] = Backend { generation: 7, ..twice };
            tables.backends[19] = Backend { service: 0, generation: 7, ..twice };
            tables.backends[17] = Backend { service: 99, generation: 7, ..twice };
        },
        3,
    );
}

#[test]
fn source_ranges_of_nobody_and_lost_ones() {
    check(
        |tables| {
            let (one, two) = (value(tables, 1).service, value(tables, 2).service);
            let some = *tables.source_ranges.first().expect("a range");
            tables.source_ranges.remove(&some);
            let others = [SourceRangeKey { service: one, ..some }, SourceRangeKey { service: 99, ..some }];
            tables.source_ranges.extend(others);
            tables.source_ranges.insert(SourceRangeKey { service: two, prefix_len: 150, ..some });
        },
        4,
    );
}

#[test]
fn a_dead_backend_in_a_block() {
    check(
        |tables| {
            let base = value(tables, 1).internal.base as usize;
            tables.backends[tables.blocks[base] as usize].flags = 0;
        },
        // It gets the same id again in a new generation, so the block is right.
        1,
    );
}

#[test]
fn what_was_counted_stays_with_its_service_port_and_is_nobody_elses() {
    // So much that nothing presses.
    let room = Capacities { backends: 2000, blocks: 2000, ..ROOM };
    let mut tables = MemoryTables::new(room);
    let mut plan = ServicePlan::new(room);
    set_services(&mut plan);
    plan.apply(&mut tables);
    let [one, two] = [1, 2].map(|i| value(&mut tables, i).service);
    assert!(tables.counted.contains(&one) && tables.counted.contains(&two));

    // The second Service goes. A program that still runs may count for it until readers are gone.
    plan.set_service(&ObjectKey::new("default", "s2"), None);
    plan.apply(&mut tables);
    assert!(tables.counted.contains(&two));

    // The agent ends before it forgets it, and another one gives out no id that has a counter.
    tables.wait_for_readers().expect("no fault");
    let mut plan = ServicePlan::new(room);
    plan.adopt(tables.snapshot());
    set_services(&mut plan);
    plan.apply(&mut tables);
    assert_eq!(value(&mut tables, 1).service, one);
    assert_ne!(value(&mut tables, 2).service, two);
    assert_eq!(plan.owner(one).map(|owner| owner.key), Some(ObjectKey::new("default", "s1")));
    assert_eq!(plan.owner(two), None);
    plan.reclaim(&mut tables).expect("no fault");
    assert_eq!((tables.counted.contains(&one), tables.counted.contains(&two)), (true, false));
}
