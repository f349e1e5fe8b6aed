//! Full tables fail safe: what was there longest makes room, what is new works.

use std::time::Duration;

use tests::{
    cluster::{Cluster, LogOnFailure, Pod},
    traffic::{Dial, Load, Style, Transport},
    wait,
};

const UDP: [(Transport, u16); 1] = [(Transport::Udp, 5353)];

#[test]
fn new_flows_work_while_the_table_is_full() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let pods = cluster.node().pods("backend", 3);
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&UDP)).collect();
    let service = cluster.service("busy").udp(53, 5353).backends(pods.iter().map(Pod::endpoint));
    cluster.apply(&service);

    let clients = cluster.node().pods("client", 4);
    let mut old = Dial::new(&clients[0], Transport::Udp, service.v4(53)).open();
    old.ask().answer();
    let loads: Vec<_> = clients
        .iter()
        .flat_map(|client| service.both(53).into_iter().map(move |address| (client, address)))
        .map(|(client, address)| Dial::new(client, Transport::Udp, address).style(Style::Fresh).load())
        .collect();
    wait::until("the flows fill their table", Duration::from_secs(120), || {
        // A flow that is in use is no candidate for eviction.
        old.ask().answer();
        let (entries, capacity) = cluster.node().fill("FLOWS");
        (entries >= capacity * 99 / 100).then_some(())
    });
    // Several times round the table's lists.
    for load in &loads {
        load.wait_for_more(20_000);
    }
    let reports: Vec<_> = loads.into_iter().map(Load::stop).collect();
    let (answered, failed) = reports.iter().fold((0, 0), |(a, f), one| (a + one.answered, f + one.failed));
    // The kernel's LRU is approximate: of flows that are used at the same time, one may be taken now and then.
    assert!(failed * 10_000 <= answered, "{failed} of {answered} requests failed: {reports:#?}");
    old.ask().answer();
}
