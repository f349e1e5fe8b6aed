//! Where the packet of a question is met.

use datapath::{abi::PodValue, met::Met};

/// Where a packet is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A pod of this node sends it: what its entry says.
    FromPod(PodValue),
    /// The node itself sends it to a Service, led through our device.
    FromHost,
    /// The node itself sends it to itself.
    FromHostLoopback,
    /// It comes over the wire or by the overlay.
    FromNetwork,
    /// The node itself sends it to a pod.
    NodeToPod,
}

impl Place {
    /// Which program's way it is.
    pub const fn met(self) -> Met {
        match self {
            Self::FromPod(pod) => Met::from_pod(&pod),
            Self::FromHost => Met::FromHost,
            Self::FromHostLoopback => Met::FromHostLoopback,
            Self::FromNetwork => Met::FromNetwork,
            Self::NodeToPod => Met::ToPod { from_node: true },
        }
    }
}
