//! A pod's interface: who has it, what it is called, which addresses it has.
//!
//! Invariant: the node's end's name and the pod's MAC address follow from the
//! [`AttachmentId`] alone, so a plugin without an agent and an agent without its
//! memory still find the interface.

use std::{
    fmt,
    hash::Hasher,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use fnv::FnvHasher;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::mac::Mac;
use crate::model::objects::ObjectKey;

/// What a container runtime calls an attachment: the container's id and the
/// interface's name in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// The Pod that an attachment is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodName {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
}

/// An interface of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Who.
    pub id: AttachmentId,
    /// The name of the CNI network configuration that it belongs to.
    pub network: String,
    /// The Pod, if the runtime named it.
    pub pod: Option<PodName>,
    /// Its addresses, IPv4 first; at most one of each family unless an IPAM plugin gave more.
    pub addresses: Vec<IpAddr>,
    /// What the IPAM plugin said beside the addresses, if they are from one.
    #[serde(default)]
    pub delegated: Option<Delegated>,
    /// Ports of the node that are the pod's.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// When it was attached: milliseconds since 1970, and later than every other that
    /// was there then. The agent decides; in a request it means nothing.
    #[serde(default)]
    pub since: i64,
    /// The name of the node's end of the veth pair.
    pub host_ifname: String,
    /// The index of the node's end; another after a reboot.
    pub host_ifindex: u32,
    /// The MAC address of the pod's end.
    pub pod_mac: Mac,
    /// The MTU of both ends, in bytes.
    pub mtu: u32,
    /// The path by which the runtime knows the pod's network namespace.
    pub netns: PathBuf,
    /// The cookie of the pod's network namespace: what socket hooks see.
    pub netns_cookie: u64,
    /// Shut to all but the node until the Pod is known and its policies are in
    /// force. The agent decides; in a request it means nothing.
    #[serde(default)]
    pub held: bool,
}

/// A port of the node that leads to one of the pod's: `portMappings` of CNI's conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The address of the node at which it is; unspecified: all of that family; none: all.
    pub ip: Option<IpAddr>,
    /// The node's port, never 0.
    pub port: u16,
    /// The pod's port, never 0.
    pub container_port: u16,
    /// An IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
}

/// What an IPAM plugin said of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delegated {
    /// Where the pod is to have routes to; in a family of which there are none, the
    /// default route is meant.
    pub routes: Vec<IpNetwork>,
    /// Its `dns` section.
    pub dns: Dns,
}

/// A `dns` section: not ours to use, only to hand on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Name servers' addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Attachment {
    /// Where the pod has routes to, all by way of the node.
    pub fn routes(&self) -> Vec<IpNetwork> {
        let given = self.delegated.iter().flat_map(|delegated| &delegated.routes);
        let is_ours = |network: &&IpNetwork| self.addresses.iter().any(|ip| ip.is_ipv6() == network.is_ipv6());
        let mut routes: Vec<IpNetwork> = given.filter(is_ours).copied().collect();
        for ipv6 in [false, true] {
            let has_address = self.addresses.iter().any(|ip| ip.is_ipv6() == ipv6);
            if has_address && !routes.iter().any(|route| route.is_ipv6() == ipv6) {
                routes.push(default_network(ipv6));
            }
        }
        routes
    }
}

/// All addresses of a family.
fn default_network(ipv6: bool) -> IpNetwork {
    const V4: IpNetwork = IpNetwork::V4(ipnetwork::Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).expect("0 bits"));
    const V6: IpNetwork = IpNetwork::V6(ipnetwork::Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0).expect("0 bits"));
    if ipv6 { V6 } else { V4 }
}

const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Whether an interface's name has the form of those of pods' interfaces on the node.
pub fn is_host_ifname(name: &str) -> bool {
    name.strip_prefix("fl").is_some_and(|rest| rest.len() == 13 && rest.bytes().all(|byte| DIGITS.contains(&byte)))
}

impl AttachmentId {
    /// The name of the node's end: `fl` and 13 characters, 15 being the most that Linux allows.
    pub fn host_ifname(&self) -> String {
        let hash = self.hash64();
        let digit = |i: u32| char::from(DIGITS[(hash.rotate_right(5 * i) & 31) as usize]);
        let mut name = String::from("fl");
        name.extend((0..13).map(digit));
        name
    }

    /// The MAC address of the pod's end: unicast and locally administered.
    pub fn pod_mac(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.hash64().to_be_bytes();
        Mac([(a | 0b10) & !0b01, b, c, d, e, f])
    }

    fn hash64(&self) -> u64 {
        // A hash that no release of anything will change: names outlive processes.
        let mut hasher = FnvHasher::default();
        hasher.write(self.container_id.as_bytes());
        hasher.write_u8(0);
        hasher.write(self.ifname.as_bytes());
        // FNV leaves neighbouring ids alike in the high bits; Stafford's mix 13 spreads them.
        let mut hash = hasher.finish();
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

impl PodName {
    /// The Pod as the model calls it.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.as_str(), self.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.to_owned(), ifname: ifname.to_owned() }
    }

    #[test]
    fn names_are_valid_and_stable() {
        let id = id("3f2a", "eth0");
        // Interfaces on running nodes have these: a change here orphans them.
        assert_eq!(id.host_ifname(), "flntoxreimwgd4z");
        assert!(is_host_ifname(&id.host_ifname()));
        assert!(!is_host_ifname("fairlead-vxlan") && !is_host_ifname("flannel.1"));
        assert_eq!(id.pod_mac().to_string(), "9e:0c:d6:62:09:1b");
    }

    #[test]
    fn names_and_macs_differ() {
        let ids: Vec<_> =
            (0..2000).flat_map(|i| [id(&format!("c{i}"), "eth0"), id(&format!("c{i}"), "net1")]).collect();
        let names: HashSet<_> = ids.iter().map(AttachmentId::host_ifname).collect();
        let macs: HashSet<_> = ids.iter().map(AttachmentId::pod_mac).collect();
        assert_eq!((names.len(), macs.len()), (ids.len(), ids.len()));
        assert!(names.iter().all(|n| n.len() == 15));
        assert!(macs.iter().all(|m| m.0[0] & 0b11 == 0b10));
        assert_ne!(id("a", "bc").host_ifname(), id("ab", "c").host_ifname());
    }
}
