//! What a single change costs: which writes, in which order, and no others.

use datapath::abi::{Backend, FrontendKey, FrontendValue, SourceRangeKey};
use node_agent::{
    compile::CompiledService,
    model::objects::{Endpoint, LoadBalancerIngress, ObjectKey, Service, ServiceType, TrafficPolicy},
    plan::{Capacities, ServicePlan, ServiceTables},
};

use crate::{
    cluster::{addr, compiled, endpoint, leaving, node, service, slice},
    tables::{Fault, MemoryTables},
};

const ROOM: Capacities = Capacities { frontends: 50, backends: 5000, blocks: 10_000, source_ranges: 20 };

/// Tables that note each write.
struct Noting {
    tables: MemoryTables,
    notes: Vec<String>,
}

impl ServiceTables for Noting {
    type Error = Fault;

    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), Fault> {
        self.notes.push(format!("backend {} {:#06b}", backend.addr, backend.flags));
        self.tables.write_backend(id, backend)
    }

    fn write_block(&mut self, base: u32, ids: &[u32]) -> Result<(), Fault> {
        self.notes.push(format!("block of {}", ids.len()));
        self.tables.write_block(base, ids)
    }

    fn set_frontend(&mut self, key: &FrontendKey, value: &FrontendValue) -> Result<(), Fault> {
        self.notes.push(format!("set {}:{}", key.addr, key.port));
        self.tables.set_frontend(key, value)
    }

    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), Fault> {
        self.notes.push(format!("delete {}:{}", key.addr, key.port));
        self.tables.delete_frontend(key)
    }

    fn set_source_range(&mut self, key: &SourceRangeKey) -> Result<(), Fault> {
        self.notes.push(format!("admit {}/{}", key.addr, key.prefix_len - SourceRangeKey::SERVICE_BITS));
        self.tables.set_source_range(key)
    }

    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), Fault> {
        self.notes.push(format!("admit no more {}/{}", key.addr, key.prefix_len - SourceRangeKey::SERVICE_BITS));
        self.tables.delete_source_range(key)
    }

    fn forget_service(&mut self, service: u32) -> Result<(), Fault> {
        self.tables.forget_service(service)
    }

    fn wait_for_readers(&mut self) -> Result<(), Fault> {
        self.notes.push("wait".into());
        self.tables.wait_for_readers()
    }
}

fn web(endpoints: Vec<Endpoint>) -> (ObjectKey, CompiledService) {
    changed(endpoints, |_| ())
}

fn changed(endpoints: Vec<Endpoint>, change: impl FnOnce(&mut Service)) -> (ObjectKey, CompiledService) {
    let mut object = service("web", &["172.30.0.1"], &[80]);
    change(&mut object);
    (object.key.clone(), compiled(&object, &[slice("s1", "web", &[("80", 80)], endpoints)]))
}

/// From one state of the Service to the next, beside another that must not notice.
fn check(before: (ObjectKey, CompiledService), after: (ObjectKey, CompiledService), writes: &[&str]) {
    check_all(before, after, writes, writes.len());
}

