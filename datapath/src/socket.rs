//! What becomes of a socket call that names a Service.
//!
//! TCP is balanced once, at `connect()`: the socket talks straight to its
//! backend. Datagrams of the node's own unconnected sockets are balanced at
//! `sendmsg()`. Everything that isn't decided here goes out unchanged and is
//! judged packet by packet, so leaving a call alone is always right: pods' UDP
//! (which must leave a dead backend at once), connected UDP of the node, and
//! whatever needs a client address that isn't known here.

use crate::{
    abi::{Addr, Backend, Be16, Family, FrontendValue, SocketPeerKey, SocketPeerValue, protocol},
    destination::{self, Destination},
    select::{self, Chosen, Refusal, Scope},
    tables::Tables,
};

/// A socket call and the address that it names.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The named address.
    pub addr: Addr,
    /// The named port.
    pub port: Be16,
    /// An IP protocol number.
    pub protocol: u8,
    /// The socket's cookie.
    pub socket: u64,
    /// The cookie of its network namespace.
    pub netns: u64,
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

/// `connect()`.
#[inline(always)]
pub fn connect<T: Tables>(tables: &mut T, call: &Call) -> SocketVerdict {
    if call.protocol != protocol::TCP {
        return SocketVerdict::Unchanged;
    }
    let frontend = match destination::find(tables, call.addr, call.port, call.protocol) {
        Destination::Frontend(frontend) => frontend,
        Destination::Unused => return SocketVerdict::Refuse,
        Destination::Foreign => return SocketVerdict::Unchanged,
    };
    let Some(chosen) = choose(tables, call, &frontend) else { return SocketVerdict::Unchanged };
    match chosen {
        Ok(backend) => {
            note(tables, call, &backend, SocketPeerKey::BY_BACKEND);
            SocketVerdict::Divert(backend.addr, backend.port)
        }
        Err(Refusal::Reject) => SocketVerdict::Refuse,
        // The packets are dropped where they are counted.
        Err(Refusal::Drop(_)) => SocketVerdict::Unchanged,
    }
}

/// `sendmsg()` on an unconnected datagram socket.
#[inline(always)]
pub fn send<T: Tables>(tables: &mut T, call: &Call) -> SocketVerdict {
    if call.protocol != protocol::UDP || !is_node(tables, call.netns) {
        return SocketVerdict::Unchanged;
    }
    let Destination::Frontend(frontend) = destination::find(tables, call.addr, call.port, call.protocol) else {
        return SocketVerdict::Unchanged;
    };
    if let Some(peer) = kept_backend(tables, call, &frontend) {
        return SocketVerdict::Divert(peer.addr, peer.port);
    }
    match choose(tables, call, &frontend) {
        Some(Ok(backend)) => {
            note(tables, call, &backend, SocketPeerKey::BY_BACKEND);
            note(tables, call, &backend, SocketPeerKey::BY_FRONTEND);
            SocketVerdict::Divert(backend.addr, backend.port)
        }
        _ => SocketVerdict::Unchanged,
    }
}

/// `recvmsg()` on a datagram socket: `call` names who sent; the socket shall see
/// the Service that it wrote to.
#[inline(always)]
pub fn receive<T: Tables>(tables: &T, call: &Call) -> SocketVerdict {
    if call.protocol != protocol::UDP || !is_node(tables, call.netns) {
        return SocketVerdict::Unchanged;
    }
    dialled(tables, call)
}

/// `getpeername()`: `call` names the backend; the caller shall see the Service
/// that it dialled.
#[inline(always)]
pub fn peer_name<T: Tables>(tables: &T, call: &Call) -> SocketVerdict {
    if call.protocol != protocol::TCP {
        return SocketVerdict::Unchanged;
    }
    dialled(tables, call)
}

#[inline(always)]
fn dialled<T: Tables>(tables: &T, call: &Call) -> SocketVerdict {
    match tables.socket_peer(&key(call, call.addr, call.port, SocketPeerKey::BY_BACKEND)) {
        Some(frontend) => SocketVerdict::Divert(frontend.addr, frontend.port),
        None => SocketVerdict::Unchanged,
    }
}

/// A backend for the call; `None`: it depends on the client's address, which
/// only its packets will tell.
#[inline(always)]
fn choose<T: Tables>(tables: &mut T, call: &Call, frontend: &FrontendValue) -> Option<Result<Chosen, Refusal>> {
    let client = match frontend.affinity_seconds {
        0 => None,
        _ => Some(client_address(tables, call)?),
    };
    Some(select::select(tables, frontend, Scope::Internal, client.as_ref()))
}

/// The address that the socket's packets would have.
#[inline(always)]
fn client_address<T: Tables>(tables: &T, call: &Call) -> Option<Addr> {
    let (v4, v6) = match tables.node() {
        Some(node) if node.netns_cookie == call.netns => (node.v4, node.v6),
        _ => {
            let pod = tables.pod_netns(call.netns)?;
            (pod.v4, pod.v6)
        }
    };
    let addr = match call.addr.family() {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    (!addr.is_unspecified()).then_some(addr)
}

#[inline(always)]
fn is_node<T: Tables>(tables: &T, netns: u64) -> bool {
    tables.node().is_some_and(|node| node.netns_cookie == netns)
}

/// The backend that an unconnected socket's earlier datagrams to the frontend
/// went to, if it still serves.
#[inline(always)]
fn kept_backend<T: Tables>(tables: &T, call: &Call, frontend: &FrontendValue) -> Option<SocketPeerValue> {
    let peer = *tables.socket_peer(&key(call, call.addr, call.port, SocketPeerKey::BY_FRONTEND))?;
    let backend = tables.backend(peer.backend)?;
    let alive = backend.generation == peer.generation
        && backend.service == frontend.service
        && backend.flags & Backend::ALIVE != 0;
    alive.then_some(peer)
}

#[inline(always)]
fn note<T: Tables>(tables: &mut T, call: &Call, backend: &Chosen, end: u8) {
    let (near, far) = ((backend.addr, backend.port), (call.addr, call.port));
    let (from, to) = if end == SocketPeerKey::BY_BACKEND { (near, far) } else { (far, near) };
    let value = SocketPeerValue { addr: to.0, port: to.1, pad: 0, backend: backend.id, generation: backend.generation };
    tables.set_socket_peer(&key(call, from.0, from.1, end), &value);
}

#[inline(always)]
fn key(call: &Call, addr: Addr, port: Be16, end: u8) -> SocketPeerKey {
    SocketPeerKey { cookie: call.socket, addr, port, protocol: call.protocol, end, pad: 0 }
}
