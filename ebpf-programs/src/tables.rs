//! `Tables` over the BPF maps.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_prandom_u32, bpf_loop},
    maps::{PerCpuHashMap, lpm_trie::Key},
};
use datapath::{
    abi::{
        Addr, AffinityKey, AffinityValue, Backend, Beginnings, DropReason, FlowKey, FlowValue, FragmentKey,
        FragmentValue, FrontendKey, FrontendValue, NetworkValue, NodeConfig, PodNetns, PodValue, PolicyDenial,
        PolicyFlow, PolicyNetworkKey, PolicyPeerKey, PolicyPortKey, PolicyVerdict, PolicyVerdictKey, SocketPeerKey,
        SocketPeerValue,
    },
    policy::PolicyTables,
    tables::{Attempt, Inserted, Tables},
};

use crate::{clock, maps};

const EEXIST: i32 = -17;
const ADDRESS_BITS: u32 = 128;
const SERVICE_BITS: u32 = 32;

/// The node's maps.
pub struct KernelTables;

/// Counts a drop.
#[inline(always)]
pub fn count_drop(reason: DropReason) {
    if let Some(counter) = maps::DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the map gave a valid pointer to this CPU's own counter.
        unsafe { *counter += 1 };
    }
}

/// Sets bits in a word in which other CPUs may be setting others.
///
/// # Safety
/// The pointer is to an aligned word of a map.
#[inline(always)]
unsafe fn set_bits(word: *mut u32, bits: u32) {
    // SAFETY: what the caller promises.
    unsafe {
        // A line that isn't written stays in every CPU's cache.
        if word.read_volatile() & bits != bits {
            asm!("lock *(u32 *)({0} + 0) |= {1}", in(reg) word, in(wreg) bits, options(nostack));
        }
    }
}

/// Adds to a backend's count, modulo 2^32.
#[inline(always)]
fn change_connections(id: u32, by: u32) {
    if let Some(count) = maps::CONNECTIONS.get_ptr_mut(id) {
        // The compiler knows no atomic operations of 32 bits for this target.
        // SAFETY: the map gave a valid pointer to an aligned word.
        unsafe { asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) count, in(wreg) by, options(nostack)) };
    }
}

/// Adds one to a counter of this CPU's own; false: there is none of this key.
#[inline(always)]
fn add_one<K>(counters: &PerCpuHashMap<K, u64>, key: &K) -> bool {
    let Some(counter) = counters.get_ptr_mut(key) else { return false };
    // SAFETY: the map gave a valid pointer to this CPU's own counter.
    unsafe { *counter += 1 };
    true
}

/// Adds the first one to a service port's counter, or to that of those without one. A function of
/// its own, since few connections meet it.
#[inline(never)]
fn first_of_service(service: u32) {
    for service in [service, 0] {
        let inserted = maps::SERVICE_CONNECTIONS.insert(service, 1, u64::from(BPF_NOEXIST));
        // Another CPU may have been first.
        if inserted.is_ok() || add_one(&maps::SERVICE_CONNECTIONS, &service) {
            return;
        }
    }
}

/// Adds one to a word to which other CPUs may be adding; what it was.
///
/// # Safety
/// The pointer is to an aligned word of a map.
#[inline(always)]
unsafe fn count_up(word: *mut u64) -> u64 {
    let mut count = 1u64;
    // SAFETY: what the caller promises.
    unsafe {
        asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) word, inout(reg) count, options(nostack));
    }
    count
}

/// Reads a hash map whose elements live until a grace period after their removal.
macro_rules! get {
    ($map:expr, $key:expr) => {
        // SAFETY: the element stays where it is until this program run ends: such
        // maps are not preallocated. Elements of LRU maps may be given to another
        // key meanwhile; the values read from these are checked against the backend
        // they name, and a wrong one costs a connection at the table's limit at most.
        unsafe { $map.get($key) }
    };
}

/// What the kernel calls over and over, until it returns other than 0.
///
/// # Safety
/// The pointer is to an attempt that nothing else uses.
unsafe extern "C" fn try_once<A: Attempt<KernelTables>>(number: u32, attempt: *mut A) -> i64 {
    // SAFETY: what the caller promises.
    let attempt = unsafe { &mut *attempt };
    i64::from(attempt.try_once(&mut KernelTables, number))
}

