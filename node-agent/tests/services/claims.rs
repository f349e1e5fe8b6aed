//! Two Services that claim one address and port.

use datapath::abi::Addr;
use node_agent::{
    model::objects::Service,
    plan::{Capacities, ServicePlan},
};

use crate::{
    cluster::{addr, compiled, endpoint, service, slice},
    tables::MemoryTables,
};

const ROOM: Capacities = Capacities { frontends: 20, backends: 20, blocks: 20 };

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