fn check_all(before: (ObjectKey, CompiledService), after: (ObjectKey, CompiledService), notes: &[&str], writes: usize) {
    let mut noting = Noting { tables: MemoryTables::new(ROOM), notes: vec![] };
    let mut plan = ServicePlan::new(ROOM);
    let other = service("other", &["172.30.0.9"], &[80, 81]);
    let slices = [slice("s1", "other", &[("80", 80), ("81", 81)], vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")])];
    plan.set_service(&other.key, Some(compiled(&other, &slices)));
    plan.set_service(&before.0, Some(before.1));
    assert!(!plan.apply(&mut noting).retry);
    noting.notes.clear();
    plan.set_service(&after.0, Some(after.1));
    let outcome = plan.apply(&mut noting);
    assert!(!outcome.retry && outcome.written == writes, "{outcome:?}");
    assert_eq!(noting.notes, notes);
}

#[test]
fn nothing_changed() {
    let state = || web(vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")]);
    check(state(), state(), &[]);
}

#[test]
fn an_endpoint_comes() {
    check(
        web(vec![endpoint("10.0.0.1")]),
        web(vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")]),
        &["backend 10.0.0.2 0b0011", "block of 2", "set 172.30.0.1:80"],
    );
}

#[test]
fn an_endpoint_goes() {
    check(
        web(vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")]),
        web(vec![endpoint("10.0.0.2")]),
        &["block of 1", "set 172.30.0.1:80", "backend 10.0.0.1 0b0000"],
    );
}

#[test]
fn an_endpoint_that_is_not_selected_any_more_stays_alive() {
    let still_serving = vec![leaving("10.0.0.1", true), endpoint("10.0.0.2")];
    check(
        web(vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")]),
        web(still_serving),
        &["block of 1", "set 172.30.0.1:80", "backend 10.0.0.1 0b0001"],
    );
}

#[test]
fn a_backend_keeps_its_flags_until_nobody_relies_on_them() {
    let here = Endpoint { node: node().name, ..leaving("10.0.0.1", true) };
    check(
        web(vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")]),
        web(vec![here, endpoint("10.0.0.2")]),
        &["backend 10.0.0.1 0b1111", "block of 1", "set 172.30.0.1:80", "backend 10.0.0.1 0b1101"],
    );
}

#[test]
fn the_last_endpoint_goes() {
    check(web(vec![endpoint("10.0.0.1")]), web(vec![]), &["set 172.30.0.1:80", "backend 10.0.0.1 0b0000"]);
}

#[test]
fn the_policy_changes() {
    let endpoints = || vec![Endpoint { node: node().name, ..endpoint("10.0.0.1") }, endpoint("10.0.0.2")];
    let local = changed(endpoints(), |s| s.internal_policy = TrafficPolicy::Local);
    check(web(endpoints()), local.clone(), &["block of 1", "set 172.30.0.1:80"]);
    check(local, web(endpoints()), &["block of 2", "set 172.30.0.1:80"]);
}

#[test]
fn affinity_changes() {
    let endpoints = || vec![endpoint("10.0.0.1")];
    check(web(endpoints()), changed(endpoints(), |s| s.affinity_seconds = Some(9)), &["set 172.30.0.1:80"]);
}

#[test]
fn the_address_changes() {
    let endpoints = || vec![endpoint("10.0.0.1")];
    let moved = changed(endpoints(), |s| s.cluster_ips = service("", &["172.30.0.2"], &[]).cluster_ips);
    check(
        web(endpoints()),
        moved,
        &["delete 172.30.0.1:0", "delete 172.30.0.1:80", "set 172.30.0.2:80", "set 172.30.0.2:0"],
    );
}

/// As a load balancer with one address and these source ranges.
fn balanced(ranges: &[&str]) -> (ObjectKey, CompiledService) {
    changed(vec![endpoint("10.0.0.1")], |service| {
        service.service_type = ServiceType::LoadBalancer;
        service.load_balancer = vec![LoadBalancerIngress { ip: addr("203.0.113.1"), proxy: false }];
        service.source_ranges = ranges.iter().map(|range| range.parse().expect("a CIDR")).collect();
    })
}

#[test]
fn a_whole_address_comes_last_and_goes_first() {
    let to = |changes: fn(&mut Service)| changed(vec![endpoint("10.0.0.1")], changes);
    let plain = || web(vec![endpoint("10.0.0.1")]);
    let external = to(|service| service.external_ips = vec![addr("192.0.2.1")]);
    check(plain(), external.clone(), &["set 192.0.2.1:80", "set 192.0.2.1:0"]);
    check(external, plain(), &["delete 192.0.2.1:0", "delete 192.0.2.1:80"]);
    let everywhere = to(|service| {
        service.service_type = ServiceType::NodePort;
        service.ports[0].node_port = 30080;
    });
    check(plain(), everywhere.clone(), &["set 0.0.0.0:30080"]);
    check(everywhere, plain(), &["delete 0.0.0.0:30080"]);
}

#[test]
fn source_ranges_are_there_before_they_are_asked_for_and_as_long() {
    let (open, shut) = (balanced(&[]), balanced(&["198.51.100.0/24"]));
    check(open.clone(), shut.clone(), &["admit 198.51.100.0/120", "set 203.0.113.1:80"]);
    check(shut.clone(), open, &["set 203.0.113.1:80", "admit no more 198.51.100.0/120"]);
    let moved = balanced(&["198.51.100.0/25"]);
    check(shut, moved, &["admit 198.51.100.0/121", "admit no more 198.51.100.0/120"]);
}

#[test]
fn a_maglev_table_is_written_before_it_is_named() {
    let with = |algorithm: &'static str| {
        changed(vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")], move |service| {
            service.external_ips = vec![addr("192.0.2.1")];
            service.annotations = vec![("fairlead.io/load-balancer-algorithm".into(), algorithm.into())];
        })
    };
    check(with("random"), with("maglev"), &["block of 1021", "set 192.0.2.1:80"]);
    // That was so large a part of the table that its readers are waited for at once.
    check_all(with("maglev"), with("random"), &["set 192.0.2.1:80", "wait"], 1);
    check(with("random"), with("least-connections"), &["set 172.30.0.1:80", "set 192.0.2.1:80"]);
}

#[test]
fn the_nodes_addresses_cost_one_write_each() {
    let mut noting = Noting { tables: MemoryTables::new(ROOM), notes: vec![] };
    let mut plan = ServicePlan::new(ROOM);
    let addresses = |ips: &[&str]| ips.iter().map(|ip| addr(ip).into()).collect();
    for (ips, notes) in [
        (&["192.0.2.1", "192.0.2.2"][..], &["set 192.0.2.1:0", "set 192.0.2.2:0"][..]),
        (&["192.0.2.1", "192.0.2.2"], &[]),
        (&["192.0.2.2"], &["delete 192.0.2.1:0"]),
    ] {
        noting.notes.clear();
        plan.set_node_addresses(addresses(ips));
        assert!(!plan.apply(&mut noting).retry);
        assert_eq!(noting.notes, notes);
    }
}

#[test]
fn an_address_that_moves_to_another_service_is_never_without_one() {
    let mut noting = Noting { tables: MemoryTables::new(ROOM), notes: vec![] };
    let mut plan = ServicePlan::new(ROOM);
    let (key, compiled) = web(vec![endpoint("10.0.0.1")]);
    plan.set_service(&key, Some(compiled.clone()));
    plan.apply(&mut noting);
    noting.notes.clear();
    plan.set_service(&key, None);
    plan.set_service(&ObjectKey::new("default", "heir"), Some(compiled));
    plan.apply(&mut noting);
    assert_eq!(noting.notes, ["backend 10.0.0.1 0b0011", "block of 1", "set 172.30.0.1:80", "backend 10.0.0.1 0b0000"]);
}

#[test]
fn readers_are_waited_for_at_most_once_and_only_under_pressure() {
    let mut noting = Noting { tables: MemoryTables::new(ROOM), notes: vec![] };
    let mut plan = ServicePlan::new(ROOM);
    let many = |hosts: std::ops::Range<u16>| {
        web(hosts.map(|host| endpoint(&format!("10.1.{}.{}", host / 250, host % 250))).collect())
    };
    let waits = |noting: &Noting| noting.notes.iter().filter(|note| *note == "wait").count();
    let mut set = |hosts| {
        let (key, compiled) = many(hosts);
        plan.set_service(&key, Some(compiled));
        noting.notes.clear();
        plan.apply(&mut noting);
        waits(&noting)
    };
    assert_eq!(set(0..1000), 0);
    assert_eq!(set(500..1500), 1);
    assert_eq!(set(500..520), 1);
    assert_eq!(set(500..519), 0);
    noting.notes.clear();
    plan.reclaim(&mut noting).expect("no fault");
    plan.reclaim(&mut noting).expect("no fault");
    assert_eq!(waits(&noting), 1);
}
