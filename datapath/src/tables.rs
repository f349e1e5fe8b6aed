//! What a decision may look up and note down.
//!
//! Invariant: a look-up never blocks and never fails; what isn't there is
//! `None`. In the kernel these are BPF maps shared by all CPUs, so what one call
//! said may be out of date at the next: decisions must bear that.

use crate::abi::{
    Addr, AffinityKey, AffinityValue, Backend, FlowKey, FlowValue, FragmentKey, FragmentValue, FrontendKey,
    FrontendValue, NetworkValue, NodeConfig, PodNetns, PodValue, PolicyDenial, PolicyFlow, SocketPeerKey,
    SocketPeerValue,
};
use crate::policy::PolicyTables;

/// How an insertion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The entry is there now.
    New,
    /// Another entry was there already and stays.
    Exists,
    /// The table refused it.
    Full,
}

/// What [`Tables::repeat`] repeats.
pub trait Attempt<T> {
    /// Tries for the `number`th time, from 0 on; true: that was the last.
    fn try_once(&mut self, tables: &mut T, number: u32) -> bool;
}

/// The node's tables.
pub trait Tables: PolicyTables {
    /// The node itself.
    fn node(&self) -> Option<&NodeConfig>;
    /// A frontend.
    fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue>;
    /// The backend id at an index of the blocks.
    fn block_entry(&self, index: u32) -> Option<u32>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// How many connections a backend has, of frontends with
    /// [`FrontendValue::LEAST_CONNECTIONS`].
    fn connections(&self, id: u32) -> u32;
    /// Notes that a backend has one more.
    fn add_connection(&mut self, id: u32);
    /// Notes that a backend has one less.
    fn remove_connection(&mut self, id: u32);
    /// Counts a connection that begins to a service port. Where there is no room for another
    /// counter, it is counted among those of service 0.
    fn count_service(&mut self, service: u32);
    /// A client's affinity.
    fn affinity(&self, key: &AffinityKey) -> Option<&AffinityValue>;
    /// Binds a client to a backend.
    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue);
    /// A pod on this node.
    fn pod(&self, addr: &Addr) -> Option<&PodValue>;
    /// Notes that a pod is an end of a translated flow, see [`PodValue::nat_protocols`].
    fn mark_nat(&mut self, pod: &Addr, bit: u32);
    /// The pod that owns a network namespace.
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns>;
    /// The longest matching network.
    fn network(&self, addr: &Addr) -> Option<&NetworkValue>;
    /// Its kind, see [`NetworkValue`]; 0: none.
    #[inline(always)]
    fn network_kind(&self, addr: &Addr) -> u32 {
        self.network(addr).map_or(0, |network| network.kind)
    }
    /// Whether a client is in the source ranges of a service port.
    fn in_source_ranges(&self, service: u32, client: &Addr) -> bool;
    /// For which protocols the node has been a backend, see [`crate::abi::NodeState`].
    fn node_nat(&self) -> u32;
    /// Sets a bit of [`Self::node_nat`].
    fn mark_node_nat(&mut self, bit: u32);
    /// A flow, read and noted in place (it is large for the kernel's stack).
    fn flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut FlowValue) -> R) -> Option<R>;
    /// Adds a flow unless there is one.
    fn insert_flow(&mut self, key: &FlowKey, value: &FlowValue) -> Inserted;
    /// Gives a flow that begins its number, and shows where it is to be remembered; another that
    /// began long before it still is. `None`: nobody remembers any.
    fn begin<R>(&mut self, remember: impl FnOnce(u32, &mut FlowKey) -> R) -> Option<R>;
    /// Counts a flow that made room for later ones, because nobody had opened it.
    fn count_unopened(&mut self);
    /// Forgets a flow.
    fn remove_flow(&mut self, key: &FlowKey);
    /// The ports of a fragmented datagram.
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentValue>;
    /// Notes the ports of a fragmented datagram.
    fn set_fragment(&mut self, key: &FragmentKey, value: &FragmentValue);
    /// Where a socket was diverted.
    fn socket_peer(&self, key: &SocketPeerKey) -> Option<&SocketPeerValue>;
    /// Forgets where a socket was diverted.
    fn remove_socket_peer(&mut self, key: &SocketPeerKey);
    /// Notes where a socket is diverted.
    fn set_socket_peer(&mut self, key: &SocketPeerKey, value: &SocketPeerValue);
    /// How often what policies say has changed, from 1 on.
    fn policy_epoch(&self) -> u32;
    /// A flow of a pod that some policy selects, read and noted in place.
    fn policy_flow<R>(&mut self, key: &FlowKey, read: impl FnOnce(&mut PolicyFlow) -> R) -> Option<R>;
    /// Notes such a flow.
    fn set_policy_flow(&mut self, key: &FlowKey, value: &PolicyFlow);
    /// Counts a packet that policies denied. Where there is no room for another counter, its
    /// drop is counted by reason, as that of each of them.
    fn count_denial(&mut self, denial: &PolicyDenial);
    /// Monotonic nanoseconds.
    fn now(&self) -> u64;
    /// A uniform random number.
    fn random(&mut self) -> u32;
    /// Attempts something up to so many times. The kernel's verifier walks through a single
    /// attempt then, and through every one of a plain loop.
    #[inline(always)]
    fn repeat<A: Attempt<Self>>(&mut self, times: u32, attempt: &mut A)
    where
        Self: Sized,
    {
        for number in 0..times {
            if attempt.try_once(self, number) {
                return;
            }
        }
    }
}
