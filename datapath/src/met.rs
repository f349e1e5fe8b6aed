//! A packet's way through a program from end to end, for who has no kernel.
//!
//! Invariant: around the decisions stands here what stands around them in
//! `ebpf-programs/src/traffic.rs`; the tests hold each against the other. This module must
//! not know how a verdict is performed.

use crate::{
    abi::{EventHook, Family, PodValue},
    packet::Packet,
    paths::{self, Verdict, Work, glance},
    tables::Tables,
};

/// Where a packet is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// A pod sends it.
    FromPod,
    /// A pod sends it whose traffic somebody shapes.
    FromShapedPod,
    /// A pod sends it that some policy selects; the node's end of its veth pair.
    FromJudgedPod(u32),
    /// The same whose traffic somebody shapes.
    FromJudgedShapedPod(u32),
    /// A held pod sends it.
    FromHeldPod,
    /// The node's stack sends it to a pod.
    ToPod {
        /// The node itself made it.
        from_node: bool,
    },
    /// The node itself sends it to a Service, led through our device.
    FromHost,
    /// The node itself sends it to itself.
    FromHostLoopback,
    /// It comes over the wire.
    FromNetwork,
    /// It comes by the overlay.
    FromOverlay,
    /// The node itself sends it over the wire.
    ToNetwork,
    /// It leaves by the overlay.
    ToOverlay {
        /// The node itself made it.
        from_node: bool,
    },
}

impl Met {
    /// Where a packet is met that the pod with this entry sends, whose traffic nobody shapes.
    pub const fn from_pod(pod: &PodValue) -> Self {
        if pod.flags & PodValue::HELD != 0 {
            Self::FromHeldPod
        } else if pod.is_judged() {
            Self::FromJudgedPod(pod.ifindex)
        } else {
            Self::FromPod
        }
    }

    /// As events name it.
    pub const fn hook(self) -> EventHook {
        match self {
            Self::FromPod
            | Self::FromShapedPod
            | Self::FromJudgedPod(_)
            | Self::FromJudgedShapedPod(_)
            | Self::FromHeldPod => EventHook::FromPod,
            Self::ToPod { .. } => EventHook::ToPod,
            Self::FromHost => EventHook::FromHost,
            Self::FromHostLoopback => EventHook::Loopback,
            Self::FromNetwork | Self::FromOverlay => EventHook::FromNetwork,
            Self::ToNetwork => EventHook::ToNetwork,
            Self::ToOverlay { .. } => EventHook::ToOverlay,
        }
    }

    /// Judges a packet; what becomes of it is in `work`, which is [`Work::EMPTY`] before.
    pub fn judge<P: Packet, T: Tables>(self, packet: &mut P, family: Family, work: &mut Work, tables: &mut T) {
        let passes = match self {
            Self::FromNetwork => paths::carries_overlay(packet, family, tables),
            Self::ToNetwork => !paths::node_may_answer(tables),
            _ => false,
        };
        if passes {
            work.verdict = Verdict::Pass;
            return;
        }
        let settled = match self {
            Self::FromPod => glance::from_pod(packet, family, work, tables),
            Self::FromNetwork | Self::FromOverlay => glance::into_pod(packet, family, work, tables),
            Self::ToPod { .. } => glance::to_pod(packet, family, work, tables),
            _ => false,
        };
        if settled {
            return;
        }
        if let Err(reason) = work.read(packet, family) {
            work.verdict = Verdict::Drop(reason);
            return;
        }
        match self {
            Self::FromPod => paths::from_pod(packet, work, tables),
            Self::FromShapedPod => paths::from_shaped_pod(packet, work, tables),
            Self::FromJudgedPod(ifindex) => paths::from_judged_pod(packet, work, tables, ifindex),
            Self::FromJudgedShapedPod(ifindex) => paths::from_judged_shaped_pod(packet, work, tables, ifindex),
            Self::FromHeldPod => paths::from_held_pod(work, tables),
            Self::ToPod { from_node } => paths::to_pod(packet, work, tables, from_node),
            Self::FromHost => paths::from_host(packet, work, tables),
            Self::FromHostLoopback => paths::from_host_loopback(packet, work, tables),
            Self::FromNetwork | Self::FromOverlay => paths::from_network(packet, work, tables),
            Self::ToNetwork => paths::to_network(packet, work, tables),
            Self::ToOverlay { from_node } => paths::to_overlay(packet, work, tables, from_node),
        }
    }
}
