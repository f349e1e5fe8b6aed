//! Two Services that claim one address and port.

use datapath::abi::{Addr, FrontendKey, FrontendValue};
use node_agent::{
    model::objects::{Service, ServiceType},
    plan::{Capacities, ServicePlan},
};

use crate::{
    cluster::{addr, compiled, endpoint, service, slice},
    tables::MemoryTables,
};

const ROOM: Capacities = Capacities { frontends: 20, backends: 20, blocks: 20, source_ranges: 20 };

/// Sets Services of one port each, in the order given, and says which of them has it.
/// Each has one endpoint, by which it is known.
struct Contest {
    plan: ServicePlan,
    tables: MemoryTables,
}

impl Contest {
    fn new() -> Self {
        Self { plan: ServicePlan::new(ROOM), tables: MemoryTables::new(ROOM) }
    }

    fn set(&mut self, name: &str, created: i64, host: u8) {
        let object = Service { created, ..service(name, &["172.30.0.1"], &[80]) };
        let slices = [slice(name, name, &[("80", 80)], vec![endpoint(&format!("10.0.0.{host}"))])];
        self.plan.set_service(&object.key, Some(compiled(&object, &slices)));
    }

    fn delete(&mut self, name: &str) {
        self.plan.set_service(&service(name, &[], &[]).key, None);
    }

    /// The host of the Service that has the port.
    fn winner(&mut self) -> Option<Addr> {
        let outcome = self.plan.apply(&mut self.tables);
        assert!(!outcome.retry, "{outcome:?}");
        let value = self.tables.frontends.iter().find(|(key, _)| key.port.get() == 80)?.1;
        let winner = self.tables.endpoints(value.internal).next().map(|b| b.addr);
        assert_eq!(self.tables.live_backends().len(), 1, "losers need no backends");
        winner
    }

    fn messages(&self) -> Vec<String> {
        self.plan.problems().into_iter().map(|p| format!("{}: {}", p.subject, p.message)).collect()
    }
}

fn host(number: u8) -> Option<Addr> {
    Some(addr(&format!("10.0.0.{number}")).into())
}

#[test]
fn the_older_has_it_then_the_first_by_name() {
    // (name, created) in the order in which they come; the first by rank has host 1.
    let table = [
        [("b", 5, 1), ("a", 6, 2)],
        [("a", 6, 2), ("b", 5, 1)],
        [("a", 5, 1), ("b", 5, 2)],
        [("b", 5, 2), ("a", 5, 1)],
    ];
    for services in table {
        let mut contest = Contest::new();
        for (name, created, host) in services {
            contest.set(name, created, host);
        }
        assert_eq!(contest.winner(), host(1), "{services:?}");
        let one_by_one = || {
            let mut contest = Contest::new();
            for (name, created, host) in services {
                contest.set(name, created, host);
                contest.winner();
            }
            contest.winner()
        };
        assert_eq!(one_by_one(), host(1), "{services:?}");
    }
}

#[test]
fn the_loser_is_named_and_gets_it_when_the_winner_goes() {
    let mut contest = Contest::new();
    contest.set("a", 1, 1);
    contest.set("b", 2, 2);
    contest.set("c", 3, 3);
    assert_eq!(contest.winner(), host(1));
    let [b, c] = &contest.messages()[..] else { panic!("{:?}", contest.messages()) };
    for (message, loser) in [(b, "default/b"), (c, "default/c")] {
        assert!(
            message.starts_with(&format!("Service {loser}: 172.30.0.1:80 TCP belongs to Service default/a")),
            "{message}"
        );
    }
    contest.delete("a");
    assert_eq!(contest.winner(), host(2));
    assert_eq!(contest.messages().len(), 1);
    contest.delete("c");
    assert_eq!((contest.winner(), contest.messages()), (host(2), vec![]));
}

