//! The `netdev` family of generic netlink (Linux 6.3): what XDP can do with an
//! interface, and word when that changes.
//!
//! Invariant: one request, one answer; nothing is kept. This module must not know
//! what the answer is used for.

use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket, protocols::NETLINK_GENERIC};

use super::attributes::{attribute, attributes, find, number};

/// Larger than any answer to what is asked here.
const ANSWER: usize = 16 << 10;

const NETLINK_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// From `linux/netlink.h` and `linux/genetlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const CONTROL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

/// From `linux/netdev.h`.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_CMD_DEV_CHANGE_NTF: u8 = 4;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// What XDP can do with an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    const BASIC: u64 = 1 << 0;
    const NDO_XMIT: u64 = 1 << 2;

    /// As the kernel has them.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its driver runs programs.
    pub fn runs_programs(self) -> bool {
        self.0 & Self::BASIC != 0
    }

    /// Frames of programs on other interfaces can be sent by it.
    pub fn takes_frames(self) -> bool {
        self.0 & Self::NDO_XMIT != 0
    }
}

/// A way to ask, in the network namespace of the thread that made it.
pub struct Netdev {
    socket: Socket,
    family: u16,
    changes: u32,
}

impl Netdev {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel's; it has no such family before Linux 6.3.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let answer = ask(&socket, CONTROL, CTRL_CMD_GETFAMILY, &name)?;
        let family = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(number::<2>).map(u16::from_ne_bytes);
        let groups = find(&answer, CTRL_ATTR_MCAST_GROUPS).unwrap_or_default();
        let changes = attributes(groups).find_map(|(_, group)| {
            let is_it = find(group, CTRL_ATTR_MCAST_GRP_NAME)? == b"mgmt\0";
            is_it.then(|| find(group, CTRL_ATTR_MCAST_GRP_ID).and_then(number::<4>))?.map(u32::from_ne_bytes)
        });
        let (Some(family), Some(changes)) = (family, changes) else { return Err(io::ErrorKind::InvalidData.into()) };
        Ok(Self { socket, family, changes })
    }

    /// What XDP can do with the interface.
    ///
    /// # Errors
    /// The kernel's; ENODEV: there is no such interface.
    pub fn xdp_features(&self, ifindex: u32) -> io::Result<XdpFeatures> {
        let index = attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
        let answer = ask(&self.socket, self.family, NETDEV_CMD_DEV_GET, &index)?;
        let features = find(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(number::<8>).map(u64::from_ne_bytes);
        features.map(XdpFeatures).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Word of every change.
    ///
    /// Must be called within a tokio runtime, in the namespace that is meant.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self) -> io::Result<XdpChanges> {
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(self.changes)?;
        Ok(XdpChanges(socket))
    }
}

/// Word of every change of what XDP can do with an interface.
pub struct XdpChanges(TokioSocket);

impl XdpChanges {
    /// Waits for the next one and says of which interface; `None`: there were more than
    /// the kernel kept, of any interface. May be dropped while it waits.
    ///
    /// # Errors
    /// The socket is of no more use.
    pub async fn next(&mut self) -> io::Result<Option<u32>> {
        loop {
            let message = match self.0.recv_from_full().await {
                Ok((message, _)) => message,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Err(error) => return Err(error),
            };
            if message.get(NETLINK_HEADER) == Some(&NETDEV_CMD_DEV_CHANGE_NTF) {
                let attributes = message.get(NETLINK_HEADER + GENERIC_HEADER..).unwrap_or_default();
                if let Some(index) = find(attributes, NETDEV_A_DEV_IFINDEX).and_then(number::<4>) {
                    return Ok(Some(u32::from_ne_bytes(index)));
                }
            }
        }
    }
}

/// The attributes of the answer.
fn ask(socket: &Socket, kind: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = (NETLINK_HEADER + GENERIC_HEADER + attributes.len()) as u32;
    let mut request = Vec::with_capacity(length as usize);
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: one request is out at a time, and the kernel knows whose the socket is.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    let kind = answer.get(4..6).and_then(number::<2>).map(u16::from_ne_bytes);
    if kind == Some(NLMSG_ERROR) {
        let code = answer.get(NETLINK_HEADER..NETLINK_HEADER + 4).and_then(number::<4>).map(i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-code.unwrap_or(-libc::EIO)));
    }
    answer.get(NETLINK_HEADER + GENERIC_HEADER..).map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
