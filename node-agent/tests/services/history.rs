//! Random histories: whatever happened, the tables end as a fresh start would
//! leave them, and no reader ever sees half a change.

use std::collections::{BTreeMap, BTreeSet};

use datapath::abi::Addr;

use node_agent::{
    compile::{CompiledService, NodeContext, service as compile},
    model::objects::{
        Endpoint, EndpointSlice, LoadBalancerIngress, ObjectKey, Protocol, Service, ServiceType, TrafficPolicy,
    },
    plan::{Capacities, ServicePlan, ServiceTables},
};
use proptest::prelude::*;

use crate::{
    cluster::{addr, endpoint, names, node, service, slice},
    tables::MemoryTables,
};

const ROOMY: Capacities = Capacities { frontends: 200, backends: 800, blocks: 60_000, source_ranges: 100 };
const TIGHT: Capacities = Capacities { frontends: 9, backends: 9, blocks: 1040, source_ranges: 3 };

#[derive(Clone, Debug)]
enum Step {
    Set(Service, Vec<EndpointSlice>),
    /// The node's addresses that have NodePorts.
    NodePortsAt(Vec<&'static str>),
    Delete(ObjectKey),
    /// Of a hundred writes so many fail.
    Apply(u64),
    Reclaim,
    /// The agent dies after so many writes and another one starts.
    Restart(usize),
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    (0..6u8, any::<[bool; 4]>(), 0..4u8, any::<bool>()).prop_map(
        |(host, [ready, serving, terminating, here], hint, v6)| {
            let plain = endpoint(&if v6 { format!("fd00::{host}") } else { format!("10.0.0.{host}") });
            let zone_hints = names([&[][..], &["zone-a"], &["zone-b"], &["zone-a", "zone-b"]][hint as usize]);
            let here = if here { node().name } else { plain.node.clone() };
            Endpoint { ready, serving, terminating, node: here, zone_hints, ..plain }
        },
    )
}

fn any_slice(service: &'static str, name: &'static str) -> impl Strategy<Value = EndpointSlice> {
    (prop::collection::vec(any_endpoint(), 0..6), any::<bool>(), 8080..8082u16).prop_map(
        move |(endpoints, v6, port)| {
            let endpoints = endpoints.into_iter().filter(|e| e.address.is_ipv6() == v6).collect();
            slice(name, service, &[("80", port), ("81", 9090)], endpoints)
        },
    )
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What a Service says of the outside.
#[derive(Clone, Debug)]
struct Outside {
    service_type: ServiceType,
    external_ips: Vec<&'static str>,
    ingress: Vec<&'static str>,
    ranges: Vec<&'static str>,
    local: bool,
    node_port: u16,
    algorithm: &'static str,
}

impl Outside {
    fn set(&self, service: &mut Service) {
        let addresses = |ips: &[&str]| ips.iter().map(|ip| addr(ip)).collect::<Vec<_>>();
        service.service_type = self.service_type;
        service.external_ips = addresses(&self.external_ips);
        let ingress = addresses(&self.ingress).into_iter();
        service.load_balancer = ingress.map(|ip| LoadBalancerIngress { ip, proxy: false }).collect();
        service.source_ranges = self.ranges.iter().map(|range| range.parse().expect("a CIDR")).collect();
        if self.local {
            service.external_policy = TrafficPolicy::Local;
        }
        for (i, port) in service.ports.iter_mut().enumerate() {
            port.node_port = self.node_port + i as u16;
        }
        service.annotations = vec![("fairlead.io/load-balancer-algorithm".into(), self.algorithm.into())];
    }
}

fn any_outside() -> impl Strategy<Value = Outside> {
    let types = [ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer, ServiceType::LoadBalancer];
    // Some are of both kinds, the node's own, or a ClusterIP of others.
    let external_ips = vec!["192.0.2.1", "203.0.113.1", "172.30.0.2", "2001:db8::1"];
    let ranges = vec!["203.0.113.0/24", "192.0.2.0/24", "198.51.100.0/25", "2001:db8::/32"];
    let node_ports = prop::sample::select(vec![0u16, 30000, 30001]);
    let algorithms = prop::sample::select(vec!["random", "random", "maglev", "least-connections", "best"]);
    let lists = (
        prop::sample::subsequence(external_ips, 0..=2),
        prop::sample::subsequence(vec!["203.0.113.1", "203.0.113.2"], 0..=2),
        prop::sample::subsequence(ranges, 0..=3),
    );
    let types = prop::sample::select(types.to_vec());
    (types, lists, any::<bool>(), node_ports, algorithms).prop_map(
        |(service_type, (external_ips, ingress, ranges), local, node_port, algorithm)| Outside {
            service_type,
            external_ips,
            ingress,
            ranges,
            local,
            node_port,
            algorithm,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let name = prop::sample::select(&NAMES[..]);
    let ips = prop::sample::subsequence(vec!["172.30.0.1", "172.30.0.2", "fd30::1"], 0..=3);
    let ports = prop::sample::subsequence(vec![80u16, 81, 82], 0..=3);
    let fields = (0..3i64, any::<bool>(), any::<bool>(), prop::option::of(1..3u32));
    let set = (name, ips, ports, fields, any_outside()).prop_flat_map(|(name, ips, ports, fields, outside)| {
        let (created, local, udp, affinity) = fields;
        let mut object = service(name, &ips, &ports);
        object.created = created;
        object.affinity_seconds = affinity;
        if local {
            object.internal_policy = TrafficPolicy::Local;
        }
        if udp && let Some(port) = object.ports.last_mut() {
            port.protocol = Protocol::Udp;
        }
        outside.set(&mut object);
        (any_slice(name, "s1"), any_slice(name, "s2")).prop_map(move |(a, b)| Step::Set(object.clone(), vec![a, b]))
    });
    prop_oneof![
        6 => set,
        1 => prop::sample::select(&NAMES[..]).prop_map(|name| Step::Delete(ObjectKey::new("default", name))),
        1 => prop::sample::subsequence(vec!["192.0.2.1", "192.0.2.2", "2001:db8::1"], 0..=3).prop_map(Step::NodePortsAt),
        4 => prop::sample::select(vec![0u64, 0, 20, 70]).prop_map(Step::Apply),
        1 => Just(Step::Reclaim),
        1 => (0..30usize).prop_map(Step::Restart),
    ]
}

type Wanted = BTreeMap<ObjectKey, CompiledService>;

struct World {
    plan: ServicePlan,
    tables: MemoryTables,
    wanted: Wanted,
    node_ports: BTreeSet<Addr>,
    capacities: Capacities,
}

impl World {
    fn new(capacities: Capacities) -> Self {
        let (plan, tables) = (ServicePlan::new(capacities), MemoryTables::new(capacities));
        Self { plan, tables, wanted: Wanted::new(), node_ports: BTreeSet::new(), capacities }
    }

    fn take(&mut self, step: Step, node: &NodeContext) {
        match step {
            Step::Set(object, slices) => {
                let compiled = compile(&object, &mut slices.iter(), node);
                self.plan.set_service(&object.key, Some(compiled.clone()));
                self.wanted.insert(object.key, compiled);
            }
            Step::NodePortsAt(addresses) => {
                self.node_ports = addresses.into_iter().map(|ip| addr(ip).into()).collect();
                self.plan.set_node_addresses(self.node_ports.clone());
            }
            Step::Delete(key) => {
                self.plan.set_service(&key, None);
                self.wanted.remove(&key);
            }
            Step::Apply(fault_rate) => {
                self.tables.fault_rate = fault_rate;
                self.tables.watch();
                let outcome = self.plan.apply(&mut self.tables);
                assert_eq!(outcome.failed > 0, outcome.error.is_some());
                assert!(fault_rate > 0 || outcome.failed == 0, "{outcome:?}");
                if fault_rate == 0 {
                    self.tables.assert_changed_at_once();
                }
                self.tables.fault_rate = 0;
            }
            Step::Reclaim => self.plan.reclaim(&mut self.tables).expect("no fault"),
            Step::Restart(after) => {
                self.tables.dies_after = Some(self.tables.writes + after);
                self.plan.apply(&mut self.tables);
                self.tables.dies_after = None;
                self.restart();
            }
        }
    }

    fn restart(&mut self) {
        self.tables.wait_for_readers().expect("no fault");
        self.plan = ServicePlan::new(self.capacities);
        self.plan.adopt(self.tables.snapshot());
        self.plan.set_node_addresses(self.node_ports.clone());
        for (key, compiled) in &self.wanted {
            self.plan.set_service(key, Some(compiled.clone()));
        }
    }

    /// Applies without faults until there's nothing left to do.
    fn settle(&mut self) {
        for _ in 0..10 {
            let retry = self.plan.apply(&mut self.tables).retry;
            self.plan.reclaim(&mut self.tables).expect("no fault");
            if !retry && !self.plan.apply(&mut self.tables).retry {
                return;
            }
        }
        panic!("never done");
    }

    /// One to which nothing else ever happened.
    fn fresh(&self, capacities: Capacities) -> Self {
        let mut world = Self::new(capacities);
        for (key, compiled) in self.wanted.iter().rev() {
            world.plan.set_service(key, Some(compiled.clone()));
        }
        world.plan.set_node_addresses(self.node_ports.clone());
        world.settle();
        world
    }

    /// Nothing to write, as it is and after a restart.
    fn assert_at_rest(&mut self) {
        let before = self.tables.writes;
        for (key, compiled) in &self.wanted {
            self.plan.set_service(key, Some(compiled.clone()));
        }
        assert_eq!(self.plan.apply(&mut self.tables).written, 0);
        assert_eq!(self.tables.writes, before);
        let usage = self.plan.usage();
        self.restart();
        assert_eq!(self.plan.apply(&mut self.tables).written, 0, "after a restart");
        assert_eq!(self.plan.usage(), usage);
    }
}

proptest! {
    #[test]
    fn the_end_depends_on_the_present_only(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut world = World::new(ROOMY);
        for step in steps {
            world.take(step, &node());
        }
        world.settle();
        let fresh = world.fresh(ROOMY);
        prop_assert_eq!(world.tables.view(), fresh.tables.view());
        prop_assert_eq!(world.tables.live_backends(), fresh.tables.live_backends());
        prop_assert_eq!(&world.tables.source_ranges.len(), &fresh.tables.source_ranges.len());
        prop_assert_eq!(world.plan.usage(), fresh.plan.usage());
        prop_assert_eq!(world.plan.no_local_endpoints(), fresh.plan.no_local_endpoints());
        prop_assert_eq!(world.plan.problems(), fresh.plan.problems());
        for service in &world.tables.counted {
            prop_assert!(world.plan.owner(*service).is_some(), "{} is counted for nobody", service);
        }
        world.assert_at_rest();
    }

    /// Who is refused may depend on who came first, but readers see nothing of it,
    /// nothing leaks, and room that comes is used.
    #[test]
    fn full_tables_do_no_harm(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut world = World::new(TIGHT);
        for step in steps {
            world.take(step, &node());
        }
        world.settle();
        let roomy = world.fresh(ROOMY);
        let (view, complete) = (world.tables.view(), roomy.tables.view());
        prop_assert!(view.keys().all(|key| complete.contains_key(key)));
        if world.plan.problems() == roomy.plan.problems() {
            prop_assert_eq!(view, complete);
        } else {
            for (key, view) in view {
                let inside = |part: &[_], whole: &[_]| part.iter().all(|e| whole.contains(e));
                prop_assert!(inside(&view.internal, &complete[&key].internal));
                prop_assert!(inside(&view.external, &complete[&key].external));
            }
        }
        for key in std::mem::take(&mut world.wanted).into_keys() {
            world.plan.set_service(&key, None);
        }
        world.plan.set_node_addresses(BTreeSet::new());
        world.settle();
        prop_assert_eq!(world.plan.problems(), vec![]);
        prop_assert_eq!(world.plan.usage(), Default::default());
        prop_assert!(world.tables.frontends.is_empty() && world.tables.live_backends().is_empty());
        prop_assert!(world.tables.source_ranges.is_empty() && world.tables.counted.is_empty());
        prop_assert_eq!(world.plan.no_local_endpoints(), Default::default());
    }
}