#[test]
fn a_service_made_anew_loses_its_seniority() {
    let mut contest = Contest::new();
    contest.set("a", 1, 1);
    contest.set("b", 2, 2);
    assert_eq!(contest.winner(), host(1));
    contest.set("a", 3, 1);
    assert_eq!(contest.winner(), host(2));
}

#[test]
fn one_address_for_different_ports_is_no_conflict() {
    let mut contest = Contest::new();
    contest.set("a", 1, 1);
    let other = service("b", &["172.30.0.1"], &[81]);
    contest.plan.set_service(&other.key, Some(compiled(&other, &[])));
    assert_eq!((contest.winner(), contest.messages()), (host(1), vec![]));
    contest.delete("a");
    contest.plan.apply(&mut contest.tables);
    let ports: Vec<_> = contest.tables.frontends.keys().map(|key| key.port.get()).collect();
    assert_eq!(ports, [0, 81], "b still rejects what goes to other ports of the address");
}

#[test]
fn of_two_services_with_one_node_port_the_older_has_it_and_the_other_keeps_the_rest() {
    let mut contest = Contest::new();
    let mut set = |name: &str, created, ip: &str| {
        let mut object = Service { created, service_type: ServiceType::NodePort, ..service(name, &[ip], &[80]) };
        object.ports[0].node_port = 30080;
        contest.plan.set_service(&object.key, Some(compiled(&object, &[])));
    };
    set("b", 1, "172.30.0.2");
    set("a", 2, "172.30.0.1");
    assert!(!contest.plan.apply(&mut contest.tables).retry);
    let served = contest.tables.frontends.keys().filter(|key| key.port.get() != 0).count();
    assert_eq!(served, 3, "two ClusterIPs and one NodePort");
    let expected = "Service default/a: NodePort 30080 TCP (IPv4) belongs to Service default/b";
    assert!(contest.messages()[0].starts_with(expected), "{:?}", contest.messages());
    contest.delete("b");
    contest.plan.apply(&mut contest.tables);
    assert_eq!((contest.tables.frontends.len(), contest.messages()), (3, vec![]));
}

#[test]
fn claimants_of_a_whole_address_share_it_and_a_cluster_ip_prevails() {
    let ip = addr("192.0.2.1");
    let key = FrontendKey::whole_address(ip.into());
    let mut contest = Contest::new();
    let external = |name: &str, port| Service { external_ips: vec![ip], ..service(name, &["172.30.0.1"], &[port]) };
    let mut flags = |change: &dyn Fn(&mut ServicePlan)| {
        change(&mut contest.plan);
        assert!(!contest.plan.apply(&mut contest.tables).retry);
        assert_eq!(contest.plan.problems(), []);
        contest.tables.frontends.get(&key).map(|value| value.flags)
    };
    let set =
        |object: Service| move |plan: &mut ServicePlan| plan.set_service(&object.key, Some(compiled(&object, &[])));
    let node_ports = |on: bool| {
        move |plan: &mut ServicePlan| {
            plan.set_node_addresses(on.then_some(ip.into()).into_iter().collect());
        }
    };
    let gone = |name: &'static str| move |plan: &mut ServicePlan| plan.set_service(&service(name, &[], &[]).key, None);
    const PASS: u32 = FrontendValue::PASS_UNUSED;
    const NODE: u32 = FrontendValue::NODE_PORTS;
    assert_eq!(flags(&set(external("a", 80))), Some(PASS));
    assert_eq!(flags(&set(external("b", 81))), Some(PASS));
    assert_eq!(flags(&node_ports(true)), Some(PASS | NODE));
    assert_eq!(flags(&gone("a")), Some(PASS | NODE));
    assert_eq!(flags(&set(service("c", &["192.0.2.1"], &[82]))), Some(NODE));
    assert_eq!(flags(&node_ports(false)), Some(0));
    assert_eq!(flags(&gone("c")), Some(PASS));
    assert_eq!(flags(&gone("b")), None);
}
