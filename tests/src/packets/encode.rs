//! The tables' entries as the kernel holds them: bytes, field by field.
//!
//! Written from the layout that `datapath::abi` promises, not from memory: a field
//! that moves makes the kernel's answers wrong here.

use datapath::abi::{
    Addr, AffinityKey, AffinityValue, Backend, Be16, Beginnings, BlockRef, Event, EventControl, FlowKey, FlowValue,
    FragmentKey, FragmentValue, FrontendKey, FrontendValue, NetworkValue, NodeConfig, NodeState, PodValue,
    PolicyDenial, PolicyFlow, PolicyPeerKey, PolicyVerdict, PolicyVerdictKey,
};

/// A type with a fixed place for each of its bytes.
pub trait Encode: Sized {
    /// Appends its bytes.
    fn put(&self, to: &mut Vec<u8>);

    /// Takes its bytes from the front. Panics if there are too few.
    fn take(from: &mut &[u8]) -> Self;

    /// Its bytes, `N` of them. Panics if it has another size.
    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = Vec::with_capacity(N);
        self.put(&mut bytes);
        bytes.try_into().unwrap_or_else(|bytes: Vec<u8>| panic!("{} bytes where the map has {N}", bytes.len()))
    }

    /// From all of its bytes. Panics if they are too many or too few.
    fn from_bytes(mut bytes: &[u8]) -> Self {
        let value = Self::take(&mut bytes);
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
        value
    }
}

macro_rules! integers {
    ($($type:ty),+) => { $(
        impl Encode for $type {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend(self.to_ne_bytes());
            }
            fn take(from: &mut &[u8]) -> Self {
                let (bytes, rest) = from.split_first_chunk().expect("the map has a byte for each");
                *from = rest;
                Self::from_ne_bytes(*bytes)
            }
        }
    )+ };
}

macro_rules! structures {
    ($($type:ident { $($field:ident),+ })+) => { $(
        impl Encode for $type {
            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)+
            }
            fn take(from: &mut &[u8]) -> Self {
                $(let $field = Encode::take(from);)+
                Self { $($field),+ }
            }
        }
    )+ };
}

integers!(u8, u16, u32, u64);

impl<T: Encode + Copy + Default, const N: usize> Encode for [T; N] {
    fn put(&self, to: &mut Vec<u8>) {
        self.iter().for_each(|item| item.put(to));
    }
    fn take(from: &mut &[u8]) -> Self {
        [(); N].map(|()| T::take(from))
    }
}

impl Encode for Addr {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
    }
    fn take(from: &mut &[u8]) -> Self {
        Self(Encode::take(from))
    }
}

impl Encode for Be16 {
    fn put(&self, to: &mut Vec<u8>) {
        self.wire().put(to);
    }
    fn take(from: &mut &[u8]) -> Self {
        Self::from_wire(Encode::take(from))
    }
}

structures! {
    NodeConfig { netns_cookie, v4, v6, snat_port_first, snat_port_last, host_ifindex, overlay_ifindex, flags, held_until }
    NodeState { nat_protocols }
    FrontendKey { addr, port, protocol, pad }
    BlockRef { base, len }
    FrontendValue { service, flags, internal, external, affinity_seconds, pad }
    Backend { addr, port, flags, service, generation, pad }
    AffinityKey { client, service }
    AffinityValue { backend, generation, last_used }
    PodValue { ifindex, flags, nat_protocols, mac, pad, policy_set, judged_since }
    NetworkValue { kind, tunnel }
    FlowKey { src, dst, src_port, dst_port, protocol }
    FlowValue { src, dst, src_port, dst_port, service, backend, generation, flags, last_seen }
    Beginnings { begun, unopened }
    FragmentKey { src, dst, id, protocol }
    FragmentValue { src_port, dst_port, protocol }
    PolicyPeerKey { addr, generation }
    PolicyVerdictKey { set, class, direction }
    PolicyVerdict { rule, ports }
    PolicyFlow { last_seen, egress, ingress }
    PolicyDenial { rule, set, direction }
    Event {
        time, src, dst, new_src, new_dst, src_port, dst_port, new_src_port, new_dst_port, service, backend, rule, reason,
        set, kind, hook, protocol, pad
    }
    EventControl { until, per_tenth }
}
