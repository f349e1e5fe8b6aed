//! The node itself: its addresses, uplinks and MTU, its own devices, and what the
//! programs are told of it.
//!
//! Invariant: everything here follows from the Node object, the flags and the
//! interfaces as they are now; looking again changes only what differs. This
//! module must not know Services or pods.

use std::{collections::BTreeSet, net::IpAddr};

use datapath::abi::{Addr, NodeConfig};
use ipnetwork::IpNetwork;
use tracing::info;

use super::{
    dataplane::Dataplane,
    flags::{Flags, LoadBalancerMode},
    peer_routes::Devices,
    problems::Problems,
    snat_ports,
    uplinks::Uplinks,
};
use crate::{
    kernel::{
        links::{Hook, LinkError},
        map::MapError,
        netlink::{HOST_DEVICE, HOST_DEVICE_PEER, HostDevice, Link, Netlink, NetlinkError, OVERLAY_DEVICE},
        netns::{self, NetnsError},
        node_tables::NodeTables,
        programs::Program,
        sysctl,
    },
    model::{Model, objects::Node as NodeObject},
    routing::{NodeAddresses, Routing, Underlay},
};

const DEFAULT_MTU: u32 = 1500;
/// The loopback device's index, in every network namespace.
const LOOPBACK: u32 = 1;
const PORT_RANGE: &str = "ipv4/ip_local_port_range";

/// Why the node can't be set up.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum NodeError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The names of the node's own devices.
const OWN_DEVICES: [&str; 3] = [HOST_DEVICE, HOST_DEVICE_PEER, OVERLAY_DEVICE];

/// Index, MTU and whether it is up, of each that is there.
type OwnDevices = [Option<(u32, u32, bool)>; OWN_DEVICES.len()];

/// Whether an interface of this name is one of the node's own devices.
pub fn is_own_device(name: &str) -> bool {
    OWN_DEVICES.contains(&name)
}

async fn own_devices(netlink: &Netlink) -> Result<OwnDevices, NetlinkError> {
    let mut devices = OwnDevices::default();
    for (device, name) in devices.iter_mut().zip(OWN_DEVICES) {
        *device = netlink.link(name).await?.map(|link| (link.index, link.mtu, link.up));
    }
    Ok(devices)
}

/// What is known of the node.
#[derive(Debug)]
pub struct Node {
    fixed_mtu: Option<u32>,
    /// [`NodeConfig::flags`].
    flags: u32,
    netns_cookie: u64,
    config: NodeConfig,
    uplinks: Uplinks,
    host_device: Option<HostDevice>,
    /// The overlay device's index and whether it is up.
    overlay: Option<(u32, bool)>,
    /// Whatever bears the names of the node's own devices.
    own_devices: OwnDevices,
    sources: NodeAddresses,
    primary: NodeAddresses,
    /// The addresses of its interfaces.
    present: BTreeSet<IpAddr>,
    mtu: u32,
}

