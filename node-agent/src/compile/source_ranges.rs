//! `loadBalancerSourceRanges`: whom a Service's load balancer addresses serve.
//!
//! Invariant: a range that can't be read widens nothing.

use datapath::abi::{Addr, Family};
use ipnetwork::IpNetwork;

use super::{NodeContext, SourceRange};
use crate::model::objects::Service;

/// The clients of a family that are served; `None`: all of them.
///
/// As kube-proxy has it: ranges of the other family restrict nobody, and one of
/// length 0 admits everybody. Where the node is in a range, the load balancer's own
/// addresses (`vips`) are too: they may be the node's, and so the source of its packets.
/// Unlike kube-proxy, where none of the family can be read nobody is served.
pub(super) fn source_ranges(
    service: &Service,
    family: Family,
    vips: &[Addr],
    node: &NodeContext,
) -> Option<Vec<SourceRange>> {
    let of_family = |range: &&IpNetwork| range.is_ipv4() == (family == Family::V4);
    let ranges: Vec<&IpNetwork> = service.source_ranges.iter().filter(of_family).collect();
    if ranges.iter().any(|range| range.prefix() == 0) || (ranges.is_empty() && !service.unread_source_ranges) {
        return None;
    }
    let holds_node = |range: &&IpNetwork| match range {
        IpNetwork::V4(range) => node.v4.is_some_and(|ip| range.contains(ip)),
        IpNetwork::V6(range) => node.v6.is_some_and(|ip| range.contains(ip)),
    };
    let own = if ranges.iter().any(holds_node) { vips } else { &[] };
    let own =
        own.iter().filter(|addr| addr.family() == family).map(|addr| SourceRange { addr: *addr, prefix_len: 128 });
    let mut networks: Vec<SourceRange> = ranges.iter().map(|range| network(range)).chain(own).collect();
    networks.sort_unstable();
    networks.dedup();
    Some(networks)
}

fn network(range: &IpNetwork) -> SourceRange {
    let v4_bits = if range.is_ipv4() { 96 } else { 0 };
    SourceRange { addr: range.network().into(), prefix_len: u32::from(range.prefix()) + v4_bits }
}
