//! What a socket was told its peer is, when a hook sent it elsewhere.
//!
//! What a connected socket dialled is kept with the socket itself, for `getpeername`. An
//! unconnected one has an entry by backend for each Service, for the way back (`recvmsg`),
//! and one by frontend, so that its datagrams keep to one backend.

use super::{Addr, Be16, assert_size};

/// A socket and one end of its diversion.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketPeerKey {
    /// The kernel's cookie of the socket.
    pub cookie: u64,
    /// The address of that end.
    pub addr: Addr,
    /// The port of that end.
    pub port: Be16,
    /// An IP protocol number.
    pub protocol: u8,
    /// [`SocketPeerKey::BY_BACKEND`], [`SocketPeerKey::BY_FRONTEND`] or
    /// [`SocketPeerKey::CONNECTION`].
    pub end: u8,
    /// Zero.
    pub pad: u32,
}

impl SocketPeerKey {
    /// `addr` and `port` are the backend's, the value holds the frontend's.
    pub const BY_BACKEND: u8 = 0;
    /// `addr` and `port` are the frontend's, the value holds the backend's.
    pub const BY_FRONTEND: u8 = 1;
    /// There is no end: the value's backend counts the socket among its connections.
    pub const CONNECTION: u8 = 2;

    /// The key by which a socket's backend counts it.
    #[inline(always)]
    pub const fn connection(cookie: u64) -> Self {
        Self { cookie, addr: Addr::UNSPECIFIED, port: Be16::ZERO, protocol: 0, end: Self::CONNECTION, pad: 0 }
    }
}

/// The other end.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketPeerValue {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Be16,
    /// Zero.
    pub pad: u16,
    /// The backend's id.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
}

/// What a connected socket dialled, and what it got.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DialledValue {
    /// The frontend's address.
    pub addr: Addr,
    /// The backend's address.
    pub backend_addr: Addr,
    /// The frontend's port.
    pub port: Be16,
    /// The backend's port.
    pub backend_port: Be16,
    /// The backend's id.
    pub backend: u32,
}

assert_size!(SocketPeerKey = 32, SocketPeerValue = 28, DialledValue = 40);
