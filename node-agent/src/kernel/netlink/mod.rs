//! rtnetlink, cut down to what Fairlead does with it.
//!
//! Invariant: every call is idempotent and says whether it changed something
//! where the caller needs to know; whatever Fairlead leaves behind can be
//! recognised after a restart (routes by [`ROUTE_PROTOCOL`], devices by name and
//! kind). This module must not know pods, Services or Kubernetes.

mod address;
mod events;
mod host_device;
mod host_end;
mod link;
mod neighbour;
mod overlay;
mod route;
mod shaping;
mod unreachable;
mod uplink;
mod way;

use std::io;

use tokio::task::JoinHandle;

pub use address::InterfaceAddress;
pub use events::{Event, Events};
pub use host_device::{HOST_DEVICE, HOST_DEVICE_PEER, HostDevice};
pub use host_end::HostEnd;
pub use link::{Link, VethEnd};
pub use neighbour::Neighbour;
pub use overlay::{OVERLAY_DEVICE, OVERLAY_PORT};
pub use route::{ROUTE_PROTOCOL, Route, StandingRoutes};
pub use shaping::Shaping;
pub use uplink::{Uplink, UplinkChoice};
pub use way::Way;

use super::sysctl::SysctlError;

/// A connection to the kernel's routing subsystem, in the network namespace that
/// the thread was in when it was opened.
pub struct Netlink {
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
}

/// What went wrong with a request to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be made.
    #[error("can't open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("can't {action}: {}", explain(source))]
    Refused {
        /// What was tried, with names and addresses.
        action: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// Something that isn't ours stands in the way.
    #[error("{what} exists and isn't Fairlead's: remove or rename it")]
    Foreign {
        /// The device or route.
        what: String,
    },
    /// A link that should be there isn't.
    #[error("there is no interface {0}")]
    NoLink(String),
    /// A device of ours can't be set as it must be.
    #[error(transparent)]
    Setting(#[from] SysctlError),
}

impl NetlinkError {
    fn refused(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let action = action.into();
        move |source| Self::Refused { action, source }
    }

    /// The kernel's errno (positive), if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => errno(source),
            _ => None,
        }
    }
}

impl Netlink {
    /// Opens a connection in the network namespace of the calling thread.
    ///
    /// Must be called within a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

fn explain(error: &rtnetlink::Error) -> String {
    match errno(error) {
        Some(errno) => io::Error::from_raw_os_error(errno).to_string(),
        None => error.to_string(),
    }
}

/// `Ok(false)` where the kernel says that the object isn't there (any more).
fn absent_is_fine(result: Result<(), rtnetlink::Error>, action: impl Into<String>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if matches!(errno(&e), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)) => {
            Ok(false)
        }
        Err(e) => Err(NetlinkError::refused(action)(e)),
    }
}