impl Node {
    /// A node with these flags, of which nothing else is known yet.
    pub fn new(flags: &Flags) -> Result<Self, NodeError> {
        let masquerade_all = if flags.masquerade_all { NodeConfig::MASQUERADE_ALL } else { 0 };
        let direct_answers = match flags.load_balancer_mode {
            LoadBalancerMode::Snat => 0,
            LoadBalancerMode::Dsr => NodeConfig::DIRECT_ANSWERS,
        };
        let masquerade_pods = if flags.cni { NodeConfig::MASQUERADE_PODS } else { 0 };
        Ok(Self {
            fixed_mtu: flags.mtu,
            flags: masquerade_all | masquerade_pods | direct_answers,
            netns_cookie: netns::current_cookie()?,
            config: NodeConfig::default(),
            uplinks: Uplinks::new(flags.devices.0.clone()),
            host_device: None,
            overlay: None,
            own_devices: OwnDevices::default(),
            sources: NodeAddresses::default(),
            primary: NodeAddresses::default(),
            present: BTreeSet::new(),
            mtu: flags.mtu.unwrap_or(DEFAULT_MTU),
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

    /// What routes to other nodes may lead through.
    pub fn devices(&self) -> Devices {
        let overlay = self.overlay.and_then(|(ifindex, up)| up.then_some(ifindex));
        Devices { overlay, down: self.uplinks.down() }
    }

    /// The node's primary addresses.
    pub fn primary(&self) -> NodeAddresses {
        self.primary
    }

    /// The addresses of all its interfaces.
    pub fn present_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.present
    }

    /// Looks at the interfaces and tells routing and programs of what differs.
    pub async fn look(
        &mut self,
        model: &Model,
        routing: &mut Routing,
        netlink: &Netlink,
        tables: &NodeTables,
        problems: &mut Problems,
    ) -> Result<(), NodeError> {
        let stated = model.own_node().map(|node| node.addresses.as_slice()).unwrap_or_default();
        self.uplinks.look(netlink, stated, problems).await?;
        let present: BTreeSet<IpAddr> = netlink.addresses().await?.into_iter().map(|address| address.ip).collect();
        let candidates: Vec<IpAddr> = stated.iter().copied().chain(self.uplinks.addresses()).collect();
        let primary = NodeAddresses::first_of(candidates.iter().copied());
        self.sources = NodeAddresses::first_of(candidates.iter().copied().filter(|ip| present.contains(ip)));
        routing.set_underlay(Underlay {
            on_link: self.uplinks.on_link(),
            own: stated.iter().chain(&present).copied().collect(),
            sources: self.sources,
            mtu: self.uplinks.mtu().unwrap_or(DEFAULT_MTU),
        });
        self.primary = primary;
        self.present = present;
        self.mtu = self.fixed_mtu.unwrap_or_else(|| routing.pod_mtu());
        // Without it the node's own packets to Services aren't balanced one by one; all else goes on.
        self.host_device = match netlink.host_device(self.mtu).await {
            Err(error @ NetlinkError::Foreign { .. }) => {
                problems.set(HOST_DEVICE, error);
                None
            }
            made => {
                problems.clear(HOST_DEVICE);
                Some(made?)
            }
        };
        let host_ifindex = self.host_device.as_ref().map_or(0, |device| device.outer.index);
        let found = netlink.find_overlay().await;
        // One that isn't ours matters only where ours is needed.
        self.overlay = match found {
            Ok(device) => device.map(|device| (device.index, device.up)),
            Err(NetlinkError::Foreign { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        self.own_devices = own_devices(netlink).await?;
        let ports = self.masquerade_ports(problems);
        self.tell(
            tables,
            NodeConfig {
                netns_cookie: self.netns_cookie,
                v4: primary.v4.map(Addr::from).unwrap_or_default(),
                v6: primary.v6.map(Addr::from).unwrap_or_default(),
                snat_port_first: ports.0,
                snat_port_last: ports.1,
                host_ifindex,
                overlay_ifindex: self.overlay.map_or(0, |(ifindex, _)| ifindex),
                flags: self.flags,
                held_until: 0,
            },
        )?;
        Ok(())
    }

    /// Leaves to netfilter what an earlier agent left to it.
    pub fn adopt(&mut self, tables: &NodeTables) -> Result<(), MapError> {
        self.flags |= tables.config()?.flags & NodeConfig::HANDOVER;
        Ok(())
    }

    /// Says whether netfilter may know connections that the programs don't.
    pub fn set_handover(&mut self, on: bool, tables: &NodeTables) -> Result<(), MapError> {
        self.flags = self.flags & !NodeConfig::HANDOVER | if on { NodeConfig::HANDOVER } else { 0 };
        self.tell(tables, NodeConfig { flags: self.flags, ..self.config })
    }

    fn tell(&mut self, tables: &NodeTables, config: NodeConfig) -> Result<(), MapError> {
        if self.config != config {
            tables.set_config(&config)?;
            info!(v4 = %config.v4, v6 = %config.v6, mtu = self.mtu, overlay = config.overlay_ifindex, "this node");
            self.config = config;
        }
        Ok(())
    }

    /// Whether the node's own devices are otherwise than they were left: of what was done
    /// to them the kernel tells, whoever did it.
    pub async fn has_lost_devices(&self, netlink: &Netlink) -> bool {
        own_devices(netlink).await.is_ok_and(|now| now != self.own_devices)
    }

    /// Sees to it that the overlay device is there, with programs at it before any
    /// packet can reach it, and up. `check`: even if it was when last looked at.
    pub async fn raise_overlay(
        &mut self,
        mtu: u32,
        check: bool,
        netlink: &Netlink,
        tables: &NodeTables,
        dataplane: &Dataplane,
    ) -> Result<(), NodeError> {
        let [.., seen] = self.own_devices;
        if !check && self.overlay.is_some_and(|(ifindex, up)| up && seen == Some((ifindex, mtu, up))) {
            return Ok(());
        }
        let device = netlink.overlay(mtu).await?;
        self.overlay = Some((device.index, device.up));
        self.tell(tables, NodeConfig { overlay_ifindex: device.index, ..self.config })?;
        self.attach(dataplane, false)?;
        if !device.up {
            netlink.set_up(device.index).await?;
            info!(device = OVERLAY_DEVICE, mtu, "nodes on other links are reached in VXLAN");
        }
        self.overlay = Some((device.index, true));
        self.own_devices = own_devices(netlink).await?;
        Ok(())
    }

    /// Removes the overlay device, if there is one of ours.
    pub async fn drop_overlay(&mut self, netlink: &Netlink, tables: &NodeTables) -> Result<(), NodeError> {
        if self.overlay.is_none() {
            return Ok(());
        }
        netlink.delete_overlay().await?;
        self.overlay = None;
        self.own_devices = own_devices(netlink).await?;
        self.tell(tables, NodeConfig { overlay_ifindex: 0, ..self.config })?;
        info!(device = OVERLAY_DEVICE, "no node is reached in VXLAN any more");
        Ok(())
    }

    /// The interfaces through which the node reaches the world.
    pub fn uplinks(&self) -> impl Iterator<Item = &Link> {
        self.uplinks.links()
    }

    /// The hooks of the node's own interfaces, and the program for each.
    pub fn hooks(&self) -> Vec<(Hook, Program)> {
        let both = |ifindex, from, to| [(Hook::Ingress(ifindex), from), (Hook::Egress(ifindex), to)];
        let uplinks = self.uplinks.indexes().into_iter();
        let uplinks = uplinks.flat_map(|ifindex| both(ifindex, Program::FromNetwork, Program::ToNetwork));
        let overlay = self.overlay.into_iter();
        let overlay = overlay.flat_map(|(ifindex, _)| both(ifindex, Program::FromOverlay, Program::ToOverlay));
        let host = self.host_device.iter().map(|device| (Hook::Egress(device.outer.index), Program::FromHost));
        let loopback = [(Hook::Egress(LOOPBACK), Program::FromHostLoopback)];
        uplinks.chain(overlay).chain(host).chain(loopback).collect()
    }

    /// Sees to it that the programs are at the node's own interfaces; `replace`
    /// those that are there already, as an earlier agent's.
    pub fn attach(&self, dataplane: &Dataplane, replace: bool) -> Result<(), LinkError> {
        dataplane.attach_present(self.hooks(), replace)
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

/// Whether load balancers may send to the node: it is there, and stays.
pub fn is_eligible(node: Option<&NodeObject>) -> bool {
    node.is_some_and(|node| !node.deleting)
}