impl Tables for KernelTables {
    #[inline(always)]
    fn node(&self) -> Option<&NodeConfig> {
        maps::NODE_CONFIG.get(0)
    }
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue> {
        get!(maps::FRONTENDS, key)
    }
    #[inline(always)]
    fn block_entry(&self, index: u32) -> Option<u32> {
        maps::BLOCKS.get(index).copied()
    }
    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        maps::BACKENDS.get(id)
    }
    #[inline(always)]
    fn connections(&self, id: u32) -> u32 {
        // What was taken away twice, after the table had forgotten a flow, isn't a large number.
        maps::CONNECTIONS.get(id).map_or(0, |count| (*count as i32).max(0) as u32)
    }
    #[inline(always)]
    fn add_connection(&mut self, id: u32) {
        change_connections(id, 1);
    }
    #[inline(always)]
    fn remove_connection(&mut self, id: u32) {
        change_connections(id, u32::MAX);
    }
    #[inline(always)]
    fn count_service(&mut self, service: u32) {
        if !add_one(&maps::SERVICE_CONNECTIONS, &service) {
            first_of_service(service);
        }
    }
    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<&AffinityValue> {
        get!(maps::AFFINITY, key)
    }
    #[inline(always)]
    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        // An LRU map makes room; what it can't note costs the client its affinity, no more.
        let _ = maps::AFFINITY.insert(key, value, 0);
    }
    #[inline(always)]
    fn pod(&self, addr: &Addr) -> Option<&PodValue> {
        get!(maps::PODS, addr)
    }
    #[inline(always)]
    fn mark_nat(&mut self, pod: &Addr, bit: u32) {
        if let Some(pod) = maps::PODS.get_ptr_mut(pod) {
            // SAFETY: the map gave a valid pointer to an aligned word.
            unsafe { set_bits(&raw mut (*pod).nat_protocols, bit) };
        }
    }
    #[inline(always)]
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns> {
        get!(maps::POD_NETNS, &cookie)
    }
    #[inline(always)]
    fn network(&self, addr: &Addr) -> Option<&NetworkValue> {
        maps::NETWORKS.get(Key::new(ADDRESS_BITS, addr.0))
    }
    #[inline(always)]
    fn in_source_ranges(&self, service: u32, client: &Addr) -> bool {
        let [a, b, c, d] = client.0;
        maps::SOURCE_RANGES.get(Key::new(SERVICE_BITS + ADDRESS_BITS, [service, a, b, c, d])).is_some()
    }
    #[inline(always)]
    fn node_nat(&self) -> u32 {
        maps::NODE_STATE.get(0).map_or(0, |state| state.nat_protocols)
    }
    #[inline(always)]
    fn mark_node_nat(&mut self, bit: u32) {
        if let Some(state) = maps::NODE_STATE.get_ptr_mut(0) {
            // SAFETY: the map gave a valid pointer to an aligned word.
            unsafe { set_bits(&raw mut (*state).nat_protocols, bit) };
        }
    }
    #[inline(always)]
    fn flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        let flow = maps::FLOWS.get_ptr_mut(key)?;
        // SAFETY: the map gave a valid pointer. CPUs that handle packets of one
        // flow at once may lose a timestamp or a closing bit to one another.
        Some(read(unsafe { &mut *flow }))
    }
    #[inline(always)]
    fn insert_flow(&mut self, key: &FlowKey, value: &FlowValue) -> Inserted {
        match maps::FLOWS.insert(key, value, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                // A look-up marks the entry as used. Unmarked, and in a full table all of whose others
                // are, it is what the next insertion on this CPU takes: a flow's second entry its first.
                let _ = maps::FLOWS.get_ptr(key);
                Inserted::New
            }
            Err(EEXIST) => Inserted::Exists,
            Err(_) => Inserted::Full,
        }
    }
    #[inline(always)]
    fn begin<R>(&mut self, remember: impl FnOnce(u32, &mut FlowKey) -> R) -> Option<R> {
        let beginnings = maps::BEGINNINGS.get_ptr_mut(0)?;
        // SAFETY: the map gave a valid pointer to an aligned word.
        let number = unsafe { count_up(&raw mut (*beginnings).begun) } as u32;
        let place = maps::BEGUN_FLOWS.get_ptr_mut(Beginnings::slot(number))?;
        // SAFETY: the map gave a valid pointer. Another CPU has the same place only if so many
        // flows begin meanwhile as are remembered; a key of two halves names no flow.
        Some(remember(number, unsafe { &mut *place }))
    }
    #[inline(always)]
    fn count_unopened(&mut self) {
        if let Some(beginnings) = maps::BEGINNINGS.get_ptr_mut(0) {
            // SAFETY: the map gave a valid pointer to an aligned word.
            unsafe { count_up(&raw mut (*beginnings).unopened) };
        }
    }
    #[inline(always)]
    fn remove_flow(&mut self, key: &FlowKey) {
        // Gone already is as good.
        let _ = maps::FLOWS.remove(key);
    }
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentValue> {
        get!(maps::FRAGMENTS, key)
    }
    #[inline(always)]
    fn set_fragment(&mut self, key: &FragmentKey, value: &FragmentValue) {
        // What can't be noted makes the later fragments orphans, which are counted.
        let _ = maps::FRAGMENTS.insert(key, value, 0);
    }
    #[inline(always)]
    fn socket_peer(&self, key: &SocketPeerKey) -> Option<&SocketPeerValue> {
        get!(maps::SOCKET_PEERS, key)
    }
    #[inline(always)]
    fn remove_socket_peer(&mut self, key: &SocketPeerKey) {
        // Gone already is as good.
        let _ = maps::SOCKET_PEERS.remove(key);
    }
    #[inline(always)]
    fn set_socket_peer(&mut self, key: &SocketPeerKey, value: &SocketPeerValue) {
        // An LRU map makes room; what it can't note shows the backend's name instead of the Service's.
        let _ = maps::SOCKET_PEERS.insert(key, value, 0);
    }
    #[inline(always)]
    fn policy_epoch(&self) -> u32 {
        maps::POLICY_EPOCH.get(0).copied().unwrap_or(0)
    }
    #[inline(always)]
    fn policy_flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut PolicyFlow) -> R) -> Option<R> {
        let flow = maps::POLICY_FLOWS.get_ptr_mut(key)?;
        // SAFETY: the map gave a valid pointer. CPUs that handle packets of one flow at once
        // write the same, or what costs one more judgement.
        Some(read(unsafe { &mut *flow }))
    }
    #[inline(always)]
    fn set_policy_flow(&mut self, key: &FlowKey, value: &PolicyFlow) {
        // An LRU map makes room; what it can't note is judged again by its next packet.
        let _ = maps::POLICY_FLOWS.insert(key, value, 0);
    }
    #[inline(always)]
    fn count_denial(&mut self, denial: &PolicyDenial) {
        if !add_one(&maps::POLICY_DENIALS, denial) {
            // Of two CPUs that are the first the later one loses its packet here, and a full
            // table every one: drops are counted by reason in any case.
            let _ = maps::POLICY_DENIALS.insert(denial, 1, u64::from(BPF_NOEXIST));
        }
    }
    #[inline(always)]
    fn now(&self) -> u64 {
        clock::now()
    }
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: the helper takes nothing and touches no memory.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn repeat<A: Attempt<Self>>(&mut self, times: u32, attempt: &mut A) {
        let attempt: *mut A = attempt;
        // SAFETY: the kernel hands each call of the function the pointer that it is given here, while
        // nothing else is done with it.
        unsafe { bpf_loop(times, try_once::<A> as *mut c_void, attempt.cast(), 0) };
    }
}

impl PolicyTables for KernelTables {
    #[inline(always)]
    fn policy_peer(&self, key: &PolicyPeerKey) -> Option<u32> {
        get!(maps::POLICY_PEERS, key).copied()
    }
    #[inline(always)]
    fn policy_network(&self, generation: u32, addr: &Addr) -> Option<u32> {
        let [a, b, c, d] = addr.0;
        let bits = PolicyNetworkKey::GENERATION_BITS + ADDRESS_BITS;
        maps::POLICY_NETWORKS.get(Key::new(bits, [generation, a, b, c, d])).copied()
    }
    #[inline(always)]
    fn policy_verdict(&self, key: &PolicyVerdictKey) -> Option<PolicyVerdict> {
        get!(maps::POLICY_VERDICTS, key).copied()
    }
    #[inline(always)]
    fn policy_port(&self, key: &PolicyPortKey) -> Option<u32> {
        // The second word of the key as it lies in memory.
        let [a, b] = key.port.wire().to_ne_bytes();
        let second = u32::from_ne_bytes([key.protocol, key.pad, a, b]);
        maps::POLICY_PORTS.get(Key::new(key.prefix_len, [key.ports, second])).copied()
    }
}
