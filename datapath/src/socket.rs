//! What becomes of a socket call that names a Service.
//!
//! TCP is balanced once, at `connect()`: the socket talks straight to its
//! backend. Datagrams of the node's own unconnected sockets are balanced at
//! `sendmsg()`. Everything that isn't decided here goes out unchanged and is
//! judged packet by packet, so leaving a call alone is always right: pods' UDP
//! (which must leave a dead backend at once), connected UDP of the node, whatever
//! needs a client address that isn't known here, and whatever must reach its
//! backend from another address than the socket's own.
//!
//! The node's NodePorts at 127.0.0.0/8 are the exception: packets to these never
//! leave the loopback device, so its calls are decided here or nowhere. A pod's
//! loopback is its own.

use crate::{
    abi::{
        Addr, Backend, Be16, DialledValue, Family, FrontendValue, NodeConfig, NodeState, SocketPeerKey,
        SocketPeerValue, protocol,
    },
    destination::{self, Destination},
    select::{self, Chosen, Dial, Refusal, Scope},
    tables::Tables,
};

/// The address that a socket call names.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The named address.
    pub addr: Addr,
    /// The named port.
    pub port: Be16,
    /// An IP protocol number.
    pub protocol: u8,
}

/// The socket that makes a call. Each answer costs a call of the kernel, so none is asked for
/// that isn't needed.
pub trait Socket {
    /// Its cookie, which no other socket has until the next boot.
    fn cookie(&self) -> u64;
    /// The cookie of its network namespace.
    fn netns(&self) -> u64;
    /// What [`Socket::note_dialled`] has noted last.
    fn dialled(&self) -> Option<DialledValue>;
    /// Notes what it dialled, for as long as it lives.
    fn note_dialled(&mut self, dialled: &DialledValue);
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketVerdict {
    /// It goes on as it is.
    Unchanged,
    /// It names this address and port instead.
    Divert(Addr, Be16),
    /// It fails with ECONNREFUSED.
    Refuse,
}

/// 127.0.0.1, at which the NodePorts of all loopback addresses stand.
const LOCALHOST: Addr = Addr::v4(u32::from_ne_bytes([127, 0, 0, 1]));

/// `connect()`.
#[inline(always)]
pub fn connect<T: Tables, S: Socket>(tables: &mut T, socket: &mut S, call: &Call) -> SocketVerdict {
    if call.protocol == protocol::UDP {
        return connect_udp(tables, socket, call);
    }
    if call.protocol != protocol::TCP {
        return SocketVerdict::Unchanged;
    }
    let frontend = match find(tables, socket, call) {
        Destination::Frontend(frontend) => frontend,
        Destination::Unused => return SocketVerdict::Refuse,
        Destination::Foreign => return SocketVerdict::Unchanged,
    };
    match choose(tables, socket, call, &frontend) {
        Some(Ok(backend)) => {
            socket.note_dialled(&DialledValue {
                addr: call.addr,
                backend_addr: backend.addr,
                port: call.port,
                backend_port: backend.port,
                backend: backend.id,
            });
            count(tables, socket, &frontend, &backend);
            tables.count_service(frontend.service);
            SocketVerdict::Divert(backend.addr, backend.port)
        }
        Some(Err(Refusal::Reject)) => SocketVerdict::Refuse,
        // The packets are dropped where they are counted.
        Some(Err(Refusal::Drop(_))) | None => SocketVerdict::Unchanged,
    }
}

/// `connect()` on a datagram socket: its packets are judged, so that it leaves a dead
/// backend at once. At a loopback address they aren't: it talks to the node's own
/// address instead, if the same Service is there, else to a backend.
#[inline(always)]
fn connect_udp<T: Tables, S: Socket>(tables: &mut T, socket: &S, call: &Call) -> SocketVerdict {
    if !is_loopback(&call.addr) {
        return SocketVerdict::Unchanged;
    }
    let Destination::Frontend(frontend) = find(tables, socket, call) else { return SocketVerdict::Unchanged };
    let own = tables.node().map_or(Addr::UNSPECIFIED, |node| node.v4);
    if let Destination::Frontend(same) = destination::find(tables, own, call.port, call.protocol)
        && same.service == frontend.service
    {
        return SocketVerdict::Divert(own, call.port);
    }
    match choose(tables, socket, call, &frontend) {
        Some(Ok(backend)) => {
            tables.count_service(frontend.service);
            SocketVerdict::Divert(backend.addr, backend.port)
        }
        Some(Err(Refusal::Reject)) => SocketVerdict::Refuse,
        Some(Err(Refusal::Drop(_))) | None => SocketVerdict::Unchanged,
    }
}

/// `sendmsg()` on an unconnected datagram socket.
#[inline(always)]
pub fn send<T: Tables, S: Socket>(tables: &mut T, socket: &S, call: &Call) -> SocketVerdict {
    if call.protocol != protocol::UDP || !is_node(tables, socket) {
        return SocketVerdict::Unchanged;
    }
    let Destination::Frontend(frontend) = find(tables, socket, call) else {
        return SocketVerdict::Unchanged;
    };
    let cookie = socket.cookie();
    if let Some(peer) = kept_backend(tables, cookie, call, &frontend) {
        return SocketVerdict::Divert(peer.addr, peer.port);
    }
    match choose(tables, socket, call, &frontend) {
        Some(Ok(backend)) => {
            note(tables, cookie, call, &backend, SocketPeerKey::BY_BACKEND);
            note(tables, cookie, call, &backend, SocketPeerKey::BY_FRONTEND);
            tables.count_service(frontend.service);
            SocketVerdict::Divert(backend.addr, backend.port)
        }
        _ => SocketVerdict::Unchanged,
    }
}

/// `recvmsg()` on a datagram socket: `call` names who sent; the socket shall see
/// the Service that it wrote to.
#[inline(always)]
pub fn receive<T: Tables, S: Socket>(tables: &T, socket: &S, call: &Call) -> SocketVerdict {
    if call.protocol != protocol::UDP || !is_node(tables, socket) {
        return SocketVerdict::Unchanged;
    }
    match tables.socket_peer(&key(socket.cookie(), call, call.addr, call.port, SocketPeerKey::BY_BACKEND)) {
        Some(frontend) => SocketVerdict::Divert(frontend.addr, frontend.port),
        None => SocketVerdict::Unchanged,
    }
}

/// `getpeername()`, and `accept()`, which shows the peer's name: `call` names the backend;
/// the caller shall see the Service that it dialled.
#[inline(always)]
pub fn peer_name<S: Socket>(socket: &S, call: &Call) -> SocketVerdict {
    if call.protocol != protocol::TCP {
        return SocketVerdict::Unchanged;
    }
    match got(socket, call.addr, call.port) {
        Some(dialled) => SocketVerdict::Divert(dialled.addr, dialled.port),
        None => SocketVerdict::Unchanged,
    }
}

/// The id of the backend to which [`connect`] has diverted the socket; 0: it is noted for none there.
#[inline(always)]
pub(crate) fn backend_of<S: Socket>(socket: &S, addr: Addr, port: Be16) -> u32 {
    got(socket, addr, port).map_or(0, |dialled| dialled.backend)
}

/// What the socket dialled to get a backend there. (It may have been connected again, past any Service.)
#[inline(always)]
fn got<S: Socket>(socket: &S, addr: Addr, port: Be16) -> Option<DialledValue> {
    socket.dialled().filter(|dialled| dialled.backend_port == port && dialled.backend_addr == addr)
}

/// The socket of this cookie has been closed: it is none of its backend's connections any more.
#[inline(always)]
pub fn release<T: Tables>(tables: &mut T, cookie: impl FnOnce() -> u64) {
    if tables.node_nat() & NodeState::COUNTED == 0 {
        return;
    }
    let key = SocketPeerKey::connection(cookie());
    let Some(counted) = tables.socket_peer(&key) else { return };
    let backend = counted.backend;
    tables.remove_socket_peer(&key);
    tables.remove_connection(backend);
}

/// Counts a connection of which the frontend's backends have count. A socket that is
/// connected again has left the backend that it had.
#[inline(always)]
fn count<T: Tables, S: Socket>(tables: &mut T, socket: &S, frontend: &FrontendValue, backend: &Chosen) {
    if frontend.flags & FrontendValue::LEAST_CONNECTIONS == 0 {
        return;
    }
    let cookie = socket.cookie();
    release(tables, || cookie);
    let value = SocketPeerValue { backend: backend.id, generation: backend.generation, ..SocketPeerValue::default() };
    tables.set_socket_peer(&SocketPeerKey::connection(cookie), &value);
    tables.mark_node_nat(NodeState::COUNTED);
    tables.add_connection(backend.id);
}

/// Who makes a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A process of the node.
    Node,
    /// A pod.
    Pod,
    /// Somebody in a namespace that we don't know.
    Unknown,
}

