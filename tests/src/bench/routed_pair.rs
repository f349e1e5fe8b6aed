//! Two nodes on a link that only the kernel routes for: the baselines of traffic between nodes.
//!
//! The link is made as a cluster's is, a bridge in a namespace of its own, so that packets pass as
//! much of the kernel on their way between nodes. What is made goes with the sandbox.

use std::net::Ipv4Addr;

use super::routed_node::{RoutedNode, RoutedPod};
use crate::sandbox::{Namespace, Sandbox};

/// How the nodes reach each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// By a route to the other node.
    Routes,
    /// By a route over a VXLAN device of the kernel's, with the other node as its only end.
    Vxlan,
}

/// Bytes that VXLAN over IPv4 adds to a packet: RFC 7348, without a VLAN tag.
const VXLAN_OVERHEAD: u32 = 50;
const LINK_MTU: u32 = 1500;
const UPLINK: &str = "eth0";

/// One of the two nodes and its only pod.
pub struct End {
    /// The node's own namespace.
    pub node: Namespace,
    /// The pod.
    pub pod: RoutedPod,
    /// The pod's address.
    pub address: Ipv4Addr,
}

/// Makes the nodes.
///
/// # Panics
/// Not root, or iproute2 is missing.
pub fn make(sandbox: &Sandbox, name: &str, between: Between) -> [End; 2] {
    let link = sandbox.namespace(&format!("{name}-link"));
    link.ip("link add nodes type bridge\nlink set nodes up");
    [1, 2].map(|number: u8| {
        let other = 3 - number;
        let address = Ipv4Addr::new(10, 244, number, 2);
        let node = RoutedNode::new(sandbox, &format!("{name}-{number}"), &[address]);
        link.ip(&format!(
            "link add uplink-{number} type veth peer name {UPLINK} netns {}
            link set uplink-{number} master nodes up",
            node.namespace().name()
        ));
        node.namespace().ip(&format!(
            "link set {UPLINK} up
            address add 192.0.2.{}/24 dev {UPLINK}",
            10 + number
        ));
        let (remote, pods) = (10 + other, format!("10.244.{other}.0/24"));
        let (namespace, mut all) = match between {
            Between::Routes => {
                node.namespace().ip(&format!("route add {pods} via 192.0.2.{remote}"));
                node.into_parts()
            }
            Between::Vxlan => {
                node.namespace().ip(&format!(
                    "link add overlay type vxlan id 1 dstport 8472 dev {UPLINK} remote 192.0.2.{remote}
                    link set overlay up
                    address add 172.31.0.{number}/24 dev overlay
                    route add {pods} via 172.31.0.{other} dev overlay"
                ));
                let mtu = LINK_MTU - VXLAN_OVERHEAD;
                node.namespace().ip(&format!("link set pod0 mtu {mtu}"));
                let (namespace, pods) = node.into_parts();
                pods[0].namespace().ip(&format!("link set eth0 mtu {mtu}"));
                (namespace, pods)
            }
        };
        End { node: namespace, pod: all.remove(0), address }
    })
}
