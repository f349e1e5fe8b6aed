//! What a socket was told its peer is, when a hook sent it elsewhere.

use super::{Addr, Be16, assert_size};

/// A socket and the backend it talks to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketPeerKey {
    /// The kernel's cookie of the socket.
    pub cookie: u64,
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port.
    pub port: Be16,
    /// An IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// The frontend that the socket dialled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketPeerValue {
    /// The Service's address.
    pub addr: Addr,
    /// The Service's port.
    pub port: Be16,
    /// Zero.
    pub pad: u16,
    /// The backend's id.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
}

assert_size!(SocketPeerKey = 32, SocketPeerValue = 28);
