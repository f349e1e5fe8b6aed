//! The node itself: its addresses, uplinks and MTU, its own device, and what the
//! programs are told of it.
//!
//! Invariant: everything here follows from the Node object, the flags and the
//! interfaces as they are now; looking again changes only what differs. This
//! module must not know Services or pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use datapath::abi::{Addr, NetworkValue, NodeConfig};
use ipnetwork::IpNetwork;
use tracing::info;

use super::{dataplane::Dataplane, problems::Problems, snat_ports};
use crate::{
    kernel::{
        links::{Hook, LinkError},
        map::MapError,
        netlink::{HostDevice, InterfaceAddress, Link, Netlink, NetlinkError, Uplink},
        netns::{self, NetnsError},
        node_tables::NodeTables,
        programs::Program,
        sysctl::{self, SysctlError},
    },
    model::{Model, objects::Node as NodeObject},
};

const DEFAULT_MTU: u32 = 1500;
const PORT_RANGE: &str = "ipv4/ip_local_port_range";

/// The node's primary addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// IPv4, if it has any.
    pub v4: Option<Ipv4Addr>,
    /// IPv6, if it has any.
    pub v6: Option<Ipv6Addr>,
}

/// Why the node can't be set up.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum NodeError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// What is known of the node.
#[derive(Debug)]
pub struct Node {
    devices: Vec<String>,
    fixed_mtu: Option<u32>,
    netns_cookie: u64,
    config: NodeConfig,
    /// None until they are known: those that an earlier agent wrote stay till then.
    service_cidrs: Option<Vec<IpNetwork>>,
    own_addresses: BTreeSet<IpAddr>,
    networks: Option<BTreeMap<IpNetwork, NetworkValue>>,
    host_device: Option<HostDevice>,
    uplinks: Vec<Link>,
    sources: NodeAddresses,
    mtu: u32,
}

impl Node {
    /// A node with these flags, of which nothing else is known yet.
    pub fn new(devices: Vec<String>, fixed_mtu: Option<u32>) -> Result<Self, NodeError> {
        Ok(Self {
            devices,
            fixed_mtu,
            netns_cookie: netns::current_cookie()?,
            config: NodeConfig::default(),
            service_cidrs: None,
            own_addresses: BTreeSet::new(),
            networks: None,
            host_device: None,
            uplinks: Vec::new(),
            sources: NodeAddresses::default(),
            mtu: fixed_mtu.unwrap_or(DEFAULT_MTU),
        })
    }

    /// The cookie of the node's network namespace.
    pub fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The MTU of pods' interfaces, in bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The index of the device into which the node's packets for Services are
    /// routed, and the source addresses of such routes.
    pub fn host_device(&self) -> Option<(u32, NodeAddresses)> {
        self.host_device.as_ref().map(|device| (device.outer.index, self.sources))
    }

    /// Sets what the kernel must be told once.
    pub fn enable_forwarding(&self) -> Result<(), SysctlError> {
        sysctl::enable_forwarding()?;
        sysctl::localize_reverse_path_filter()
    }

    /// Looks at the interfaces and tells the programs of what differs.
    pub async fn look(
        &mut self,
        model: &Model,
        netlink: &Netlink,
        tables: &NodeTables,
        problems: &mut Problems,
    ) -> Result<(), NodeError> {
        let stated = model.own_node().map(|node| node.addresses.as_slice()).unwrap_or_default();
        let uplinks = self.find_uplinks(netlink, stated, problems).await?;
        let present = netlink.addresses().await?;
        let on_uplinks: Vec<IpAddr> = uplinks.iter().flat_map(|u| u.addresses.iter().map(|(ip, _)| *ip)).collect();
        let primary = primary(stated.iter().chain(&on_uplinks).copied());
        let is_present = |ip: &IpAddr| present.iter().any(|address: &InterfaceAddress| address.ip == *ip);
        self.sources = self::primary(stated.iter().chain(&on_uplinks).copied().filter(is_present));
        let mtu = self.fixed_mtu.or_else(|| uplinks.iter().map(|uplink| uplink.link.mtu).min());
        self.mtu = mtu.unwrap_or(DEFAULT_MTU);
        self.own_addresses = stated.iter().copied().chain(present.iter().map(|address| address.ip)).collect();
        self.uplinks = uplinks.iter().map(|uplink| uplink.link.clone()).collect();
        let device = netlink.host_device(self.mtu).await?;
        let ports = self.masquerade_ports(problems);
        let config = NodeConfig {
            netns_cookie: self.netns_cookie,
            v4: primary.v4.map(Addr::from).unwrap_or_default(),
            v6: primary.v6.map(Addr::from).unwrap_or_default(),
            snat_port_first: ports.0,
            snat_port_last: ports.1,
            host_ifindex: device.outer.index,
            overlay_ifindex: 0,
            flags: 0,
        };
        self.host_device = Some(device);
        if self.config != config {
            tables.set_config(&config)?;
            info!(v4 = %config.v4, v6 = %config.v6, mtu = self.mtu, uplinks = uplinks.len(), "this node");
            self.config = config;
        }
        self.write_networks(tables)?;
        Ok(())
    }

