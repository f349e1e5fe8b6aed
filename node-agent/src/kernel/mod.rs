//! The kernel's edge: the only place that makes system calls about networking.

pub mod netlink;
pub mod netns;
pub mod sysctl;
