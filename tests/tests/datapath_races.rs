//! A flow that begins while the table is full, or while another CPU begins it too.

use datapath::{
    abi::*,
    memory::MemoryTables,
    paths::Verdict,
    policy::PolicyTables,
    tables::{Inserted, Tables},
};
use tests::packets::{
    build::{self, Packet},
    case::{Frame, Program},
    check, host,
    place::{FAMILIES, Place},
    world::{ServicePort, World},
};

const CLUSTER_IP: Place = Place::ClusterIp(10);
const BACKEND: Place = Place::Pod(2);
const OTHER: Place = Place::Pod(3);

/// Tables in which something happens before a flow's entry is added.
struct Crowded<F> {
    tables: MemoryTables,
    /// Called with the number of the insertion, from 1; `true`: the table is full.
    before: F,
    insertions: u32,
}

impl<F> PolicyTables for Crowded<F> {
    fn policy_peer(&self, key: &PolicyPeerKey) -> Option<u32> {
        self.tables.policy_peer(key)
    }
    fn policy_network(&self, generation: u32, addr: &Addr) -> Option<u32> {
        self.tables.policy_network(generation, addr)
    }
    fn policy_verdict(&self, key: &PolicyVerdictKey) -> Option<PolicyVerdict> {
        self.tables.policy_verdict(key)
    }
    fn policy_port(&self, key: &PolicyPortKey) -> Option<u32> {
        self.tables.policy_port(key)
    }
}

impl<F: FnMut(u32, &mut MemoryTables) -> bool> Tables for Crowded<F> {
    fn insert_flow(&mut self, key: &FlowKey, value: &FlowValue) -> Inserted {
        self.insertions += 1;
        if (self.before)(self.insertions, &mut self.tables) {
            return Inserted::Full;
        }
        self.tables.insert_flow(key, value)
    }

    fn node(&self) -> Option<&NodeConfig> {
        self.tables.node()
    }
    fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue> {
        self.tables.frontend(key)
    }
    fn block_entry(&self, index: u32) -> Option<u32> {
        self.tables.block_entry(index)
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.tables.backend(id)
    }
    fn connections(&self, id: u32) -> u32 {
        self.tables.connections(id)
    }
    fn add_connection(&mut self, id: u32) {
        self.tables.add_connection(id);
    }
    fn remove_connection(&mut self, id: u32) {
        self.tables.remove_connection(id);
    }
    fn affinity(&self, key: &AffinityKey) -> Option<&AffinityValue> {
        self.tables.affinity(key)
    }
    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        self.tables.set_affinity(key, value);
    }
    fn pod(&self, addr: &Addr) -> Option<&PodValue> {
        self.tables.pod(addr)
    }
    fn mark_nat(&mut self, pod: &Addr, bit: u32) {
        self.tables.mark_nat(pod, bit);
    }
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns> {
        self.tables.pod_netns(cookie)
    }
    fn network(&self, addr: &Addr) -> Option<&NetworkValue> {
        self.tables.network(addr)
    }
    fn in_source_ranges(&self, service: u32, client: &Addr) -> bool {
        self.tables.in_source_ranges(service, client)
    }
    fn node_nat(&self) -> u32 {
        self.tables.node_nat()
    }
    fn mark_node_nat(&mut self, bit: u32) {
        self.tables.mark_node_nat(bit);
    }
    fn flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        self.tables.flow(key, read)
    }
    fn begin<R>(&mut self, remember: impl FnOnce(u32, &mut FlowKey) -> R) -> Option<R> {
        self.tables.begin(remember)
    }
    fn count_unopened(&mut self) {
        self.tables.count_unopened();
    }
    fn remove_flow(&mut self, key: &FlowKey) {
        self.tables.remove_flow(key);
    }
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentValue> {
        self.tables.fragment(key)
    }
    fn set_fragment(&mut self, key: &FragmentKey, value: &FragmentValue) {
        self.tables.set_fragment(key, value);
    }
    fn socket_peer(&self, key: &SocketPeerKey) -> Option<&SocketPeerValue> {
        self.tables.socket_peer(key)
    }
    fn remove_socket_peer(&mut self, key: &SocketPeerKey) {
        self.tables.remove_socket_peer(key);
    }
    fn set_socket_peer(&mut self, key: &SocketPeerKey, value: &SocketPeerValue) {
        self.tables.set_socket_peer(key, value);
    }
    fn policy_epoch(&self) -> u32 {
        self.tables.policy_epoch()
    }
    fn count_service(&mut self, service: u32) {
        self.tables.count_service(service);
    }
    fn count_denial(&mut self, denial: &PolicyDenial) {
        self.tables.count_denial(denial);
    }
    fn policy_flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut PolicyFlow) -> R) -> Option<R> {
        self.tables.policy_flow(key, read)
    }
    fn set_policy_flow(&mut self, key: &FlowKey, value: &PolicyFlow) {
        self.tables.set_policy_flow(key, value);
    }
    fn now(&self) -> u64 {
        self.tables.now()
    }
    fn random(&mut self) -> u32 {
        self.tables.random()
    }
}

