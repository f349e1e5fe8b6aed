//! A packet's way through the program that it meets, as `ebpf-programs` runs it.

use datapath::{
    abi::{Family, PodValue},
    memory::MemoryPacket,
    paths::{self, Verdict, Work, glance},
    tables::Tables,
};

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

/// Judges a packet there; what becomes of it is in `work`.
pub fn judge<T: Tables>(place: Place, tables: &mut T, family: Family, packet: &mut MemoryPacket, work: &mut Work) {
    let is_plain =
        |pod: &PodValue| pod.flags & (PodValue::HELD | PodValue::EGRESS_POLICY | PodValue::INGRESS_POLICY) == 0;
    let settled = match place {
        Place::FromPod(pod) if is_plain(&pod) && pod.flags & PodValue::SHAPED == 0 => {
            glance::from_pod(packet, family, work, tables)
        }
        Place::FromNetwork => {
            if paths::carries_overlay(packet, family, tables) {
                work.verdict = Verdict::Pass;
                return;
            }
            glance::into_pod(packet, family, work, tables)
        }
        Place::NodeToPod => glance::to_pod(packet, family, work, tables),
        _ => false,
    };
    if settled {
        return;
    }
    if let Err(reason) = work.read(packet, family) {
        work.verdict = Verdict::Drop(reason);
        return;
    }
    match place {
        Place::FromPod(pod) if pod.flags & PodValue::HELD != 0 => paths::from_held_pod(work, tables),
        Place::FromPod(pod) if is_plain(&pod) => paths::from_pod(packet, work, tables),
        Place::FromPod(pod) => paths::from_judged_pod(packet, work, tables, pod.ifindex),
        Place::FromHost => paths::from_host(packet, work, tables),
        Place::FromHostLoopback => paths::from_host_loopback(packet, work, tables),
        Place::FromNetwork => paths::from_network(packet, work, tables),
        Place::NodeToPod => paths::to_pod(packet, work, tables, true),
    }
}
