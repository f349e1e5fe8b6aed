//! Which of the node's addresses have NodePorts, and health checks of Services.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::flags::NodePortAddresses;
use crate::routing::NodeAddresses;

/// The node's addresses that the flags select, of those that it has.
///
/// Loopback is a matter of its own, whatever networks are given: 127.0.0.1 if
/// `localhost`, and never `::1`, as with kube-proxy.
pub fn select(
    flag: &NodePortAddresses,
    localhost: bool,
    primary: NodeAddresses,
    present: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let mut selected: BTreeSet<IpAddr> = match flag {
        NodePortAddresses::Primary => {
            primary.v4.map(IpAddr::V4).into_iter().chain(primary.v6.map(IpAddr::V6)).collect()
        }
        NodePortAddresses::Networks(networks) => {
            let is_selected = |ip: &&IpAddr| networks.iter().any(|network| network.contains(**ip));
            present.iter().filter(is_selected).copied().collect()
        }
    };
    selected.retain(|ip| !ip.is_loopback());
    if localhost {
        selected.insert(Ipv4Addr::LOCALHOST.into());
    }
    selected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::flags::List;

    #[test]
    fn addresses_by_flags() {
        let primary = NodeAddresses { v4: Some([192, 0, 2, 1].into()), v6: Some("2001:db8::1".parse().unwrap()) };
        let all = ["192.0.2.1", "192.0.2.9", "10.1.0.1", "127.0.0.1", "::1", "2001:db8::1", "2001:db8::2"];
        let check = |flag: &[&str], localhost, expected: &[&str]| {
            let networks = flag.iter().map(|network| network.parse().unwrap()).collect();
            let flag = match flag {
                [] => NodePortAddresses::Primary,
                _ => NodePortAddresses::Networks(List(networks)),
            };
            let present = all.iter().map(|ip| ip.parse().unwrap()).collect();
            let expected: BTreeSet<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(select(&flag, localhost, primary, &present), expected, "{flag:?}");
        };
        check(&[], true, &["192.0.2.1", "2001:db8::1", "127.0.0.1"]);
        check(&[], false, &["192.0.2.1", "2001:db8::1"]);
        check(&["192.0.2.0/24"], false, &["192.0.2.1", "192.0.2.9"]);
        check(&["10.0.0.0/8", "2001:db8::2/128"], true, &["10.1.0.1", "2001:db8::2", "127.0.0.1"]);
        check(&["127.0.0.0/8", "::1/128"], false, &[]);
        check(&["0.0.0.0/0"], false, &["192.0.2.1", "192.0.2.9", "10.1.0.1"]);
    }
}