fn service() -> ServicePort {
    ServicePort { ip: CLUSTER_IP, port: 80, protocol: protocol::UDP }
}

fn world(backend: Place) -> World {
    World::new().with(service(), &[(backend, 8080)])
}

fn datagram(family: Family) -> Packet {
    build::udp(Place::Pod(1).at(family, 4000), CLUSTER_IP.at(family, 80))
}

/// Judges the client's first packet.
fn dial(
    family: Family,
    tables: MemoryTables,
    before: impl FnMut(u32, &mut MemoryTables) -> bool,
) -> (Verdict, Vec<u8>, MemoryTables) {
    let mut crowded = Crowded { tables, before, insertions: 0 };
    let (verdict, packet) = host::judge(Program::FromPod, &mut crowded, &Frame::from(&datagram(family)));
    (verdict, packet, crowded.tables)
}

#[test]
fn a_full_table_drops_and_keeps_no_half_of_a_flow() {
    for family in FAMILIES {
        for full_at in [1, 2] {
            let (verdict, _, after) = dial(family, world(BACKEND).tables, |insertion, _| insertion == full_at);
            assert_eq!(verdict, Verdict::Drop(DropReason::FlowTableFull), "entry {full_at}, {family:?}");
            assert!(after.flows.is_empty(), "entry {full_at}, {family:?}: {:?}", after.flows);
        }
    }
}

/// Two packets of a client are judged at once: the flow that is complete first stands, wherever it
/// leads, and at whatever moment the other CPU was faster.
#[test]
fn the_flow_that_is_there_first_stands() {
    for family in FAMILIES {
        for (theirs, before_entry) in [(BACKEND, 1), (BACKEND, 2), (OTHER, 2)] {
            let mut world = world(BACKEND);
            let ours = world.tables.clone();
            world.set_block(service(), &[(theirs, 8080)]);
            let (_, _, other_cpu) = dial(family, world.tables.clone(), |_, _| false);
            // Both blocks' backends are known to both.
            let ours = MemoryTables { backends: world.tables.backends.clone(), ..ours };
            let (verdict, packet, after) = dial(family, ours, |insertion, tables| {
                if insertion == before_entry {
                    tables.flows.extend(&other_cpu.flows);
                }
                false
            });
            let what = format!("{theirs:?}, before entry {before_entry}, {family:?}");
            let sent = datagram(family);
            let expected = sent.between(sent.src, theirs.at(family, 8080));
            assert_eq!(packet, expected.bytes(), "{what}: the packet follows the flow that stands");
            let pod = after.pods[&theirs.addr(family)];
            assert!(matches!(verdict, Verdict::ToPod(to) if to.ifindex == pod.ifindex), "{what}: {verdict:?}");
            assert_eq!(after.flows.len(), 2, "{what}: one flow is left: {:?}", after.flows);
            check::mirrored(&after).unwrap();
        }
    }
}
