//! The endpoints of one service port, gathered from all EndpointSlices of its
//! Service as kube-proxy's slice cache gathers them.
//!
//! Invariant: slices count in the order of their names, so the outcome doesn't
//! depend on the order in which they are given.

use datapath::abi::{Addr, Be16, Family};

use crate::model::objects::{Endpoint, EndpointSlice, ServicePort};

/// An endpoint at the port that its slice gives to the service port's name.
#[derive(Clone, Copy)]
pub(super) struct MergedEndpoint<'a> {
    pub addr: Addr,
    pub port: Be16,
    pub endpoint: &'a Endpoint,
}

/// The port's endpoints in a family, sorted by address and port, each once.
/// `slices` are all of the Service's, sorted by name.
pub(super) fn merge<'a>(port: &ServicePort, family: Family, slices: &[&'a EndpointSlice]) -> Vec<MergedEndpoint<'a>> {
    let mut all = Vec::new();
    for slice in slices {
        let numbers = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in numbers {
            let of_family = slice.endpoints.iter().map(|e| (Addr::from(e.address), e));
            all.extend(of_family.filter(|(addr, _)| addr.family() == family).map(|(addr, endpoint)| MergedEndpoint {
                addr,
                port: Be16::new(number.port),
                endpoint,
            }));
        }
    }
    // The sort is stable: among duplicates the order of the slices stays.
    all.sort_by_key(|e| (e.addr, e.port.get()));
    all.dedup_by(|later, first| {
        let same = later.addr == first.addr && later.port == first.port;
        // An address may already be a new pod's while the old one's endpoint
        // still terminates, so the later wins unless it is the one that goes.
        if same && !later.endpoint.terminating {
            first.endpoint = later.endpoint;
        }
        same
    });
    all
}