/// Who makes the call, and the address that the socket's packets would have;
/// unspecified: it isn't known.
#[inline(always)]
fn caller<T: Tables, S: Socket>(tables: &T, socket: &S, family: Family) -> (Caller, Addr) {
    let netns = socket.netns();
    let of = |v4, v6| match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    if let Some(node) = tables.node()
        && node.netns_cookie == netns
    {
        return (Caller::Node, of(node.v4, node.v6));
    }
    match tables.pod_netns(netns) {
        Some(pod) => (Caller::Pod, of(pod.v4, pod.v6)),
        None => (Caller::Unknown, Addr::UNSPECIFIED),
    }
}

/// The address from which the packets of a call to such an address come; unspecified: it isn't known.
#[inline(always)]
pub(crate) fn caller_address<T: Tables, S: Socket>(tables: &T, socket: &S, family: Family) -> Addr {
    caller(tables, socket, family).1
}

#[inline(always)]
fn is_node<T: Tables, S: Socket>(tables: &T, socket: &S) -> bool {
    tables.node().is_some_and(|node| node.netns_cookie == socket.netns())
}

#[inline(always)]
fn is_loopback(addr: &Addr) -> bool {
    matches!(addr.family(), Family::V4) && addr.v4_word().to_ne_bytes()[0] == 127
}

