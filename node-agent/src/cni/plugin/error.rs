//! What the plugin says when it fails: the specification's error object and codes.

use serde_json::{Value, json};

use super::version::CniVersion;
use crate::{
    api::{client::ClientError, protocol::FailureReason},
    kernel::{netlink::NetlinkError, netns::NetnsError, sysctl::SysctlError},
};

/// The specification's codes, and from 100 on ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Not ours: an IPAM plugin failed with it.
    OfPlugin(u32),
    /// The configuration is of a version that the plugin doesn't speak.
    IncompatibleVersion,
    /// The configuration has a field that the plugin can't honour.
    UnsupportedField,
    /// The container isn't known; nothing has to be cleaned up.
    UnknownContainer,
    /// A `CNI_` variable is missing or invalid.
    InvalidEnvironment,
    /// Reading or writing failed.
    Io,
    /// The configuration is not JSON.
    Decode,
    /// The configuration makes no sense.
    InvalidConfig,
    /// It will work later.
    TryAgain,
    /// STATUS: an ADD would fail.
    NotReady,
    /// No address is left.
    PoolExhausted,
    /// The pod has an interface of that name that isn't ours.
    InterfaceExists,
    /// The kernel refused.
    Kernel,
    /// The agent can't save which pod has which address.
    Storage,
    /// CHECK: the interface isn't as it should be.
    Mismatch,
    /// Plugin and agent don't understand each other.
    Protocol,
}

impl Code {
    /// The number that the runtime is told.
    pub const fn number(self) -> u32 {
        match self {
            Self::OfPlugin(number) => number,
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgain => 11,
            Self::NotReady => 50,
            Self::PoolExhausted => 100,
            Self::InterfaceExists => 101,
            Self::Kernel => 102,
            Self::Storage => 103,
            Self::Mismatch => 104,
            Self::Protocol => 105,
        }
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// The code.
    pub code: Code,
    /// What happened and what to do about it.
    pub message: String,
}

impl CniError {
    /// An error with a code.
    pub fn new(code: Code, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// The error object.
    pub fn to_json(&self, version: CniVersion) -> Value {
        json!({ "cniVersion": version.as_str(), "code": self.code.number(), "msg": self.message })
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NoAgent { .. } | ClientError::TimedOut { .. } => Code::TryAgain,
            ClientError::Io { .. } | ClientError::NoPermission { .. } => Code::Io,
            ClientError::Protocol(_) | ClientError::Foreign { .. } => Code::Protocol,
            ClientError::Failed(failure) => match failure.reason {
                FailureReason::BadRequest => Code::InvalidConfig,
                FailureReason::TryAgain => Code::TryAgain,
                FailureReason::PoolExhausted => Code::PoolExhausted,
                FailureReason::NotFound => Code::UnknownContainer,
                FailureReason::Mismatch => Code::Mismatch,
                FailureReason::Storage => Code::Storage,
                FailureReason::Kernel => Code::Kernel,
            },
        };
        Self::new(code, error)
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> Self {
        let code = if matches!(error, NetlinkError::Foreign { .. }) { Code::InterfaceExists } else { Code::Kernel };
        Self::new(code, error)
    }
}

impl From<SysctlError> for CniError {
    fn from(error: SysctlError) -> Self {
        Self::new(Code::Kernel, error)
    }
}

impl From<NetnsError> for CniError {
    fn from(error: NetnsError) -> Self {
        match error {
            NetnsError::Open { .. } | NetnsError::NotANetns(_) => {
                Self::new(Code::InvalidEnvironment, format!("CNI_NETNS: {error}"))
            }
            _ => Self::new(Code::Kernel, error),
        }
    }
}