    /// Tells the programs where ClusterIPs are.
    pub fn set_service_cidrs(&mut self, service_cidrs: &[IpNetwork], tables: &NodeTables) -> Result<(), MapError> {
        self.service_cidrs = Some(service_cidrs.to_vec());
        self.write_networks(tables)
    }

    fn write_networks(&mut self, tables: &NodeTables) -> Result<(), MapError> {
        let of_kind = |kind| move |network| (network, NetworkValue::of_kind(kind));
        let services = self.service_cidrs.iter().flatten().copied().map(of_kind(NetworkValue::SERVICE));
        let own = self.own_addresses.iter().copied().map(IpNetwork::from).map(of_kind(NetworkValue::NODE));
        let networks = services.chain(own).collect();
        if self.networks.as_ref() != Some(&networks) {
            tables.add_networks(&networks)?;
            self.networks = Some(networks);
        }
        if let (Some(_), Some(networks)) = (&self.service_cidrs, &self.networks) {
            tables.prune_networks(networks)?;
        }
        Ok(())
    }

    /// How many networks the programs know.
    pub fn networks(&self) -> usize {
        self.networks.as_ref().map_or(0, BTreeMap::len)
    }

    /// The interfaces through which the node reaches the world.
    pub fn uplinks(&self) -> &[Link] {
        &self.uplinks
    }

    /// The hooks of the node's own interfaces, and the program for each.
    pub fn hooks(&self) -> Vec<(Hook, Program)> {
        let uplinks = self.uplinks.iter().map(|link| (Hook::Ingress(link.index), Program::FromNetwork));
        let host = self.host_device.iter().map(|device| (Hook::Egress(device.outer.index), Program::FromHost));
        uplinks.chain(host).collect()
    }

    /// Sees to it that the programs are at the node's own interfaces; `replace`
    /// those that are there already, as an earlier agent's.
    pub fn attach(&self, dataplane: &Dataplane, replace: bool) -> Result<(), LinkError> {
        for (hook, program) in self.hooks() {
            if !replace && dataplane.is_attached(hook) {
                continue;
            }
            match dataplane.attach(hook, program) {
                // Uplinks come and go; the next look will see.
                Err(error) if error.is_gone() => {}
                result => result?,
            }
        }
        Ok(())
    }

    async fn find_uplinks(
        &self,
        netlink: &Netlink,
        node_addresses: &[IpAddr],
        problems: &mut Problems,
    ) -> Result<Vec<Uplink>, NetlinkError> {
        if self.devices.is_empty() {
            return netlink.uplinks(node_addresses).await;
        }
        let addresses = netlink.addresses().await?;
        let mut uplinks = Vec::new();
        for name in &self.devices {
            let Some(link) = netlink.link(name).await? else {
                problems.set(&format!("--devices {name}"), "there is no such interface");
                continue;
            };
            problems.clear(&format!("--devices {name}"));
            let own = addresses.iter().filter(|address| address.ifindex == link.index && address.global);
            let addresses = own.map(|address| (address.ip, address.prefix_len)).collect();
            uplinks.push(Uplink { link, addresses, default_route: false });
        }
        Ok(uplinks)
    }

    fn masquerade_ports(&self, problems: &mut Problems) -> (u16, u16) {
        let local = sysctl::read(PORT_RANGE).and_then(|text| snat_ports::parse_local_range(&text));
        match local.and_then(snat_ports::choose) {
            Some(ports) => {
                problems.clear(PORT_RANGE);
                (*ports.start(), *ports.end())
            }
            None => {
                problems.set(PORT_RANGE, "leaves no 1024 ports in a row for masquerading; set it to 32768 60999");
                (0, 0)
            }
        }
    }
}

/// Where ClusterIPs are: what the flag says, else what the ServiceCIDR objects say.
pub fn service_cidrs(flag: &[IpNetwork], model: &Model) -> Vec<IpNetwork> {
    if !flag.is_empty() {
        return flag.to_vec();
    }
    let of_objects = model.service_cidrs().flat_map(|object| object.cidrs.iter());
    let networks: BTreeSet<_> = of_objects.filter_map(|c| IpNetwork::new(c.network(), c.prefix()).ok()).collect();
    networks.into_iter().collect()
}

/// Whether load balancers should leave the node alone.
pub fn is_deleting(node: Option<&NodeObject>) -> bool {
    node.is_some_and(|node| node.deleting)
}

/// The first address of each family.
fn primary(addresses: impl Iterator<Item = IpAddr>) -> NodeAddresses {
    let mut first = NodeAddresses::default();
    for address in addresses {
        match address {
            IpAddr::V4(v4) => first.v4 = first.v4.or(Some(v4)),
            IpAddr::V6(v6) => first.v6 = first.v6.or(Some(v6)),
        }
    }
    first
}