/// What the call is for.
#[inline(always)]
fn find<T: Tables, S: Socket>(tables: &T, socket: &S, call: &Call) -> Destination {
    if !is_loopback(&call.addr) {
        return destination::find(tables, call.addr, call.port, call.protocol);
    }
    if !is_node(tables, socket) {
        return Destination::Foreign;
    }
    destination::find(tables, LOCALHOST, call.port, call.protocol)
}

/// A backend for the call; `None`: its packets are to be judged, since they depend on
/// an address that isn't known here, may not be served, or must be masqueraded.
#[inline(never)]
fn choose<T: Tables, S: Socket>(
    tables: &mut T,
    socket: &S,
    call: &Call,
    frontend: &FrontendValue,
) -> Option<Result<Chosen, Refusal>> {
    let (caller, address) = caller(tables, socket, call.addr.family());
    if is_masqueraded(tables, caller, frontend) {
        return None;
    }
    let is_known = !address.is_unspecified();
    if frontend.affinity_seconds != 0 && !is_known {
        return None;
    }
    if frontend.flags & FrontendValue::SOURCE_RANGES != 0
        && !(is_known && tables.in_source_ranges(frontend.service, &address))
    {
        return None;
    }
    let dial = Dial { client: address, client_port: Be16::ZERO, port: call.port, protocol: call.protocol };
    match select::select(tables, frontend, Scope::Internal, Some(&dial)) {
        // A pod that reaches itself sees the node's address.
        Ok(chosen) if chosen.addr == address && caller == Caller::Pod => None,
        result => Some(result),
    }
}

/// Whether a backend may have to see the node's address, which only a process of the
/// node shows by itself.
#[inline(always)]
fn is_masqueraded<T: Tables>(tables: &T, caller: Caller, frontend: &FrontendValue) -> bool {
    let flags = frontend.flags;
    let is_external = flags & FrontendValue::EXTERNAL != 0;
    match caller {
        Caller::Node => false,
        Caller::Pod if is_external => flags & FrontendValue::KEEP_CLIENT == 0,
        // It may be outside the cluster, as its packets show.
        Caller::Unknown if is_external => true,
        _ => tables.node().is_some_and(|node| node.flags & NodeConfig::MASQUERADE_ALL != 0),
    }
}

/// The backend that an unconnected socket's earlier datagrams to the frontend
/// went to, if it still serves.
#[inline(always)]
fn kept_backend<T: Tables>(tables: &T, cookie: u64, call: &Call, frontend: &FrontendValue) -> Option<SocketPeerValue> {
    let peer = *tables.socket_peer(&key(cookie, call, call.addr, call.port, SocketPeerKey::BY_FRONTEND))?;
    let backend = tables.backend(peer.backend)?;
    let alive = backend.generation == peer.generation
        && backend.service == frontend.service
        && backend.flags & Backend::ALIVE != 0;
    alive.then_some(peer)
}

#[inline(always)]
fn note<T: Tables>(tables: &mut T, cookie: u64, call: &Call, backend: &Chosen, end: u8) {
    let (near, far) = ((backend.addr, backend.port), (call.addr, call.port));
    let (from, to) = if end == SocketPeerKey::BY_BACKEND { (near, far) } else { (far, near) };
    let value = SocketPeerValue { addr: to.0, port: to.1, pad: 0, backend: backend.id, generation: backend.generation };
    tables.set_socket_peer(&key(cookie, call, from.0, from.1, end), &value);
}

#[inline(always)]
fn key(cookie: u64, call: &Call, addr: Addr, port: Be16, end: u8) -> SocketPeerKey {
    SocketPeerKey { cookie, addr, port, protocol: call.protocol, end, pad: 0 }
}
